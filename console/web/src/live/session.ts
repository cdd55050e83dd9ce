// The life of one feed connection as a state machine without clock or socket.
// interfaces.md section 4: hello, event, heartbeat; at least once; resume from a position.

export const STALE_AFTER_MS = 10_000;
const FIRST_DELAY_MS = 500;
const LONGEST_DELAY_MS = 15_000;
/** A heartbeat after this long without an event ends catching up. */
const QUIET_MS = 1000;
/** Close code of a server that is there and waits for its broker. */
const TRY_LATER = 1013;
const REMEMBERED_IDS = 20_000;

export type Phase = "connecting" | "live" | "stale";

export type Notice =
  | { readonly kind: "caught-up"; readonly count: number; readonly at: number }
  | { readonly kind: "gap"; readonly from: number; readonly to: number };

export interface ServerMessage {
  readonly type: string;
  readonly recovered?: boolean;
  readonly from?: string | null;
  readonly to?: string | null;
  readonly position?: string | null;
  readonly topic?: string;
  readonly event?: {
    readonly event_id?: string;
    readonly subject?: { readonly image_id?: string } | null;
  };
  readonly server_time?: string;
  readonly broker?: string;
  readonly broker_away_since?: string;
  readonly [other: string]: unknown;
}

export interface Delivered {
  readonly topic: string;
  readonly event: { readonly event_id: string };
  readonly replayed: boolean;
}

const aboutWhat = (message: ServerMessage): string =>
  message.event?.subject?.image_id ?? message.event?.event_id ?? "";

export class FeedSession {
  phase: Phase = "connecting";
  position: string | null;
  notice: Notice | null = null;
  /** When the last sign of life came; the start of the page until there is one. */
  heardAt: number;
  /** Set while a resumed connection still delivers what was missed. */
  catchingUp = false;
  /** Since when, by the server's clock, the broker does not answer it: what it accepts waits. */
  brokerAwaySince: number | null = null;
  serverAheadMs = 0;
  #attempts = 0;
  /** Images that were caught up with; events about none count by themselves. */
  #caughtUp = new Set<string>();
  #head: string | null = null;
  #eventAt = 0;
  #wasLive = false;
  readonly #leftAt: number;
  #seen = new Set<string>();

  /** `leftAt`: when a page that kept its position was last alive. */
  constructor(position: string | null, now: number, leftAt: number = now) {
    this.position = position;
    this.heardAt = now;
    this.#leftAt = leftAt;
  }

  /** First message of a connection. */
  subscription(filter: object): object {
    return { subscribe: filter, position: this.position ?? "latest" };
  }

  /** Takes one message in; returns an event that was not seen before. */
  receive(message: ServerMessage, now: number): Delivered | null {
    switch (message.type) {
      case "hello":
        this.#hello(message, now);
        return null;
      case "heartbeat":
        this.#heartbeat(message, now);
        return null;
      case "event":
        return this.#event(message, now);
      default:
        return null;
    }
  }

  #hello(message: ServerMessage, now: number): void {
    const resumed = this.position !== null;
    const silentSince = this.#wasLive ? this.heardAt : this.#leftAt;
    this.#alive(now);
    this.#attempts = 0;
    this.#caughtUp.clear();
    this.#head = message.to ?? null;
    this.catchingUp = resumed && message.recovered !== false;
    if (message.from) this.position = message.from;
    if (resumed && message.recovered === false) {
      this.notice = { kind: "gap", from: silentSince, to: now };
    }
    if (this.catchingUp && message.from && message.from === message.to) this.#caughtUpNow(now);
  }

  #heartbeat(message: ServerMessage, now: number): void {
    this.#alive(now);
    this.brokerAwaySince =
      message.broker === "away" ? Date.parse(message.broker_away_since ?? "") || now : null;
    if (message.position) this.position = message.position;
    if (message.server_time) this.serverAheadMs = Date.parse(message.server_time) - now;
    if (this.catchingUp && now - this.#eventAt >= QUIET_MS) this.#caughtUpNow(now);
    this.#wasLive = true;
  }

  #caughtUpNow(now: number): void {
    this.catchingUp = false;
    if (this.#wasLive || this.#caughtUp.size > 0) {
      this.notice = { kind: "caught-up", count: this.#caughtUp.size, at: now };
    }
    this.#wasLive = true;
  }

  #event(message: ServerMessage, now: number): Delivered | null {
    this.#alive(now);
    this.#eventAt = now;
    const replayed = this.catchingUp;
    const fresh = this.#isFresh(message);
    if (replayed && fresh) this.#caughtUp.add(aboutWhat(message));
    if (message.position) this.position = message.position;
    if (replayed && message.position === this.#head) this.#caughtUpNow(now);
    if (!fresh) return null;
    return {
      topic: message.topic ?? "",
      event: message.event as { event_id: string },
      replayed,
    };
  }

  #isFresh(message: ServerMessage): boolean {
    const id = message.event?.event_id;
    if (!message.topic || !id || this.#seen.has(id)) return false;
    this.#remember(id);
    return true;
  }

  /** The server does not know the position that it was given: begin anew, and say so. */
  positionRefused(now: number): void {
    this.notice = { kind: "gap", from: this.#wasLive ? this.heardAt : this.#leftAt, to: now };
    this.position = null;
  }

  #alive(now: number): void {
    this.heardAt = now;
    this.phase = "live";
  }

  #remember(id: string): void {
    this.#seen.add(id);
    if (this.#seen.size <= REMEMBERED_IDS) return;
    const oldest = this.#seen.values().next().value;
    if (oldest !== undefined) this.#seen.delete(oldest);
  }

  /** Looks at the clock: without a sign of life for ten seconds the page is stale. */
  tick(now: number): void {
    if (now - this.heardAt >= STALE_AFTER_MS) this.phase = "stale";
  }

  /** The connection is gone, with that close code; returns the milliseconds until the next try. `random` in [0, 1). */
  closed(random: number, code: number, now: number): number {
    if (code !== TRY_LATER) this.brokerAwaySince = null;
    else this.brokerAwaySince ??= now + this.serverAheadMs;
    this.catchingUp = false;
    this.#wasLive = true;
    if (this.phase === "live") this.phase = "connecting";
    const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** this.#attempts);
    this.#attempts += 1;
    return ceiling / 2 + (random * ceiling) / 2;
  }
}
