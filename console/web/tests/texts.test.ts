import { readFileSync, readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { en } from "../src/i18n/en";
import { fill } from "../src/i18n/fill";
import { ko } from "../src/i18n/ko";

const places = (text: string): string[] => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1] ?? "").sort();
const keys = Object.keys(ko) as (keyof typeof ko)[];
const sources = readdirSync("src", { recursive: true })
  .map(String)
  .filter((name) => /\.(svelte|ts)$/.test(name) && !name.startsWith("i18n") && !name.startsWith("generated"))
  .map((name) => [name, readFileSync(`src/${name}`, "utf8")] as const);

test("both languages have the same texts", () => {
  expect(Object.keys(en).sort()).toEqual([...keys].sort());
});

test("no text is empty, and each says the same things in both languages", () => {
  for (const key of keys) {
    expect(ko[key].trim(), key).not.toBe("");
    expect(en[key].trim(), key).not.toBe("");
    expect(places(en[key]), key).toEqual(places(ko[key]));
  }
});

test("English texts hold no Hangul", () => {
  for (const key of keys) expect(en[key], key).not.toMatch(/[가-힣]/);
});

test("every text that a page names exists", () => {
  for (const [name, source] of sources) {
    for (const [, key] of source.matchAll(/\bt\("([^"]+)"/g)) expect(keys, name).toContain(key);
  }
});

test("pages hold no text of their own in Korean", () => {
  for (const [name, source] of sources) {
    // The language switch names a language in itself.
    expect(source.replace(">한<", "><"), name).not.toMatch(/[가-힣]/);
  }
});

test("values fill their places, and a missing one stays visible", () => {
  expect(fill("{n} of {total}", { n: 3 })).toBe("3 of {total}");
});
