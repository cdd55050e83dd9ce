import { expect, test } from "vitest";
import { applyEvent, emptyInspection, fromItem, merge, type FeedEvent, type Inspection } from "../src/record/inspection";
import { badgesOf, isAcknowledged, isPinned, machineState, notSimilar, standingDecision, standingReview } from "../src/record/verdict";
import type { ImageItem } from "../src/api/shapes";
import { dead, review, scored, skipped, subject } from "./subjects";

const after = (held: Inspection, ...messages: FeedEvent[]): Inspection => messages.reduce(applyEvent, held);
const score = (event: ReturnType<typeof scored>): FeedEvent => ({ topic: "images.scored", event });
const fresh = (): Inspection => emptyInspection(subject());

const item = (more: Partial<ImageItem>): ImageItem => ({
  image_id: subject().image_id,
  status: "complete",
  verdict: null,
  subject: subject(),
  scored: null,
  decision: null,
  defect_type: null,
  acknowledged: null,
  ...more,
});

test("the verdict with the newest origin counts, in whatever order verdicts arrive", () => {
  const [old, late] = [scored(1, "NG"), scored(5, "OK")];
  expect(machineState(after(fresh(), score(old), score(late)))).toBe("OK");
  expect(machineState(after(fresh(), score(late), score(old)))).toBe("OK");
});

test("an image without any answer waits, and is never shown as good", () => {
  expect(machineState(fresh())).toBe("WAITING");
});

test("a dead letter of the anomaly stage is an error, one of another stage is not", () => {
  expect(machineState(after(fresh(), { topic: "dead-letters.anomaly", event: dead(2) }))).toBe("ERROR");
  expect(machineState(after(fresh(), { topic: "dead-letters.llm", event: dead(2, "llm") }))).toBe("WAITING");
});

test("a skipped image is not judged until somebody asks for a verdict", () => {
  const held = after(fresh(), { topic: "images.skipped", event: skipped(1) });
  expect(machineState(held)).toBe("NOT_JUDGED");
  expect(machineState(after(held, score(scored(9, "NG"))))).toBe("NG");
});

test("live events that came before the snapshot are not lost in it", () => {
  const held = after(fresh(), score(scored(9, "NG")));
  expect(machineState(merge(held, fromItem(item({}))))).toBe("NG");
});

test("a snapshot that is newer than what is held wins", () => {
  const held = after(fresh(), score(scored(1, "NG")));
  const snapshot = fromItem(item({ verdict: "OK", scored: scored(8, "OK") }));
  expect(machineState(merge(held, snapshot))).toBe("OK");
});

test("a listed verdict without events stands until a newer event", () => {
  const held = fromItem(item({ verdict: "NOT_JUDGED" }));
  expect(machineState(held)).toBe("NOT_JUDGED");
  expect(machineState(after(held, score(scored(9, "NG"))))).toBe("NG");
  const failed = fromItem(item({ verdict: "ERROR", scored: scored(1, "OK") }));
  expect(machineState(failed)).toBe("ERROR");
});

test("a decision that was taken back does not stand", () => {
  const first = review(1, { decision: "ng" });
  const undo = review(2, { undoes: first.event_id });
  const held = { ...fresh(), reviews: [first, undo] };
  expect(standingReview(held)).toBeNull();
  expect(standingReview({ ...held, reviews: [first] })?.decision).toBe("ng");
});

test("an acknowledgement alone does not wipe out the decision that a list told of", () => {
  const held = fromItem(item({ decision: "hold" }));
  const acknowledged = after(held, { topic: "reviews.recorded", event: review(3) });
  expect(standingDecision(acknowledged)).toBe("hold");
});

test("a case marked as not similar stays marked until that is taken back", () => {
  const listed = fromItem(item({ verdict: "NG", decision: "ng" }));
  const remark = review(2, { not_similar: "case-1" });
  const marked = applyEvent(listed, { topic: "reviews.recorded", event: remark });
  expect([...notSimilar(marked).keys()]).toEqual(["case-1"]);
  const undo = review(3, { undoes: remark.event_id, not_similar: "case-1" });
  const clean = applyEvent(marked, { topic: "reviews.recorded", event: undo });
  expect(notSimilar(clean).size).toBe(0);
  expect(standingDecision(clean)).toBe("ng");
});

test("an NG is pinned until it is acknowledged, and again when judged NG anew", () => {
  const verdict = scored(1, "NG");
  const held = after(fresh(), score(verdict));
  expect(isPinned(held)).toBe(true);
  const seen = review(2, { acknowledges: verdict.event_id });
  const acknowledged = after(held, { topic: "reviews.recorded", event: seen });
  expect(isAcknowledged(acknowledged)).toBe(true);
  expect(isPinned(acknowledged)).toBe(false);
  expect(isPinned(after(acknowledged, score(scored(9, "NG"))))).toBe(true);
});

test("historical, golden and simulated images carry a badge and are never pinned", () => {
  for (const more of [{ is_historical: true }, { purpose: "golden" }, { purpose: "simulated" }] as const) {
    const held = after(emptyInspection(subject(more)), score(scored(1, "NG")));
    expect(badgesOf(held)).toHaveLength(1);
    expect(isPinned(held)).toBe(false);
  }
});

test("a stage that was asked is waited for until it answers", () => {
  const asked: Inspection = { ...fresh(), asked: { anomaly: Date.parse("2026-11-23T01:00:05Z") } };
  expect(after(asked, score(scored(1, "OK"))).asked.anomaly).toBeDefined();
  expect(after(asked, score(scored(6, "OK"))).asked.anomaly).toBeUndefined();
});

test("an image that cannot be judged is not waited for by its report", () => {
  const asked: Inspection = { ...fresh(), asked: { llm: Date.parse("2026-11-23T01:00:05Z") } };
  const failed = after(asked, { topic: "dead-letters.anomaly", event: dead(6) });
  expect(failed.asked.llm).toBeUndefined();
});
