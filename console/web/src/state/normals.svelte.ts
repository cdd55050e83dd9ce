// Good photos of one product: sending them, and those that are stored.
import { deleteNormal, listNormals, uploadNormal, type Normal } from "../api/calls";
import { Problem } from "../api/problem";
import type { StoredFile } from "../api/shapes";

const AT_ONCE = 2;
const SHOWN = 60;
const TRIES = 4;

export class Normals {
  stored = $state.raw<readonly Normal[]>([]);
  total = $state(0);
  /** Files given so far, and those with an outcome. */
  given = $state(0);
  finished = $state(0);
  duplicates = $state(0);
  refused = $state.raw<readonly StoredFile[]>([]);
  readonly sending = $derived(this.finished < this.given);
  readonly #product: string;
  #waiting: File[] = [];
  #busy = 0;

  constructor(product: string) {
    this.#product = product;
  }

  async load(): Promise<void> {
    const page = await listNormals(this.#product, SHOWN);
    this.stored = page.normals;
    this.total = page.total;
  }

  add(files: readonly File[]): void {
    this.given += files.length;
    this.#waiting.push(...files);
    while (this.#busy < AT_ONCE && this.#waiting.length > 0) void this.#work();
  }

  async remove(sha256: string): Promise<void> {
    await deleteNormal(this.#product, sha256);
    await this.load();
  }

  async #work(): Promise<void> {
    this.#busy += 1;
    for (let file = this.#waiting.shift(); file; file = this.#waiting.shift()) {
      const outcome = await this.#send(file);
      this.finished += 1;
      if (outcome.result === "duplicate") this.duplicates += 1;
      if (outcome.result === "refused") this.refused = [...this.refused, outcome];
      else if (this.finished % 10 === 0) await this.load().catch(() => undefined);
    }
    this.#busy -= 1;
    if (this.#busy === 0) await this.load().catch(() => undefined);
  }

  async #send(file: File): Promise<StoredFile> {
    for (let tried = 1; ; tried += 1) {
      try {
        const answer = await uploadNormal(this.#product, file, () => undefined);
        if (answer.total !== undefined) this.total = answer.total;
        const [first] = answer.files;
        if (first) return first;
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        const passing = error.status === 0 || error.status === 429 || error.status >= 502;
        if (!passing || tried >= TRIES) return refusedBy(file, error.slug);
        await new Promise((resolve) => setTimeout(resolve, (error.retryAfterS ?? tried) * 1000));
        continue;
      }
      return refusedBy(file, "unknown");
    }
  }
}

const refusedBy = (file: File, reason: string): StoredFile => ({
  name: file.name,
  result: "refused",
  sha256: null,
  reason,
  detail: null,
});
