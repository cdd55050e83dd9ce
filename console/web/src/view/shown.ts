// Which image the operator's page shows.

export interface Choice {
  /** What is shown now. */
  readonly current: string | null;
  /** Picked by hand: stays until the person lets go. */
  readonly manual: boolean;
  /** Decided a moment ago: stays while it can be undone, unless an NG waits. */
  readonly held: string | null;
  /** NG that nobody acknowledged, newest first. */
  readonly pinned: readonly string[];
  /** Every image, newest first. */
  readonly rows: readonly string[];
}

/** An unacknowledged NG is never replaced by a newer part; a hand-picked image by nothing. */
export function chooseShown(choice: Choice): string | null {
  const { current, manual, held, pinned, rows } = choice;
  if (manual && current) return current;
  if (current && pinned.includes(current)) return current;
  if (pinned[0]) return pinned[0];
  if (held && held === current) return current;
  return rows[0] ?? null;
}

/** The neighbour of an image in a list; stays at the ends. */
export function stepFrom(ids: readonly string[], current: string | null, step: 1 | -1): string | null {
  if (ids.length === 0) return null;
  const at = current ? ids.indexOf(current) : -1;
  if (at < 0) return ids[0] ?? null;
  return ids[Math.min(ids.length - 1, Math.max(0, at + step))] ?? null;
}
