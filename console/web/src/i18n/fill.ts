import type { ko } from "./ko";

export type Language = "ko" | "en";
export type TextKey = keyof typeof ko;
export type Catalogue = Record<TextKey, string>;

/** Puts values into the `{name}` places of a text; unknown places stay visible. */
export function fill(text: string, values: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (place, name: string) =>
    name in values ? String(values[name]) : place,
  );
}
