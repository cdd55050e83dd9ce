// Which of the three layouts fits: wide wall screen, tablet, phone.

export type ScreenSize = "wide" | "tablet" | "phone";

const WIDE = "(min-width: 1500px)";
const PHONE = "(max-width: 899px)";

class Screen {
  size = $state<ScreenSize>("wide");

  start(): () => void {
    const wide = window.matchMedia(WIDE);
    const phone = window.matchMedia(PHONE);
    const choose = (): void => {
      this.size = wide.matches ? "wide" : phone.matches ? "phone" : "tablet";
    };
    choose();
    wide.addEventListener("change", choose);
    phone.addEventListener("change", choose);
    return () => {
      wide.removeEventListener("change", choose);
      phone.removeEventListener("change", choose);
    };
  }
}

export const screen = new Screen();
