// Keys of the inspection and detail pages.
import type { Decision } from "../api/shapes";
import type { Inspection } from "../record/inspection";
import { isPinned } from "../record/verdict";
import { router } from "../router.svelte";
import { actionOf, isTyping, type KeyAction } from "../view/keys";
import { acts } from "./acts.svelte";
import { cards } from "./cards.svelte";
import { heat } from "./heat.svelte";
import { operator } from "./operator.svelte";
import { panels } from "./panels.svelte";

const HAS_KEYS: ReadonlySet<string> = new Set(["operator", "detail"]);

export interface Acting {
  readonly held: () => Inspection | null;
  readonly decide: (decision: Decision) => void;
  readonly again: () => void;
  readonly acknowledge: () => void;
}

export interface Keyboard {
  readonly down: (event: KeyboardEvent) => void;
  readonly up: (event: KeyboardEvent) => void;
  readonly release: () => void;
}

export function keyboard(acting: Acting): Keyboard {
  const withImage = (act: (held: Inspection) => void): (() => void) => () => {
    const held = acting.held();
    if (held) act(held);
  };
  const onOperator = (act: () => void): (() => void) => () => {
    if (router.route.page === "operator") act();
  };
  const report = withImage((held) => {
    void cards.show("report");
    if (!held.explained && held.asked.llm === undefined) void acts.makeReport(held);
  });
  const actions: Record<KeyAction, () => void> = {
    next: onOperator(() => operator.step(1)),
    previous: onOperator(() => operator.step(-1)),
    "confirm-ng": () => acting.decide("ng"),
    "mark-ok": () => acting.decide("ok"),
    hold: () => acting.decide("hold"),
    again: acting.again,
    heat: () => (heat.held = true),
    blink: () => heat.toggleBlink(),
    normal: () => heat.toggleNormal(),
    similar: () => void cards.show("similar"),
    report,
    acknowledge: withImage((held) => isPinned(held) && acting.acknowledge()),
    undo: () => void acts.undo(),
    leave: onOperator(() => operator.release()),
    help: () => (panels.help = true),
  };
  return {
    down(event) {
      // An open dialog has the keys to itself; the browser closes it on Escape.
      if (event.repeat || document.querySelector("dialog[open]")) return;
      const action = actionOf(event, isTyping(event.target));
      if (!action || !HAS_KEYS.has(router.route.page)) return;
      event.preventDefault();
      operator.touch();
      actions[action]();
    },
    up(event) {
      if (event.code === "KeyH") heat.held = false;
    },
    release() {
      heat.held = false;
    },
  };
}
