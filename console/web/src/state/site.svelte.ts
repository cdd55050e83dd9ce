// What the whole page shares: the site's facts, its products and who stands before the screen.
import { getSystem, listProducts } from "../api/calls";
import type { Product, SystemFacts } from "../api/shapes";
import { inLanguage } from "../i18n/index.svelte";

const OPERATOR = "lineside.operator";
const PRODUCT = "lineside.product";

class Site {
  system = $state.raw<SystemFacts | null>(null);
  products = $state.raw<readonly Product[]>([]);
  /** Products were asked for and answered at least once. */
  loaded = $state(false);
  failed = $state(false);
  operator = $state(localStorage.getItem(OPERATOR) ?? "");
  /** Product that the operator's page is narrowed to; empty = all. */
  product = $state(sessionStorage.getItem(PRODUCT) ?? "");

  get zone(): string {
    return this.system?.timezone ?? "Asia/Seoul";
  }

  async load(): Promise<void> {
    try {
      const [system, products] = await Promise.all([getSystem(), listProducts()]);
      this.system = system;
      this.products = products.filter((product) => !product.removed);
      this.loaded = true;
      this.failed = false;
    } catch {
      this.failed = true;
    }
  }

  setOperator(name: string): void {
    this.operator = name.trim();
    localStorage.setItem(OPERATOR, this.operator);
  }

  setProduct(code: string): void {
    this.product = code;
    sessionStorage.setItem(PRODUCT, code);
  }

  productOf(code: string): Product | null {
    return this.products.find((product) => product.product === code) ?? null;
  }

  /** Display name of a product in the page's language, else its code. */
  productName(code: string): string {
    const product = this.productOf(code);
    return product ? inLanguage(product.display_name, product.display_name_en) : code;
  }
}

export const site = new Site();
