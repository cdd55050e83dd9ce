// The language of the page: one typed catalogue a language, switched without a reload.
import { en } from "./en";
import { ko } from "./ko";
import { fill, type Language, type TextKey } from "./fill";

const STORED = "lineside.language";
const CATALOGUES = { ko, en } as const;

class Texts {
  language = $state<Language>("ko");

  start(): void {
    const stored = localStorage.getItem(STORED);
    this.set(stored === "en" ? "en" : "ko");
  }

  set(language: Language): void {
    this.language = language;
    document.documentElement.lang = language;
    localStorage.setItem(STORED, language);
  }
}

export const texts = new Texts();

/** The text of a key in the page's language, with `{name}` places filled. */
export function t(key: TextKey, values: Record<string, string | number> = {}): string {
  return fill(CATALOGUES[texts.language][key], values);
}

/** Text of a slug that the server sent, else the slug itself in words. */
export function tSlug(group: string, slug: string): string {
  const key = `${group}.${slug}`;
  if (key in ko) return t(key as TextKey);
  return slug.replaceAll("_", " ");
}

/** The name that suits the page's language. */
export function inLanguage(korean: string, english: string | null | undefined): string {
  return texts.language === "en" && english ? english : korean;
}
