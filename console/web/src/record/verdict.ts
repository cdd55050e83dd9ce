// From events to the one state a person sees. A page never invents a state.
import type { DeadLetter, ImageSkipped, ReviewRecorded } from "../generated/events";
import type { Decision } from "../api/shapes";
import { originMs, type Inspection } from "./inspection";

export type VerdictState = "OK" | "NG" | "REVIEW" | "ERROR" | "NOT_JUDGED" | "WAITING";

export const VERDICT_STATES: readonly VerdictState[] = [
  "OK",
  "NG",
  "REVIEW",
  "ERROR",
  "NOT_JUDGED",
  "WAITING",
];

function latest<T extends ImageSkipped | DeadLetter>(events: readonly T[], stage: string): T | null {
  let found: T | null = null;
  for (const event of events) {
    if (event.stage === stage && (!found || originMs(event) > originMs(found))) found = event;
  }
  return found;
}

export const anomalySkip = (held: Inspection): ImageSkipped | null =>
  latest(held.skipped, "anomaly");
export const deadLetterOf = (held: Inspection, stage: string): DeadLetter | null =>
  latest(held.dead_letters, stage);

/** Whether a stage has answered the request or upload that led to the current score. */
export function answered(held: Inspection, stage: "llm"): boolean {
  const answers = [held.explained, latest(held.skipped, stage), latest(held.dead_letters, stage)];
  const since = held.scored ? originMs(held.scored) : 0;
  return answers.some((answer) => answer !== null && originMs(answer) >= since);
}

/** The machine's verdict: the answer with the newest origin among score, skip and dead letter. */
export function machineState(held: Inspection): VerdictState {
  const skip = anomalySkip(held);
  const dead = deadLetterOf(held, "anomaly");
  const answers: [number, VerdictState][] = [];
  if (held.scored) answers.push([originMs(held.scored), held.scored.verdict]);
  if (skip) answers.push([originMs(skip), "NOT_JUDGED"]);
  if (dead) answers.push([originMs(dead), "ERROR"]);
  if (held.listed?.verdict) answers.push([held.listed.originMs + 0.5, held.listed.verdict]);
  let state: VerdictState = "WAITING";
  let newest = -Infinity;
  for (const [at, answer] of answers) {
    if (at > newest) [newest, state] = [at, answer];
  }
  return state;
}

/** The person's decision that stands: the newest one that was not taken back. */
export function standingReview(held: Inspection): ReviewRecorded | null {
  const undone = new Set(held.reviews.map((review) => review.undoes).filter(Boolean));
  for (let i = held.reviews.length - 1; i >= 0; i -= 1) {
    const review = held.reviews[i];
    if (review?.decision && !undone.has(review.event_id)) return review;
  }
  return null;
}

/** Cases that a person found unlike this image, with the remark that says so. */
export function notSimilar(held: Inspection): ReadonlyMap<string, ReviewRecorded> {
  const undone = new Set(held.reviews.map((review) => review.undoes).filter(Boolean));
  const remarks = held.reviews.filter(
    (review) => review.not_similar && !review.undoes && !undone.has(review.event_id),
  );
  return new Map(remarks.map((review) => [review.not_similar ?? "", review]));
}

/** What a person decided, where only a list is at hand too. */
export function standingDecision(held: Inspection): Decision | null {
  const said = held.reviews.some(
    (review) => review.decision || (review.undoes && !review.not_similar),
  );
  return said ? (standingReview(held)?.decision ?? null) : (held.listed?.decision ?? null);
}

/** Whether a person has taken notice of the current verdict. */
export function isAcknowledged(held: Inspection): boolean {
  if (standingDecision(held)) return true;
  const verdict = held.scored;
  if (verdict && held.reviews.some((review) => review.acknowledges === verdict.event_id)) return true;
  if (!held.listed?.acknowledged) return false;
  return !verdict || originMs(verdict) <= held.listed.originMs;
}

/** Whether this image is to stay on top until somebody acknowledges it. */
export function isPinned(held: Inspection): boolean {
  return machineState(held) === "NG" && mayAlarm(held) && !isAcknowledged(held);
}

/** Images that are no live production: they never alarm and carry a badge. */
export type Badge = "historical" | "golden" | "setup" | "simulated" | "rework" | "replayed";

export function badgesOf(held: Inspection): readonly Badge[] {
  const badges: Badge[] = [];
  if (held.subject.is_historical) badges.push("historical");
  const purpose = held.subject.purpose ?? "production";
  if (purpose !== "production") badges.push(purpose);
  if (held.replayed) badges.push("replayed");
  return badges;
}

const LIVE_PURPOSES = new Set(["production", "rework"]);

/** Whether an NG of this image is to be pinned until a person takes notice. */
export function mayAlarm(held: Inspection): boolean {
  return !held.subject.is_historical && LIVE_PURPOSES.has(held.subject.purpose ?? "production");
}

/** Whether the score crossed its threshold without a place to show for it. */
export function locationUnclear(held: Inspection): boolean {
  return held.scored?.verdict === "NG" && (held.scored.regions ?? []).length === 0;
}

/** Score as a share of its threshold; 1 = on the line. */
export function scoreRatio(held: Inspection): number | null {
  const { score, threshold } = held.scored ?? {};
  if (score == null || threshold == null || threshold <= 0) return null;
  return score / threshold;
}
