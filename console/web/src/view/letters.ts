// Words for dead letters.
import { t, tSlug } from "../i18n/index.svelte";
import { ko } from "../i18n/ko";
import type { TextKey } from "../i18n/fill";
import type { Content, Letter } from "../api/letters";

/** What went wrong, in words; an unknown reason is told as it is. */
export function whyOf(reason: string): string {
  return `letters.why.${reason}` in ko ? tSlug("letters.why", reason) : tSlug("reason", reason);
}

/** The same beside a part, where the words also tell the operator what to do, if there are such. */
export function troubleOf(reason: string): string {
  return `reason.${reason}` in ko ? tSlug("reason", reason) : whyOf(reason);
}

/** What to do about it. */
export function fixOf(letter: Pick<Letter, "reason" | "is_replayable">): string {
  if (!letter.is_replayable) return t("letters.fix.state_topic");
  const key = `letters.fix.${letter.reason}`;
  return key in ko ? t(key as TextKey) : t("letters.fix.other");
}

/** Why letters were passed over or left out, most of them first: `record gone 2 · resolved 1`. */
export function reasonsOf(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .filter(([, n]) => n > 0)
    .sort(([, a], [, b]) => b - a)
    .map(([reason, n]) => `${tSlug("letters.passed", reason)} ${n}`)
    .join(" · ");
}

/** What to call a letter: its part, else its place in the log. */
export function letterName(letter: Letter): string {
  return letter.part_id ?? letter.image_id?.slice(0, 8) ?? `${letter.topic} ${letter.partition}:${letter.offset}`;
}

/** Content as text to read. */
export function contentText(content: Content): string {
  if (content.encoding === "none") return "–";
  if (content.encoding === "json") return JSON.stringify(content.data, null, 2);
  return String(content.data);
}
