// Which rows of a long list are worth drawing.

export interface Window {
  readonly first: number;
  readonly last: number;
  /** Height of the rows left out above and below, in pixels. */
  readonly above: number;
  readonly below: number;
}

/** Rows in view, with a margin so that fast scrolling shows no holes. */
export function visibleRows(
  count: number,
  rowPx: number,
  scrollTop: number,
  viewportPx: number,
  margin = 6,
): Window {
  const first = Math.max(0, Math.floor(scrollTop / rowPx) - margin);
  const last = Math.min(count, Math.ceil((scrollTop + viewportPx) / rowPx) + margin);
  const start = Math.min(first, last);
  return { first: start, last, above: start * rowPx, below: (count - last) * rowPx };
}
