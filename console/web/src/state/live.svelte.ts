// The feed's socket: one for the whole page, whatever it shows.
import { FeedSession, STALE_AFTER_MS, type Notice, type Phase, type ServerMessage } from "../live/session";
import { address } from "../router.svelte";
import { images } from "./images.svelte";

const POSITION = "lineside.feed-position";
/** Close code of the feed for a first message that it cannot serve. */
const BAD_REQUEST = 4000;
/** What browsers report of a connection that ended without a word. */
const GONE = 1006;
const POSITION_USABLE_MS = 15 * 60_000;

interface Stored {
  readonly position: string;
  readonly at: number;
}

function storedPosition(): Stored | null {
  try {
    const stored = JSON.parse(sessionStorage.getItem(POSITION) ?? "null") as Stored | null;
    return stored && Date.now() - stored.at < POSITION_USABLE_MS ? stored : null;
  } catch {
    return null;
  }
}

class Live {
  phase = $state<Phase>("connecting");
  /** Last sign of life before the feed went stale. */
  since = $state(Date.now());
  notice = $state.raw<Notice | null>(null);
  /** By the server's clock; null while the broker answers. */
  brokerAwaySince = $state<number | null>(null);
  /** Server clock minus this computer's, milliseconds. */
  serverAheadMs = $state(0);
  #session = new FeedSession(null, Date.now());
  #socket: WebSocket | null = null;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #stopped = true;
  #connectedAt = 0;
  #onReload: () => void = () => undefined;

  /** Connects; `onReload` runs when a connection stands and the list is to be read again. */
  start(onReload: () => void): () => void {
    this.#onReload = onReload;
    this.#stopped = false;
    const stored = storedPosition();
    this.#session = new FeedSession(stored?.position ?? null, Date.now(), stored?.at);
    this.#connect();
    const timer = setInterval(() => this.#tick(), 500);
    return () => {
      this.#stopped = true;
      clearInterval(timer);
      clearTimeout(this.#retry);
      this.#socket?.close();
    };
  }

  dismiss(): void {
    this.#session.notice = null;
    this.notice = null;
  }

  #connect(): void {
    const url = new URL(address("v1/feed"));
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#connectedAt = Date.now();
    socket.onopen = () => socket.send(JSON.stringify(this.#session.subscription({})));
    socket.onmessage = (event) => this.#receive(String(event.data));
    socket.onclose = (event) => {
      if (this.#socket !== socket) return;
      if (event.code === BAD_REQUEST) this.#session.positionRefused(Date.now());
      this.#reconnect(event.code);
    };
  }

  #reconnect(code: number): void {
    this.#socket = null;
    if (this.#stopped) return;
    const delay = this.#session.closed(Math.random(), code, Date.now());
    this.#retry = setTimeout(() => this.#connect(), delay);
    this.#show();
  }

  #receive(text: string): void {
    const message = JSON.parse(text) as ServerMessage;
    const delivered = this.#session.receive(message, Date.now());
    if (delivered) images.receive(delivered);
    this.#show();
    if (message.type === "hello") this.#onReload();
    if (message.type === "heartbeat") this.#store();
  }

  #tick(): void {
    const now = Date.now();
    this.#session.tick(now);
    const quietSince = Math.max(this.#session.heardAt, this.#connectedAt);
    if (this.#socket && now - quietSince >= STALE_AFTER_MS) {
      // A half-open connection may never report its end: leave it and start anew.
      this.#socket.onmessage = null;
      this.#socket.close();
      this.#reconnect(GONE);
    }
    this.#show();
  }

  #store(): void {
    const { position } = this.#session;
    if (position) sessionStorage.setItem(POSITION, JSON.stringify({ position, at: Date.now() }));
  }

  #show(): void {
    this.phase = this.#session.phase;
    this.since = this.#session.heardAt;
    this.notice = this.#session.notice;
    this.brokerAwaySince = this.#session.brokerAwaySince;
    this.serverAheadMs = this.#session.serverAheadMs;
  }
}

export const live = new Live();
