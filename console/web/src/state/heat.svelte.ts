// How pictures are overlaid: kept while parts change, so that a comparison goes on.

const BLINK_MS = 600;

class Heat {
  /** Percent. */
  opacity = $state(60);
  pinned = $state(false);
  held = $state(false);
  blinking = $state(false);
  blinkOn = $state(false);
  normalLarge = $state(false);
  #timer: ReturnType<typeof setInterval> | undefined;

  get visible(): boolean {
    return this.blinking ? this.blinkOn : this.pinned || this.held;
  }

  toggle(): void {
    this.pinned = !this.pinned;
  }

  toggleNormal(): void {
    this.normalLarge = !this.normalLarge;
  }

  /** Original and overlay in turn, slower than twice a second. */
  toggleBlink(): void {
    this.blinking = !this.blinking;
    this.blinkOn = this.blinking;
    clearInterval(this.#timer);
    if (this.blinking) {
      this.#timer = setInterval(() => {
        this.blinkOn = !this.blinkOn;
      }, BLINK_MS);
    }
  }
}

export const heat = new Heat();
