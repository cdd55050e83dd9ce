// Numbers and times as people read them.

/** Three significant figures at least, no needless zeros beyond two decimals. */
export function figure(value: number | null | undefined): string {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.01) return value.toPrecision(2);
  return value.toFixed(size >= 100 ? 1 : 2);
}

/** Clock time in the site's zone, 24 h: 14:02:07. */
export function clockTime(at: string | number | Date, zone: string, seconds = true): string {
  return new Intl.DateTimeFormat("en-GB", {
    timeZone: zone,
    hour: "2-digit",
    minute: "2-digit",
    ...(seconds ? { second: "2-digit" } : {}),
    hourCycle: "h23",
  }).format(new Date(at));
}

/** Date in the site's zone: 2026-11-23. */
export function calendarDate(at: string | number | Date, zone: string): string {
  return new Intl.DateTimeFormat("sv-SE", { timeZone: zone }).format(new Date(at));
}

/** Time alone for today, with its date before that. */
export function moment(at: string | number, zone: string, now: number): string {
  const sameDay = calendarDate(at, zone) === calendarDate(now, zone);
  return sameDay ? clockTime(at, zone) : `${calendarDate(at, zone)} ${clockTime(at, zone, false)}`;
}

/** What to call a part: its id, else the beginning of the image's. */
export function partName(subject: { part_id?: string | null; image_id: string }): string {
  return subject.part_id || subject.image_id.slice(0, 8);
}

/** File size in the unit that suits. */
export function fileSize(bytes: number): string {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 ** 2) return `${Math.round(bytes / 1024)} KB`;
  return `${(bytes / 1024 ** 2).toFixed(1)} MB`;
}

/** "42", or "10 000+" for a count that ended before all were counted. */
export function counted(count: number, hasMore = false): string {
  if (!hasMore) return String(count);
  return `${String(count).replace(/\B(?=(\d{3})+$)/g, "\u00a0")}+`;
}
