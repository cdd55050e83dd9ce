// Tells screen readers of an NG, once.
import { untrack } from "svelte";
import { t } from "../i18n/index.svelte";
import type { Inspection } from "../record/inspection";
import { partName } from "../view/format";
import { site } from "./site.svelte";

class Announcer {
  text = $state("");
  readonly #told = new Set<string>();

  notice(pinned: readonly Inspection[]): void {
    const fresh = pinned.filter((held) => held.scored && !this.#told.has(held.scored.event_id));
    for (const held of fresh) if (held.scored) this.#told.add(held.scored.event_id);
    const newest = fresh[0];
    if (!newest) return;
    untrack(() => {
      this.text = t("verdict.announce", {
        product: site.productName(newest.subject.product),
        part: partName(newest.subject),
      });
    });
  }
}

export const announcer = new Announcer();
