import { expect, test } from "vitest";
import type { DefectType } from "../src/api/shapes";
import type { Report } from "../src/generated/events";
import { addSentence } from "../src/record/streamed";
import { codeFrom, existingType, searchTypes, suggestTypes } from "../src/view/defect-type";
import { clockTime, counted, figure, moment, partName } from "../src/view/format";
import { actionOf, type Pressed } from "../src/view/keys";
import { isProductCode, productCodeFrom } from "../src/view/product-code";
import { markQuote } from "../src/view/quote";
import { sectionsOfReport, sectionsOfStream } from "../src/view/report";
import { chooseShown, stepFrom, type Choice } from "../src/view/shown";
import { visibleRows } from "../src/view/windowing";
import { panBy, viewBox, WHOLE, zoomAt } from "../src/view/zoom";
import { subject } from "./subjects";

const choice = (more: Partial<Choice>): Choice => ({
  current: null,
  manual: false,
  held: null,
  pinned: [],
  rows: ["c", "b", "a"],
  ...more,
});

test("the page follows the newest part", () => {
  expect(chooseShown(choice({ current: "b" }))).toBe("c");
});

test("an NG stays until it is acknowledged, whatever comes after it", () => {
  expect(chooseShown(choice({ current: "a", pinned: ["c", "a"] }))).toBe("a");
  expect(chooseShown(choice({ current: "a", pinned: ["c"] }))).toBe("c");
});

test("an NG takes the place of a part that nobody picked", () => {
  expect(chooseShown(choice({ current: "c", pinned: ["b"] }))).toBe("b");
});

test("a part picked by hand stays", () => {
  expect(chooseShown(choice({ current: "a", manual: true, pinned: ["c"] }))).toBe("a");
});

test("a decided part stays while it can be undone, unless an NG waits", () => {
  expect(chooseShown(choice({ current: "a", held: "a" }))).toBe("a");
  expect(chooseShown(choice({ current: "a", held: "a", pinned: ["b"] }))).toBe("b");
});

test("stepping through the queue stops at its ends", () => {
  expect(stepFrom(["a", "b"], "b", 1)).toBe("b");
  expect(stepFrom(["a", "b"], "b", -1)).toBe("a");
  expect(stepFrom(["a", "b"], "gone", 1)).toBe("a");
  expect(stepFrom([], null, 1)).toBeNull();
});

const press = (more: Partial<Pressed>): Pressed => ({
  code: "KeyJ",
  key: "ㅓ",
  isComposing: false,
  ctrlKey: false,
  metaKey: false,
  altKey: false,
  repeat: false,
  ...more,
});

test("keys work by their place, with Hangul switched on too", () => {
  expect(actionOf(press({}), false)).toBe("next");
  expect(actionOf(press({ code: "Digit1", key: "1" }), false)).toBe("confirm-ng");
  expect(actionOf(press({ code: "Slash", key: "?" }), false)).toBe("help");
});

test("keys do nothing while a text is typed, Hangul is composed or a shortcut is meant", () => {
  expect(actionOf(press({}), true)).toBeNull();
  expect(actionOf(press({ isComposing: true }), false)).toBeNull();
  expect(actionOf(press({ key: "Process" }), false)).toBeNull();
  expect(actionOf(press({ ctrlKey: true }), false)).toBeNull();
});

test("zooming keeps the point under the pointer and never leaves the picture", () => {
  const view = zoomAt(WHOLE, 4, 0.25, 0.25);
  expect(view.zoom).toBe(4);
  expect(view.x).toBeCloseTo(0.25 + 0.25 / 4);
  expect(zoomAt(view, 0.01, 0, 0)).toEqual(WHOLE);
  expect(panBy(view, 10, 10)).toMatchObject({ x: 0.125, y: 0.125 });
  expect(viewBox(WHOLE, 640, 480)).toBe("0 0 640 480");
});

test("a thousand rows draw only those in view", () => {
  const rows = visibleRows(1000, 88, 44_000, 880);
  expect(rows.last - rows.first).toBeLessThan(30);
  expect(rows.above + (rows.last - rows.first) * 88 + rows.below).toBe(88_000);
  expect(visibleRows(3, 88, 99_999, 800)).toMatchObject({ last: 3, below: 0 });
});

const TYPES: readonly DefectType[] = [
  { code: "scratch", name_ko: "긁힘", name_en: "Scratch" },
  { code: "dent", name_ko: "찍힘", name_en: "Dent" },
];

test("a defect type is found by code and by either name", () => {
  expect(searchTypes(TYPES, "긁")).toHaveLength(1);
  expect(searchTypes(TYPES, "DENT")).toHaveLength(1);
  expect(searchTypes(TYPES, " ")).toHaveLength(2);
});

