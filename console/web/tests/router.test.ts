import { expect, test } from "vitest";
import { parseRoute } from "../src/router.svelte";

test("addresses lead to their pages", () => {
  expect(parseRoute("")).toEqual({ page: "operator" });
  expect(parseRoute("/matching.html")).toEqual({ page: "operator" });
  expect(parseRoute(`i/${"0a".repeat(16)}`)).toEqual({ page: "detail", imageId: "0a".repeat(16) });
  expect(parseRoute("setup", "?product=cap")).toEqual({ page: "setup", product: "cap" });
  expect(parseRoute("dead-letters", "?id=a-b")).toEqual({ page: "letters", letterId: "a-b" });
  expect(parseRoute("i/nonsense")).toMatchObject({ page: "unknown" });
});
