import { expect, test } from "vitest";
// @ts-expect-error -- a plain script without types
import { generate, typeOf } from "../scripts/generate-events.mjs";

test("schema types become TypeScript types", () => {
  expect(typeOf({ anyOf: [{ type: "string" }, { type: "null" }] })).toBe("string | null");
  expect(typeOf({ enum: ["ok", "ng"] })).toBe('"ok" | "ng"');
  expect(typeOf({ type: "array", items: { $ref: "#/$defs/Region" } })).toBe("readonly Region[]");
  const pair = { type: "array", prefixItems: [{ type: "integer" }, { type: "integer" }] };
  expect(typeOf({ type: "array", items: pair })).toBe("readonly (readonly [number, number])[]");
  expect(typeOf({ type: "object", additionalProperties: { type: "number" } })).toBe("Record<string, number>");
});

test("fields that may be absent are optional", () => {
  const text = generate([
    { title: "A", type: "object", required: ["x"], properties: { x: { type: "string" }, y: { type: "string" } } },
  ]);
  expect(text).toContain("x: string;");
  expect(text).toContain("y?: string;");
});

test("one name for two different schemas is an error", () => {
  const make = (type: string) => ({ title: "A", type: "object", properties: { x: { type } } });
  expect(() => generate([make("string"), make("number")])).toThrow("A");
});
