// One image as the pages know it, built from a snapshot of the tables and from live events.
// Every rule here is order-free: events may arrive late, twice, or before the snapshot.
import type {
  DeadLetter,
  ImageEmbedded,
  ImageExplained,
  ImageScored,
  ImageSkipped,
  ImageUploaded,
  ReportStreamed,
  ReviewRecorded,
  Subject,
} from "../generated/events";
import type { Decision, ImageDetail, ImageItem, SupersededEvent, Verdict } from "../api/shapes";
import { addSentence, type StreamedReport } from "./streamed";

export type Status = "pending" | "complete" | "failed";

export interface Inspection {
  readonly image_id: string;
  readonly subject: Subject;
  readonly receivedMs: number;
  readonly status: Status;
  readonly embedded: ImageEmbedded | null;
  readonly scored: ImageScored | null;
  readonly explained: ImageExplained | null;
  readonly skipped: readonly ImageSkipped[];
  readonly reviews: readonly ReviewRecorded[];
  readonly dead_letters: readonly DeadLetter[];
  readonly superseded: readonly SupersededEvent[];
  readonly streamed: StreamedReport | null;
  /** What a list said without its events; a detail or newer events replace it. */
  readonly listed: Listed | null;
  /** When somebody on this page asked a stage to run: milliseconds since the epoch. */
  readonly asked: Readonly<Partial<Record<"anomaly" | "llm", number>>>;
  /** The newest event came while catching up after a cut. */
  readonly replayed: boolean;
}

export interface Listed {
  readonly verdict: Verdict | null;
  /** Origin of the verdict that was listed, milliseconds; 0 where it had no score. */
  readonly originMs: number;
  readonly decision: Decision | null;
  readonly defectType: string | null;
  readonly acknowledged: boolean;
}

export function emptyInspection(subject: Subject): Inspection {
  return {
    image_id: subject.image_id,
    subject,
    receivedMs: Date.parse(subject.received_at),
    status: "pending",
    embedded: null,
    scored: null,
    explained: null,
    skipped: [],
    reviews: [],
    dead_letters: [],
    superseded: [],
    streamed: null,
    listed: null,
    asked: {},
    replayed: false,
  };
}

interface Result {
  readonly event_id: string;
  readonly occurred_at: string;
  readonly origin_at?: string | null;
}

export const originMs = (event: Result): number => Date.parse(event.origin_at ?? event.occurred_at);

/** The current one of two results: the newest origin, then the newest event. */
export function newest<T extends Result>(held: T | null, other: T | null): T | null {
  if (!held || !other) return held ?? other;
  const difference = originMs(other) - originMs(held);
  if (difference !== 0) return difference > 0 ? other : held;
  return Date.parse(other.occurred_at) > Date.parse(held.occurred_at) ? other : held;
}

/** Both lists, each event once, oldest first. */
export function union<T extends Result>(held: readonly T[], others: readonly T[]): readonly T[] {
  const known = new Set(held.map((event) => event.event_id));
  const fresh = others.filter((event) => !known.has(event.event_id));
  if (fresh.length === 0) return held;
  return [...held, ...fresh].sort((a, b) => Date.parse(a.occurred_at) - Date.parse(b.occurred_at));
}

/** What the feed delivers, by topic. */
export type FeedEvent =
  | { readonly topic: "images.uploaded"; readonly event: ImageUploaded }
  | { readonly topic: "images.embedded"; readonly event: ImageEmbedded }
  | { readonly topic: "images.scored"; readonly event: ImageScored }
  | { readonly topic: "images.skipped"; readonly event: ImageSkipped }
  | { readonly topic: "images.explained"; readonly event: ImageExplained }
  | { readonly topic: "reports.streamed"; readonly event: ReportStreamed }
  | { readonly topic: "reviews.recorded"; readonly event: ReviewRecorded }
  | { readonly topic: `dead-letters.${string}`; readonly event: DeadLetter };

export function subjectOf(message: FeedEvent): Subject | null {
  return message.event.subject ?? null;
}

/** The inspection after one more event. */
export function applyEvent(held: Inspection, message: FeedEvent): Inspection {
  switch (message.topic) {
    case "images.uploaded":
      return { ...held, subject: message.event.subject };
    case "images.embedded":
      return { ...held, embedded: newest(held.embedded, message.event) };
    case "images.scored":
      return settle({ ...held, scored: newest(held.scored, message.event) });
    case "images.skipped":
      return settle({ ...held, skipped: union(held.skipped, [message.event]) });
    case "images.explained":
      return settle({ ...held, explained: newest(held.explained, message.event) });
    case "reports.streamed":
      return { ...held, streamed: addSentence(held.streamed, message.event) };
    case "reviews.recorded":
      return { ...held, reviews: union(held.reviews, [message.event]) };
    default:
      return settle({ ...held, dead_letters: union(held.dead_letters, [message.event as DeadLetter]) });
  }
}

/** A stage that answered after it was asked is no longer waited for. */
function settle(held: Inspection): Inspection {
  const anomaly = answeredAt(held, "anomaly");
  const llm = answeredAt(held, "llm");
  const asked = { ...held.asked };
  if (asked.anomaly !== undefined && anomaly >= asked.anomaly) delete asked.anomaly;
  if (asked.llm !== undefined && llm >= asked.llm) delete asked.llm;
  // Without a verdict there is nothing to report on.
  if (asked.llm !== undefined && failedAt(held) >= asked.llm) delete asked.llm;
  return { ...held, asked };
}

function answeredAt(held: Inspection, stage: "anomaly" | "llm"): number {
  const result = stage === "anomaly" ? held.scored : held.explained;
  const others: Result[] = [...held.skipped, ...held.dead_letters].filter((e) => e.stage === stage);
  return Math.max(0, ...[...(result ? [result] : []), ...others].map(originMs));
}

export function fromDetail(detail: ImageDetail): Inspection {
  return {
    ...emptyInspection(detail.subject),
    status: detail.status,
    embedded: detail.embedded,
    scored: detail.scored,
    explained: detail.explained,
    skipped: detail.skipped,
    reviews: detail.reviews,
    dead_letters: detail.dead_letters,
    superseded: detail.superseded.map((old) => old.event),
  };
}

export function fromItem(item: ImageItem): Inspection {
  return {
    ...emptyInspection(item.subject),
    status: item.status,
    scored: item.scored,
    listed: {
      verdict: item.verdict,
      originMs: item.scored ? originMs(item.scored) : 0,
      decision: item.decision,
      defectType: item.defect_type,
      acknowledged: item.acknowledged !== null,
    },
  };
}

function failedAt(held: Inspection): number {
  const failed: Result[] = held.dead_letters.filter((event) => event.stage === "anomaly");
  if (held.scored?.verdict === "ERROR") failed.push(held.scored);
  return Math.max(0, ...failed.map(originMs));
}

/** Snapshot and live events together, whichever came first. */
export function merge(held: Inspection | undefined, snapshot: Inspection): Inspection {
  if (!held) return snapshot;
  return settle({
    ...snapshot,
    embedded: newest(held.embedded, snapshot.embedded),
    scored: newest(held.scored, snapshot.scored),
    explained: newest(held.explained, snapshot.explained),
    skipped: union(snapshot.skipped, held.skipped),
    reviews: union(snapshot.reviews, held.reviews),
    dead_letters: union(snapshot.dead_letters, held.dead_letters),
    superseded: snapshot.superseded.length > 0 ? snapshot.superseded : held.superseded,
    streamed: held.streamed,
    listed: snapshot.listed,
    asked: held.asked,
    replayed: held.replayed,
  });
}
