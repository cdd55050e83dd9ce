// What the tables say of the line: silent cameras, late verdicts. Asked for while the page lives.
import { getLine } from "../api/calls";
import type { LineFacts } from "../api/shapes";

const EVERY_MS = 5000;

class Line {
  /** Null while the server cannot be asked: an old answer would be a guess. */
  facts = $state.raw<LineFacts | null>(null);

  start(): () => void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    let stopped = false;
    const ask = async (): Promise<void> => {
      try {
        this.facts = await getLine();
      } catch {
        this.facts = null;
      }
      if (!stopped) timer = setTimeout(() => void ask(), EVERY_MS);
    };
    void ask();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }
}

export const line = new Line();
