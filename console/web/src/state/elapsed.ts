// Seconds that pass while somebody watches, by the server's clock.
import { clock } from "./clock.svelte";
import { live } from "./live.svelte";

/** Whole seconds since a moment of the server's clock, never negative. */
export const secondsSince = (atMs: number): number =>
  Math.max(0, Math.round((clock.now + live.serverAheadMs - atMs) / 1000));
