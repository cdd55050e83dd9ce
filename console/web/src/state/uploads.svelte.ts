// Files on their way to the server: a few at a time, each with an outcome of its own.
import { uploadImage, type UploadFields } from "../api/calls";
import { Problem } from "../api/problem";

export type UploadState = "queued" | "sending" | "waiting" | "accepted" | "refused";

export interface Upload {
  readonly id: number;
  readonly file: File;
  readonly fields: UploadFields;
  readonly state: UploadState;
  /** 0…1 while sending. */
  readonly done: number;
  readonly imageId: string | null;
  readonly duplicate: boolean;
  readonly problem: Problem | null;
}

const AT_ONCE = 3;
const SHOWN_AFTER_ACCEPT_MS = 4000;
const LONGEST_WAIT_S = 60;
const WAIT_AND_RETRY = new Set([0, 429, 502, 503, 504]);

export class Uploads {
  items = $state.raw<readonly Upload[]>([]);
  #next = 1;
  #onAccepted: (imageId: string, fields: UploadFields) => void;

  constructor(onAccepted: (imageId: string, fields: UploadFields) => void = () => undefined) {
    this.#onAccepted = onAccepted;
  }

  add(files: Iterable<File>, fields: UploadFields): void {
    const fresh = [...files].map((file) => ({
      id: this.#next++,
      file,
      fields,
      state: "queued" as const,
      done: 0,
      imageId: null,
      duplicate: false,
      problem: null,
    }));
    this.items = [...this.items, ...fresh];
    this.#pump();
  }

  dismiss(id: number): void {
    this.items = this.items.filter((item) => item.id !== id);
  }

  retry(id: number): void {
    this.#change(id, { state: "queued", problem: null, done: 0 });
    this.#pump();
  }

  #pump(): void {
    let free = AT_ONCE - this.items.filter((item) => item.state === "sending").length;
    for (const item of this.items) {
      if (free <= 0) return;
      if (item.state !== "queued") continue;
      free -= 1;
      void this.#send(item);
    }
  }

  async #send(item: Upload): Promise<void> {
    this.#change(item.id, { state: "sending" });
    try {
      const answer = await uploadImage(item.file, item.fields, (done) =>
        this.#change(item.id, { done }),
      );
      this.#change(item.id, {
        state: "accepted",
        done: 1,
        imageId: answer.image_id,
        duplicate: answer.duplicate,
      });
      this.#onAccepted(answer.image_id, item.fields);
      setTimeout(() => this.dismiss(item.id), SHOWN_AFTER_ACCEPT_MS);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.#failed(item.id, error);
    }
    this.#pump();
  }

  #failed(id: number, problem: Problem): void {
    if (!WAIT_AND_RETRY.has(problem.status)) {
      this.#change(id, { state: "refused", problem });
      return;
    }
    this.#change(id, { state: "waiting", problem });
    const seconds = Math.min(LONGEST_WAIT_S, Math.max(1, problem.retryAfterS ?? 5));
    setTimeout(() => this.retry(id), seconds * 1000);
  }

  #change(id: number, change: Partial<Upload>): void {
    this.items = this.items.map((item) => (item.id === id ? { ...item, ...change } : item));
  }
}