test("a new type that exists in any name is told, also when its Hangul is decomposed", () => {
  const draft = { code: "x", name_ko: "긁힘".normalize("NFD"), name_en: "Y" };
  expect(existingType(TYPES, draft)?.code).toBe("scratch");
  expect(existingType(TYPES, { code: "burr", name_ko: "버", name_en: "Burr" })).toBeNull();
  expect(codeFrom("Deep scratch (edge)")).toBe("deep_scratch_edge");
});

test("three types are suggested at most, from defects only", () => {
  const near = (defect_type: string, decision = "ng") => ({
    case_id: defect_type, image_key: "k", product: "cap", similarity: 0.9, defect_type, decision,
  });
  const embedded = {
    event_id: "e", occurred_at: "", subject: subject(), stage: "embed", trigger_event_id: "", origin_event_id: "",
    origin_at: "", model: "", index_version: "", voted_defect_type: "dent",
    neighbours: [near("scratch"), near("fine", "ok"), near("dent"), near("stain"), near("burr")],
  };
  expect(suggestTypes(embedded)).toEqual(["dent", "scratch", "stain"]);
  expect(suggestTypes(null)).toEqual([]);
});

test("a quote is found across line breaks, and a quote that is not there marks nothing", () => {
  const pieces = markQuote("one two\n three four", "two three");
  expect(pieces.map((piece) => piece.marked)).toEqual([false, true, false]);
  expect(pieces.map((piece) => piece.text).join("")).toBe("one two\n three four");
  expect(markQuote("one (two)", "(two)")[1]?.marked).toBe(true);
  expect(markQuote("one", "two")).toEqual([{ text: "one", marked: false }]);
});

const REPORT: Report = {
  language: "ko", model: "m", prompt_version: "1", index_version: "1",
  prevention: [{ text: "p" }], immediate_action: [{ text: "i", citations: ["1"] }],
  probable_causes: [{ cause: "second", rank: 2 }, { cause: "first", rank: 1, evidence: "e" }],
};

test("a report is shown in its order, causes by rank, empty sections left out", () => {
  const sections = sectionsOfReport(REPORT);
  expect(sections.map((part) => part.section)).toEqual(["immediate_action", "causes", "prevention"]);
  expect(sections[1]?.lines.map((line) => line.text)).toEqual(["first", "second"]);
});

const sentence = (sequence: number, stream_id: string, second = 0) => ({
  event_id: `${stream_id}${sequence}`, occurred_at: `2026-11-23T01:00:0${second}Z`, subject: subject(),
  stream_id, sequence, sentence: `s${sequence}`, section: "symptom" as const,
});

test("streamed sentences keep their order, come once, and a newer stream replaces them", () => {
  let streamed = addSentence(null, sentence(2, "a"));
  streamed = addSentence(streamed, sentence(1, "a"));
  streamed = addSentence(streamed, sentence(2, "a"));
  expect(sectionsOfStream(streamed)[0]?.lines.map((line) => line.text)).toEqual(["s1", "s2"]);
  const newer = addSentence(streamed, sentence(0, "b", 5));
  expect(newer.sentences).toHaveLength(1);
  expect(addSentence(newer, sentence(9, "a")).streamId).toBe("b");
});

test("times are told in the site's zone and with the date when it is not today", () => {
  const at = "2026-11-23T15:30:05Z";
  expect(clockTime(at, "Asia/Seoul")).toBe("00:30:05");
  expect(moment(at, "Asia/Seoul", Date.parse(at))).toBe("00:30:05");
  expect(moment(at, "Asia/Seoul", Date.parse("2026-11-25T00:00:00Z"))).toBe("2026-11-24 00:30");
});

test("numbers keep what matters", () => {
  expect(figure(null)).toBe("–");
  expect(figure(2.104)).toBe("2.10");
  expect(figure(0.00123)).toBe("0.0012");
  expect(partName({ part_id: null, image_id: "0123456789" })).toBe("01234567");
});

test("product codes hold letters and digits of any script and nothing a path is built from", () => {
  expect(isProductCode("병뚜껑_A-1")).toBe(true);
  expect(isProductCode("../etc")).toBe(false);
  expect(isProductCode("")).toBe(false);
  expect(isProductCode("a".repeat(65))).toBe(false);
  expect(productCodeFrom(" 고정 플레이트 (A/2) ")).toBe("고정-플레이트-a2");
});

test("a count that was not taken to its end says that there are more", () => {
  expect(counted(42)).toBe("42");
  expect(counted(10_000, false)).toBe("10000");
  expect(counted(10_000, true)).toBe("10\u00a0000+");
});
