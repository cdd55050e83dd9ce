// The cards beside the picture: tabs on a tablet, below each other elsewhere.
import { tick } from "svelte";

export type CardName = "similar" | "report" | "types";

class Cards {
  tab = $state<CardName>("similar");

  async show(name: CardName): Promise<void> {
    this.tab = name;
    await tick();
    const card = document.querySelector(`[data-testid="${name}"]`);
    card?.scrollIntoView({ block: "start" });
  }
}

export const cards = new Cards();
