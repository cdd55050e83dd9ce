// Every image that this page knows, fed by lists, details and live events in any order.
import { SvelteMap } from "svelte/reactivity";
import { getImage, listImages } from "../api/calls";
import { Problem } from "../api/problem";
import type { Delivered } from "../live/session";
import {
  applyEvent,
  emptyInspection,
  fromDetail,
  fromItem,
  merge,
  subjectOf,
  type FeedEvent,
  type Inspection,
} from "../record/inspection";
import { isPinned, machineState } from "../record/verdict";

const KEPT_ROWS = 1000;
const TRIM_AT = 1100;
const PAGE_SIZE = 200;

export type LoadState = "loading" | "ready" | "failed";

class Images {
  readonly known = new SvelteMap<string, Inspection>();
  listState = $state<LoadState>("loading");
  /** Counts what changed, so that counters know when to ask the tables again. */
  changes = $state(0);
  readonly #detailed = new Set<string>();

  get(id: string | null): Inspection | null {
    return id ? (this.known.get(id) ?? null) : null;
  }

  /** Takes a live event in; returns the image it was about. */
  receive(delivered: Delivered): string | null {
    const message = { topic: delivered.topic, event: delivered.event } as unknown as FeedEvent;
    const subject = subjectOf(message);
    if (!subject) return null;
    const held = this.known.get(subject.image_id) ?? emptyInspection(subject);
    const next = applyEvent(held, message);
    this.known.set(subject.image_id, { ...next, replayed: next.replayed || delivered.replayed });
    if (message.topic !== "reports.streamed") this.changes += 1;
    this.#trim();
    return subject.image_id;
  }

  /** Loads the newest images and every NG that nobody has acknowledged. */
  async loadList(product: string): Promise<void> {
    if (this.known.size === 0) this.listState = "loading";
    try {
      const [latest, pinned] = await Promise.all([
        listImages({ product, limit: PAGE_SIZE }),
        listImages({ product, unacknowledged: "true", limit: PAGE_SIZE }),
      ]);
      for (const item of [...pinned.images, ...latest.images]) {
        const held = this.known.get(item.image_id);
        this.known.set(item.image_id, this.#withList(held, fromItem(item)));
      }
      this.listState = "ready";
      this.changes += 1;
    } catch {
      this.listState = "failed";
    }
  }

  /** A list knows less than a detail: it may add to one, never take away. */
  #withList(held: Inspection | undefined, item: Inspection): Inspection {
    const merged = merge(held, item);
    return held && this.#detailed.has(item.image_id) && !held.listed
      ? { ...merged, listed: null }
      : merged;
  }

  /** Loads everything about one image. Returns the problem, if any. */
  async loadDetail(id: string): Promise<Problem | null> {
    try {
      const detail = fromDetail(await getImage(id));
      this.#detailed.add(id);
      this.known.set(id, merge(this.known.get(id), detail));
      return null;
    } catch (error) {
      if (error instanceof Problem) return error;
      throw error;
    }
  }

  isDetailed(id: string): boolean {
    return this.#detailed.has(id);
  }

  /** After a gap in the feed nothing that was loaded before is known to be complete. */
  forgetDetails(): void {
    this.#detailed.clear();
  }

  /** Marks that a stage was asked to run, until its answer is here. */
  markAsked(id: string, stage: "anomaly" | "llm", at: number | null): void {
    const held = this.known.get(id);
    if (!held) return;
    const asked = { ...held.asked };
    if (at === null) delete asked[stage];
    else asked[stage] = at;
    this.known.set(id, { ...held, asked });
  }

  /** Images that still wait for a verdict, newest first. */
  waiting(): Inspection[] {
    return [...this.known.values()].filter(
      (held) => machineState(held) === "WAITING" || Object.keys(held.asked).length > 0,
    );
  }

  #trim(): void {
    if (this.known.size <= TRIM_AT) return;
    const oldest = [...this.known.values()].sort((a, b) => a.receivedMs - b.receivedMs);
    for (const held of oldest) {
      if (this.known.size <= KEPT_ROWS) return;
      if (!isPinned(held)) this.known.delete(held.image_id);
    }
  }
}

export const images = new Images();
