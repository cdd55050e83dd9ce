import { beforeAll, expect, test, vi } from "vitest";
import type { LetterCount } from "../src/api/letters";

const storage = { getItem: () => null, setItem: () => undefined };
vi.stubGlobal("localStorage", storage);
vi.stubGlobal("sessionStorage", storage);

let state: typeof import("../src/state/letters.svelte");
let view: typeof import("../src/view/letters");
beforeAll(async () => {
  state = await import("../src/state/letters.svelte");
  view = await import("../src/view/letters");
});

const COUNTS: readonly LetterCount[] = [
  { stage: "anomaly", reason: "object_missing", open: 3, replayed: 1, resolved: 5 },
  { stage: "anomaly", reason: "bug", open: 2, replayed: 0, resolved: 0 },
  { stage: "embed", reason: "object_missing", open: 4, replayed: 0, resolved: 1 },
];

test("counts follow the chosen stage, reason and state", () => {
  const count = (change: object, which: "open" | "all" = "open"): number =>
    state.countOf(COUNTS, { ...state.ANY, ...change }, which);
  expect(count({})).toBe(9);
  expect(count({ stage: "anomaly" })).toBe(5);
  expect(count({ stage: "anomaly", reason: "object_missing" })).toBe(3);
  expect(count({ reason: "object_missing" }, "all")).toBe(14);
});

test("only filters that are set are asked for, and hours count from now", () => {
  const now = Date.UTC(2026, 10, 26, 12);
  expect(state.spanOf(state.ANY, now)).toEqual({});
  expect(state.spanOf({ ...state.ANY, stage: "llm", hours: 8 }, now)).toEqual({
    stage: "llm",
    since: "2026-11-26T04:00:00.000Z",
  });
});

test("a reason says what to do, also one that nobody has met yet", () => {
  const fix = (reason: string, is_replayable = true): string => view.fixOf({ reason, is_replayable });
  expect(fix("object_missing")).not.toBe(fix("never_seen"));
  expect(fix("never_seen")).toBe(fix("quite_new"));
  expect(fix("object_missing", false)).not.toBe(fix("object_missing"));
  expect(view.whyOf("never_seen")).toBe("never seen");
});

test("content is shown as what it is", () => {
  expect(view.contentText({ encoding: "none", data: null, size_bytes: 0 })).toBe("–");
  expect(view.contentText({ encoding: "json", data: { a: 1 }, size_bytes: 7 })).toBe('{\n  "a": 1\n}');
  expect(view.contentText({ encoding: "base64", data: "/9g=", size_bytes: 2 })).toBe("/9g=");
});

test("what was passed over is told with its reasons, most of them first", () => {
  expect(view.reasonsOf({ resolved: 1, record_gone: 2, waiting: 0 })).toBe("로그에서 사라짐 2 · 이미 해결됨 1");
  expect(view.reasonsOf({ quite_new: 3 })).toBe("quite new 3");
  expect(view.reasonsOf({})).toBe("");
});

test("before letters are put back the server counts those that would be, and puts none back", async () => {
  const sent: unknown[] = [];
  vi.stubGlobal("document", { baseURI: "http://line/" });
  vi.stubGlobal("fetch", async (_: string, init: RequestInit) => {
    sent.push(JSON.parse(String(init.body)));
    return new Response(JSON.stringify({ letters: 7, left_out: {}, dry_run: true }), {
      headers: { "Content-Type": "application/json" },
    });
  });
  expect(await state.letters.plan(null)).toMatchObject({ letters: 7 });
  expect(await state.letters.plan(["a", "b"])).toMatchObject({ letters: 7 });
  expect(sent).toMatchObject([{ filter: {}, dry_run: true }, { ids: ["a", "b"], again: false, dry_run: true }]);
});

test("a dead letter is explained in words also beside its part", () => {
  expect(view.troubleOf("object_missing")).toContain("다시 촬영");
  expect(view.troubleOf("retries_exhausted")).toBe(view.whyOf("retries_exhausted"));
  expect(view.troubleOf("retries_exhausted")).not.toContain("retries");
});
