// The operator's page: its queue, and which image it shows.
import { isPinned } from "../record/verdict";
import type { Inspection } from "../record/inspection";
import { chooseShown, stepFrom } from "../view/shown";
import { images } from "./images.svelte";
import { site } from "./site.svelte";

export const IDLE_RELEASE_MS = 60_000;

class Operator {
  shownId = $state<string | null>(null);
  manual = $state(false);
  heldId = $state<string | null>(null);
  #touchedAt = Date.now();

  /** Every image of the chosen product, newest first. */
  readonly rows: readonly Inspection[] = $derived(
    [...images.known.values()]
      .filter((held) => !site.product || held.subject.product === site.product)
      .sort((a, b) => b.receivedMs - a.receivedMs),
  );
  readonly pinned: readonly Inspection[] = $derived(this.rows.filter(isPinned));
  readonly others: readonly Inspection[] = $derived(this.rows.filter((held) => !isPinned(held)));
  /** The order in which the queue shows them. */
  readonly queue: readonly Inspection[] = $derived([...this.pinned, ...this.others]);
  readonly shown: Inspection | null = $derived(images.get(this.shownId));
  /** NG that came while another image was picked by hand. */
  readonly waitingAlarms: readonly Inspection[] = $derived(
    this.manual ? this.pinned.filter((held) => held.image_id !== this.shownId) : [],
  );

  /** Chooses anew what is shown; to be called whenever rows or picks change. */
  follow(): void {
    this.shownId = chooseShown({
      current: this.shownId,
      manual: this.manual && images.known.has(this.shownId ?? ""),
      held: this.heldId,
      pinned: this.pinned.map((held) => held.image_id),
      rows: this.rows.map((held) => held.image_id),
    });
  }

  pick(id: string): void {
    this.manual = true;
    this.shownId = id;
    this.touch();
  }

  step(by: 1 | -1): void {
    const next = stepFrom(this.queue.map((held) => held.image_id), this.shownId, by);
    if (next) this.pick(next);
  }

  release(): void {
    this.manual = false;
    this.follow();
  }

  touch(): void {
    this.#touchedAt = Date.now();
  }

  /** Nobody is there: go back to following the line. */
  releaseIfIdle(now: number, busy: boolean): void {
    if (busy) this.touch();
    else if (this.manual && now - this.#touchedAt > IDLE_RELEASE_MS) this.release();
  }
}

export const operator = new Operator();
