// Defect types of products, read once and kept until one is added.
import { SvelteMap } from "svelte/reactivity";
import { addDefectType, listDefectTypes } from "../api/calls";
import type { DefectType } from "../api/shapes";
import { inLanguage } from "../i18n/index.svelte";

class DefectTypes {
  readonly #known = new SvelteMap<string, readonly DefectType[]>();
  readonly #asked = new Set<string>();

  of(product: string): readonly DefectType[] {
    return this.#known.get(product) ?? [];
  }

  async load(product: string): Promise<void> {
    if (this.#asked.has(product)) return;
    this.#asked.add(product);
    try {
      this.#known.set(product, await listDefectTypes(product));
    } catch {
      this.#asked.delete(product);
    }
  }

  async add(product: string, type: DefectType): Promise<void> {
    const saved = await addDefectType(product, type);
    this.#known.set(product, [...this.of(product), saved]);
  }

  /** The type's name in the page's language, else its code. */
  name(product: string, code: string): string {
    const type = this.of(product).find((known) => known.code === code);
    return type ? inLanguage(type.name_ko, type.name_en) : code;
  }
}

export const defectTypes = new DefectTypes();
