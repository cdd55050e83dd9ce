// What a person does to an image: decide, undo, acknowledge, ask a stage to run.
import * as api from "../api/calls";
import { Problem } from "../api/problem";
import type { Decision } from "../api/shapes";
import type { ReviewRecorded } from "../generated/events";
import { applyEvent, type Inspection } from "../record/inspection";
import { machineState, notSimilar } from "../record/verdict";
import { images } from "./images.svelte";
import { live } from "./live.svelte";
import { site } from "./site.svelte";

export const UNDO_MS = 10_000;

export interface Undoable {
  readonly imageId: string;
  readonly part: string;
  readonly decision: Decision;
  readonly reviewId: string;
  readonly until: number;
}

export interface ReviewDetails {
  readonly defectType?: string | null;
  readonly reviewer?: string;
  readonly reason?: string;
}

class Acts {
  undoable = $state.raw<Undoable | null>(null);
  problem = $state.raw<Problem | null>(null);
  /** An act is on its way: the buttons wait. */
  busy = $state(false);
  /** The defect type chosen for the next decision, by image. */
  defectType = $state.raw<Readonly<Record<string, string | null>>>({});

  chooseType(imageId: string, code: string | null): void {
    this.defectType = { ...this.defectType, [imageId]: code };
  }

  /** Whether the decision needs a name and a reason first: a machine's NG called good. */
  needsReason(held: Inspection, decision: Decision): boolean {
    return decision === "ok" && machineState(held) === "NG";
  }

  async decide(held: Inspection, decision: Decision, details: ReviewDetails = {}): Promise<boolean> {
    const reviewer = details.reviewer ?? (site.operator || null);
    const body = {
      decision,
      defect_type: decision === "ok" ? null : (details.defectType ?? this.defectType[held.image_id] ?? null),
      reviewer,
      reason: details.reason ?? null,
    };
    return this.#run(async () => {
      const answer = await api.review(held.image_id, body);
      this.#remember(held, { ...body, event_id: answer.event_id });
      this.undoable = {
        imageId: held.image_id,
        part: held.subject.part_id ?? held.image_id.slice(0, 8),
        decision,
        reviewId: answer.event_id,
        until: Date.now() + UNDO_MS,
      };
    });
  }

  /** Takes the last decision back while it may be; sends a new event, deletes nothing. */
  async undo(): Promise<void> {
    const last = this.undoable;
    if (!last || Date.now() > last.until) return;
    this.undoable = null;
    await this.#run(async () => {
      const reviewer = site.operator || null;
      const answer = await api.review(last.imageId, { undoes: last.reviewId, reviewer });
      const held = images.get(last.imageId);
      if (held) this.#remember(held, { event_id: answer.event_id, undoes: last.reviewId, reviewer });
    });
  }

  /** Remembers that a case is unlike the image; a second time takes it back. */
  async toggleNotSimilar(held: Inspection, caseId: string): Promise<void> {
    const reviewer = site.operator || null;
    const remark = notSimilar(held).get(caseId);
    const body = remark ? { undoes: remark.event_id, reviewer } : { not_similar: caseId, reviewer };
    await this.#run(async () => {
      const answer = await api.review(held.image_id, body);
      this.#remember(held, { ...body, not_similar: caseId, event_id: answer.event_id });
    });
  }

  async acknowledge(held: Inspection): Promise<void> {
    const verdict = held.scored;
    if (!verdict) return;
    await this.#run(async () => {
      const answer = await api.acknowledge(held.image_id, site.operator || null);
      this.#remember(held, {
        event_id: answer.event_id,
        acknowledges: verdict.event_id,
        reviewer: site.operator || null,
      });
    });
  }

  runAnomaly(held: Inspection): Promise<boolean> {
    return this.#ask(held, "anomaly", () => api.inspect(held.image_id, site.operator || null));
  }

  makeReport(held: Inspection): Promise<boolean> {
    return this.#ask(held, "llm", () => api.explain(held.image_id, site.operator || null));
  }

  #ask(held: Inspection, stage: "anomaly" | "llm", send: () => Promise<unknown>): Promise<boolean> {
    const answered = machineState(held);
    return this.#run(async () => {
      // The answer's origin is the server's time of the request; clocks may differ by a little.
      const at = Date.now() + live.serverAheadMs - 2000;
      images.markAsked(held.image_id, stage, at);
      if (stage === "llm" && (answered === "NOT_JUDGED" || answered === "WAITING")) {
        images.markAsked(held.image_id, "anomaly", at);
      }
      try {
        await send();
      } catch (error) {
        images.markAsked(held.image_id, stage, null);
        throw error;
      }
    });
  }

  /** Shows the act at once; the same event arriving on the feed changes nothing. */
  #remember(held: Inspection, review: Record<string, unknown> & { event_id: string }): void {
    const event = {
      occurred_at: new Date(Date.now() + live.serverAheadMs).toISOString(),
      subject: held.subject,
      ...review,
    } as unknown as ReviewRecorded;
    const current = images.get(held.image_id) ?? held;
    images.known.set(held.image_id, applyEvent(current, { topic: "reviews.recorded", event }));
    images.changes += 1;
  }

  async #run(act: () => Promise<void>): Promise<boolean> {
    this.busy = true;
    this.problem = null;
    try {
      await act();
      return true;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      this.problem = error;
      return false;
    } finally {
      this.busy = false;
    }
  }
}

export const acts = new Acts();
