// Counts from the tables, asked for again soon after something changed; never counted here.
import { getStats } from "../api/calls";
import type { Counts, Stats } from "../api/shapes";

const SOON_MS = 800;
const AT_LATEST_MS = 30_000;

class Counters {
  stats = $state.raw<Stats | null>(null);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #product = "";
  #at = Infinity;

  lot(lotId: string | null | undefined): Counts | null {
    if (!lotId) return null;
    return this.stats?.by_lot.find((lot) => lot.lot_id === lotId) ?? null;
  }

  /** Asks soon; several changes within that time make one request, and none puts it off. */
  refresh(product: string): void {
    if (product === this.#product && this.#at <= Date.now() + SOON_MS) return;
    this.#schedule(product, SOON_MS);
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #schedule(product: string, afterMs: number): void {
    this.#product = product;
    this.#at = Date.now() + afterMs;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#load(product), afterMs);
  }

  async #load(product: string): Promise<void> {
    this.#at = Infinity;
    try {
      this.stats = await getStats(product || null);
    } catch {
      // The last counts stay; the banner tells when the server is away.
    }
    // What changed meanwhile has planned a request of its own.
    if (this.#at === Infinity) this.#schedule(product, AT_LATEST_MS);
  }
}

export const counters = new Counters();
