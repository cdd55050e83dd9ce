// Everything that happened to an image, oldest first.
import type { ReviewRecorded } from "../generated/events";
import type { Inspection } from "../record/inspection";

export interface HistoryEntry {
  readonly id: string;
  readonly at: string;
  readonly key: string;
  readonly values: Readonly<Record<string, string | number>>;
  readonly reasonGroup?: "skip" | "reason";
  readonly note?: string | null;
}

function ofReview(review: ReviewRecorded): HistoryEntry {
  const base = { id: review.event_id, at: review.occurred_at };
  const who = review.reviewer ?? "";
  if (review.undoes && review.not_similar) {
    return { ...base, key: "history.similarAgain", values: { who } };
  }
  if (review.undoes) return { ...base, key: "history.undone", values: { who } };
  if (review.not_similar) return { ...base, key: "history.notSimilar", values: { who } };
  if (!review.decision) return { ...base, key: "history.acknowledged", values: { who } };
  return {
    ...base,
    key: "history.review",
    values: { who, decision: review.decision },
    note: review.reason ?? null,
  };
}

export function historyOf(held: Inspection): readonly HistoryEntry[] {
  const { subject, embedded, scored, explained } = held;
  const entries: HistoryEntry[] = [
    { id: "received", at: subject.received_at, key: "history.uploaded", values: {} },
  ];
  const add = (
    event: { event_id: string; occurred_at: string },
    key: string,
    values: Record<string, string | number>,
    more: Partial<HistoryEntry> = {},
  ): void => {
    entries.push({ id: event.event_id, at: event.occurred_at, key, values, ...more });
  };
  if (embedded) add(embedded, "history.embedded", { n: (embedded.neighbours ?? []).length });
  if (scored) add(scored, "history.scored", { verdict: scored.verdict });
  for (const old of held.superseded) {
    if (old.verdict) add(old, "history.superseded", { verdict: old.verdict });
  }
  for (const skip of held.skipped) {
    add(skip, "history.skipped", { stage: skip.stage, reason: skip.reason }, { reasonGroup: "skip" });
  }
  if (explained) add(explained, explained.refused ? "history.refused" : "history.explained", {});
  for (const dead of held.dead_letters) {
    add(dead, "history.dead", { stage: dead.stage, reason: dead.reason }, { note: dead.error_text });
  }
  entries.push(...held.reviews.map(ofReview));
  return entries.sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
}
