// The page of dead letters: what it lists, what is chosen, and the replays that run.
import { SvelteSet } from "svelte/reactivity";
import {
  getLetter,
  listLetters,
  listReplays,
  planReplay,
  replayLetters,
  steerReplay,
  type Letter,
  type LetterCount,
  type LetterDetail,
  type LetterPage,
  type LetterSpan,
  type LetterState,
  type Replay,
  type ReplayOrder,
  type ReplayPlan,
} from "../api/letters";
import { Problem } from "../api/problem";
import { site } from "./site.svelte";

const PAGE_SIZE = 200;
const MOST_AT_ONCE = 500;
const MOST_IDS = 1000;
const QUIET_POLL_MS = 8000;
const LIVE_POLL_MS = 1000;
const RUNS_SHOWN = 8;

export interface LetterChoice {
  readonly state: LetterState | "all";
  readonly stage: string;
  readonly reason: string;
  readonly product: string;
  /** Hours back from now; 0 = any time. */
  readonly hours: number;
}

export const ANY: LetterChoice = { state: "open", stage: "", reason: "", product: "", hours: 0 };

/** What the API is asked for; a time is counted from now, at each request anew. */
export function spanOf(choice: LetterChoice, now: number): LetterSpan {
  const { stage, reason, product, hours } = choice;
  return {
    ...(stage ? { stage } : {}),
    ...(reason ? { reason } : {}),
    ...(product ? { product } : {}),
    ...(hours ? { since: new Date(now - hours * 3_600_000).toISOString() } : {}),
  };
}

/** Whether a filter beside the state leaves letters out. */
export const isNarrowed = ({ stage, reason, product, hours }: LetterChoice): boolean =>
  Boolean(stage || reason || product || hours);

/** How many letters the counts tell of, in one state or in all. */
export function countOf(
  counts: readonly LetterCount[],
  choice: LetterChoice,
  state: LetterState | "all",
): number {
  return counts
    .filter((row) => !choice.stage || row.stage === choice.stage)
    .filter((row) => !choice.reason || row.reason === choice.reason)
    .reduce((sum, row) => sum + (state === "all" ? row.open + row.replayed + row.resolved : row[state]), 0);
}

export const isLive = (run: Replay): boolean =>
  run.state === "running" || (run.state === "done" && run.waiting > 0);

class Letters {
  choice = $state.raw<LetterChoice>(ANY);
  rows = $state.raw<readonly Letter[]>([]);
  counts = $state.raw<readonly LetterCount[]>([]);
  more = $state<string | null>(null);
  load = $state<"loading" | "ready" | "failed">("loading");
  problem = $state.raw<Problem | null>(null);
  readonly chosen = new SvelteSet<string>();
  openId = $state<string | null>(null);
  detail = $state.raw<LetterDetail | null>(null);
  run = $state.raw<Replay | null>(null);
  runs = $state.raw<readonly Replay[]>([]);
  busy = $state(false);
  #timer: ReturnType<typeof setTimeout> | undefined;
  #round = 0;
  #stopped = true;

