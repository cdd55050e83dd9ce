// Keyboard map by event.code: the same keys whatever layout or input method is on.

export type KeyAction =
  | "next" | "previous" | "confirm-ng" | "mark-ok" | "hold" | "again" | "heat" | "blink"
  | "normal" | "similar" | "report" | "acknowledge" | "undo" | "leave" | "help";

const KEYS: Readonly<Record<string, KeyAction>> = {
  KeyJ: "next",
  KeyK: "previous",
  Digit1: "confirm-ng",
  Digit2: "mark-ok",
  Digit3: "hold",
  Digit4: "again",
  Numpad1: "confirm-ng",
  Numpad2: "mark-ok",
  Numpad3: "hold",
  Numpad4: "again",
  KeyH: "heat",
  KeyB: "blink",
  KeyN: "normal",
  KeyS: "similar",
  KeyR: "report",
  KeyA: "acknowledge",
  KeyU: "undo",
  Escape: "leave",
};

export interface Pressed {
  readonly code: string;
  readonly key: string;
  readonly isComposing: boolean;
  readonly ctrlKey: boolean;
  readonly metaKey: boolean;
  readonly altKey: boolean;
  readonly repeat: boolean;
}

/** What a key asks for; null while typing, composing Hangul, or with a modifier. */
export function actionOf(pressed: Pressed, typing: boolean): KeyAction | null {
  if (pressed.isComposing || pressed.key === "Process" || typing) return null;
  if (pressed.ctrlKey || pressed.metaKey || pressed.altKey) return null;
  if (pressed.key === "?") return "help";
  return KEYS[pressed.code] ?? null;
}

const TYPED_INTO = new Set([
  "text", "search", "email", "number", "password", "tel", "url", "date", "time", "datetime-local",
]);

/** Whether keys go into a text at this element. */
export function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target.isContentEditable || target.tagName === "TEXTAREA" || target.tagName === "SELECT") {
    return true;
  }
  return target instanceof HTMLInputElement && TYPED_INTO.has(target.type);
}
