// Asks the tables about images that wait suspiciously long: an event may have come before this
// page subscribed but after the list was read.
import type { Inspection } from "../record/inspection";
import { machineState } from "../record/verdict";
import { images } from "./images.svelte";

const FIRST_MS = 4000;
const LONGEST_MS = 60_000;
const LOOKED_AT = 24;

const next = new Map<string, { at: number; wait: number }>();
let checkedAt = 0;

/** To be called every second. */
export function refreshWaiting(now: number, shown: Inspection | null): void {
  if (now - checkedAt < 1000) return;
  checkedAt = now;
  const waiting = images.waiting().sort((a, b) => b.receivedMs - a.receivedMs).slice(0, LOOKED_AT);
  if (shown && machineState(shown) === "WAITING") waiting.push(shown);
  const ids = new Set(waiting.map((held) => held.image_id));
  for (const id of next.keys()) if (!ids.has(id)) next.delete(id);
  for (const id of ids) {
    const planned = next.get(id) ?? { at: now + FIRST_MS, wait: FIRST_MS };
    if (now >= planned.at) {
      void images.loadDetail(id);
      planned.wait = Math.min(LONGEST_MS, planned.wait * 2);
      planned.at = now + planned.wait;
    }
    next.set(id, planned);
  }
}
