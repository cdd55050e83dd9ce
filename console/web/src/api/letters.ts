// Dead letters and their replays, as the API answers them.
import { call, idempotencyKey, withQuery } from "./http";

export type LetterState = "open" | "replayed" | "resolved";

export interface Letter {
  readonly event_id: string;
  readonly state: LetterState;
  readonly stage: string;
  readonly reason: string;
  readonly error_text: string;
  readonly occurred_at: string;
  readonly product: string | null;
  readonly image_id: string | null;
  readonly thumbnail_url: string | null;
  readonly content_url: string | null;
  readonly part_id: string | null;
  readonly lot_id: string | null;
  readonly station: string | null;
  readonly topic: string;
  readonly partition: number;
  readonly offset: number;
  readonly is_replayable: boolean;
  readonly replay_of: string | null;
  readonly replayed_at: string | null;
  readonly returned_as: string | null;
  readonly resolved_by: string | null;
  readonly resolved_at: string | null;
}

export interface Content {
  readonly encoding: "json" | "text" | "base64" | "none";
  readonly data: unknown;
  readonly size_bytes: number;
}

export interface Return {
  readonly replay_id: string;
  readonly requested_by: string;
  readonly requested_at: string;
  readonly reason: string | null;
  readonly put_back_at: string | null;
  readonly outcome: "queued" | "stopped" | "waiting" | "resolved" | "returned" | "passed_over";
}

export interface LetterDetail extends Letter {
  readonly error_class: string;
  readonly attempts: number;
  readonly first_attempt_at: string;
  readonly last_attempt_at: string;
  readonly trace_id: string | null;
  readonly record: {
    readonly key: Content;
    readonly headers: readonly (Content & { readonly name: string })[];
    readonly value: Content;
    readonly omitted: readonly string[];
  };
  readonly history: {
    readonly earlier: readonly Letter[];
    readonly returned: readonly Letter[];
    readonly other_stages: readonly Letter[];
    readonly replays: readonly Return[];
  };
}

export interface LetterCount {
  readonly stage: string;
  readonly reason: string;
  readonly open: number;
  readonly replayed: number;
  readonly resolved: number;
}

export interface LetterSpan {
  readonly stage?: string;
  readonly reason?: string;
  readonly product?: string;
  readonly since?: string;
}

export interface Replay {
  readonly replay_id: string;
  readonly state: "running" | "stopped" | "done";
  readonly requested_at: string;
  readonly requested_by: string;
  readonly reason: string | null;
  readonly rate_per_s: number;
  readonly letters: number;
  readonly left: number;
  readonly put_back: number;
  readonly passed_over: number;
  /** How many of those for which reason. */
  readonly passed_over_for: Readonly<Record<string, number>>;
  readonly returned: number;
  readonly resolved: number;
  readonly waiting: number;
}

export interface ReplayOrder {
  readonly ids?: readonly string[];
  readonly filter?: LetterSpan;
  readonly again?: boolean;
  readonly rate_per_s: number;
  readonly requested_by: string | null;
  readonly reason: string | null;
}

export interface LetterPage {
  readonly dead_letters: readonly Letter[];
  readonly next_cursor: string | null;
  readonly counts: readonly LetterCount[];
}

export const listLetters = (
  span: LetterSpan,
  more: { state?: LetterState; cursor?: string | null; limit?: number },
): Promise<LetterPage> => call(withQuery("v1/dead-letters", { ...span, ...more }));

export const getLetter = (id: string): Promise<LetterDetail> =>
  call(`v1/dead-letters/${encodeURIComponent(id)}`);

export const replayLetters = (order: ReplayOrder): Promise<{ replay_id: string; letters: number }> =>
  call("v1/dead-letters/replay", { method: "POST", json: order, idempotencyKey: idempotencyKey() });

/** What a replay would take, and which of the named letters it would leave out. */
export interface ReplayPlan {
  readonly letters: number;
  readonly left_out: Readonly<Record<string, number>>;
}

export const planReplay = (order: ReplayOrder): Promise<ReplayPlan> =>
  call("v1/dead-letters/replay", { method: "POST", json: { ...order, dry_run: true } });

export const listReplays = async (limit: number): Promise<readonly Replay[]> =>
  (await call<{ replays: readonly Replay[] }>(withQuery("v1/dead-letter-replays", { limit }))).replays;

export const steerReplay = (id: string, act: "stop" | "resume", by: string | null): Promise<Replay> =>
  call(`v1/dead-letter-replays/${encodeURIComponent(id)}/${act}`, { method: "POST", json: { by } });