  start(openId: string | null): () => void {
    this.#stopped = false;
    this.open(openId);
    void this.#poll();
    return () => {
      this.#stopped = true;
      clearTimeout(this.#timer);
    };
  }

  choose(change: Partial<LetterChoice>): void {
    this.choice = { ...this.choice, ...change };
    this.chosen.clear();
    this.rows = [];
    this.load = "loading";
    void this.refresh();
  }

  /** Asks again for all that is shown; a later round makes an earlier answer void. */
  async refresh(): Promise<void> {
    const round = (this.#round += 1);
    const wanted = Math.max(PAGE_SIZE, this.rows.length);
    try {
      let page = await this.#page(null, Math.min(wanted, MOST_AT_ONCE));
      const rows = [...page.dead_letters];
      const { counts } = page;
      while (page.next_cursor && rows.length < wanted) {
        page = await this.#page(page.next_cursor, MOST_AT_ONCE);
        rows.push(...page.dead_letters);
      }
      if (round !== this.#round) return;
      this.rows = rows;
      this.counts = counts;
      this.more = page.next_cursor;
      this.load = "ready";
      this.#forgetGone();
    } catch (error) {
      if (round !== this.#round) return;
      this.load = this.rows.length ? "ready" : "failed";
      this.problem = asProblem(error);
    }
  }

  async loadMore(): Promise<void> {
    if (!this.more || this.busy) return;
    this.busy = true;
    const round = this.#round;
    try {
      const page = await this.#page(this.more, PAGE_SIZE);
      if (round !== this.#round) return;
      const known = new Set(this.rows.map((row) => row.event_id));
      this.rows = [...this.rows, ...page.dead_letters.filter((row) => !known.has(row.event_id))];
      this.more = page.next_cursor;
    } catch (error) {
      this.problem = asProblem(error);
    } finally {
      this.busy = false;
    }
  }

  open(id: string | null): void {
    this.openId = id;
    if (id !== this.detail?.event_id) this.detail = null;
    if (id) void this.loadDetail(id);
  }

  async loadDetail(id: string): Promise<void> {
    try {
      const detail = await getLetter(id);
      if (this.openId === id) this.detail = detail;
    } catch (error) {
      if (this.openId === id) this.problem = asProblem(error);
    }
  }

  /** Opens the letter beside the one that is open. */
  step(by: number): void {
    const at = this.rows.findIndex((row) => row.event_id === this.openId);
    const next = at < 0 ? this.rows[0] : this.rows[at + by];
    if (next) this.open(next.event_id);
  }

  toggle(id: string): void {
    if (!this.chosen.delete(id) && this.chosen.size < MOST_IDS) this.chosen.add(id);
  }

  toggleShown(): void {
    if (this.chosen.size) {
      this.chosen.clear();
      return;
    }
    for (const row of this.rows) if (row.is_replayable && row.state === "open") this.toggle(row.event_id);
  }

  /** Asks how many of those that `replay` would take; null while the server does not tell. */
  async plan(ids: readonly string[] | null): Promise<ReplayPlan | null> {
    try {
      return await planReplay(this.#order(ids, 10, ""));
    } catch (error) {
      this.problem = asProblem(error);
      return null;
    }
  }

  /** Puts letters back: those ids, or all open ones that the filters match. */
  async replay(ids: readonly string[] | null, rate: number, reason: string): Promise<boolean> {
    this.busy = true;
    this.problem = null;
    try {
      await replayLetters(this.#order(ids, rate, reason));
      this.chosen.clear();
    } catch (error) {
      this.problem = asProblem(error);
      return false;
    } finally {
      this.busy = false;
    }
    await this.#poll();
    return true;
  }

  async steer(act: "stop" | "resume"): Promise<void> {
    if (!this.run) return;
    try {
      this.run = await steerReplay(this.run.replay_id, act, site.operator || null);
    } catch (error) {
      this.problem = asProblem(error);
    }
    await this.#poll();
  }

  #order(ids: readonly string[] | null, rate: number, reason: string): ReplayOrder {
    // Only one that is looked at is put back although its answer is awaited.
    const { detail } = this;
    const again = detail?.state === "replayed" && ids?.length === 1 && ids[0] === detail.event_id;
    return {
      ...(ids ? { ids, again } : { filter: spanOf(this.choice, Date.now()) }),
      rate_per_s: rate,
      requested_by: site.operator || null,
      reason: reason.trim() || null,
    };
  }

  #page(cursor: string | null, limit: number): Promise<LetterPage> {
    const { state } = this.choice;
    const span = spanOf(this.choice, Date.now());
    return listLetters(span, { ...(state === "all" ? {} : { state }), cursor, limit });
  }

  #forgetGone(): void {
    const shown = new Set(this.rows.map((row) => row.event_id));
    for (const id of this.chosen) if (!shown.has(id)) this.chosen.delete(id);
  }

  async #loadRuns(): Promise<void> {
    this.runs = await listReplays(RUNS_SHOWN);
    const mine = this.runs.find((run) => run.replay_id === this.run?.replay_id);
    this.run = this.runs.find(isLive) ?? mine ?? this.runs.find((run) => run.state === "stopped") ?? null;
  }

  async #poll(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      await this.#loadRuns();
      await this.refresh();
      if (this.openId) await this.loadDetail(this.openId);
    } catch (error) {
      this.problem = asProblem(error);
      if (!this.rows.length) this.load = "failed";
    }
    if (this.#stopped) return;
    const afterMs = this.run && isLive(this.run) ? LIVE_POLL_MS : QUIET_POLL_MS;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#poll(), afterMs);
  }
}

function asProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  throw error;
}

export const letters = new Letters();
