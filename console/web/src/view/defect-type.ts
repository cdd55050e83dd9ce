// Choosing and registering defect types.
import type { DefectType } from "../api/shapes";
import type { ImageEmbedded } from "../generated/events";

const SUGGESTIONS = 3;
const CODE = /^[a-z0-9][a-z0-9_-]{0,63}$/;

const plain = (text: string): string => text.normalize("NFC").trim().toLowerCase();

/** Up to three types that the nearest cases had, the voted one first; hints, never a choice. */
export function suggestTypes(embedded: ImageEmbedded | null): readonly string[] {
  if (!embedded) return [];
  const found = new Set<string>();
  if (embedded.voted_defect_type) found.add(embedded.voted_defect_type);
  for (const neighbour of embedded.neighbours ?? []) {
    if (neighbour.defect_type && neighbour.decision !== "ok") found.add(neighbour.defect_type);
  }
  return [...found].slice(0, SUGGESTIONS);
}

/** Types whose code or a name contains the search text. */
export function searchTypes(types: readonly DefectType[], search: string): readonly DefectType[] {
  const text = plain(search);
  if (!text) return types;
  return types.filter((type) =>
    [type.code, type.name_ko, type.name_en].some((name) => plain(name).includes(text)),
  );
}

/** The type that a new one would repeat, by code or by either name. */
export function existingType(types: readonly DefectType[], draft: DefectType): DefectType | null {
  const same = (a: string, b: string): boolean => plain(a) !== "" && plain(a) === plain(b);
  return (
    types.find(
      (type) =>
        same(type.code, draft.code) ||
        same(type.name_ko, draft.name_ko) ||
        same(type.name_en, draft.name_en),
    ) ?? null
  );
}

/** ASCII code made of an English name. */
export function codeFrom(english: string): string {
  return english
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, "_")
    .replace(/^_+|_+$/g, "")
    .slice(0, 64);
}

export const isCode = (code: string): boolean => CODE.test(code);
