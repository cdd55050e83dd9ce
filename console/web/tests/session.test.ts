import { expect, test } from "vitest";
import { FeedSession, STALE_AFTER_MS, type ServerMessage } from "../src/live/session";

const hello = (from: string, to: string, recovered = true): ServerMessage => ({ type: "hello", recovered, from, to });
const event = (id: string, position: string, image = id): ServerMessage => ({
  type: "event",
  topic: "images.scored",
  position,
  event: { event_id: id, subject: { image_id: image } },
});
const heartbeat = (position: string, more: object = {}): ServerMessage => ({ type: "heartbeat", position, ...more });

/** A session that lived, lost its connection and got it back. */
function returned(from: string, to: string, recovered = true): FeedSession {
  const session = new FeedSession(null, 0);
  session.receive(hello("0", "0"), 0);
  session.receive(heartbeat("0"), 5000);
  session.closed(0, 1006, 0);
  session.receive(hello(from, to, recovered), 20_000);
  return session;
}

test("the first subscription asks for the latest, later ones for the last position", () => {
  const session = new FeedSession(null, 0);
  expect(session.subscription({})).toEqual({ subscribe: {}, position: "latest" });
  session.receive(hello("p0", "p0"), 1);
  session.receive(event("a", "p1"), 2);
  expect(session.subscription({})).toEqual({ subscribe: {}, position: "p1" });
});

test("an event that comes twice is delivered once", () => {
  const session = new FeedSession(null, 0);
  expect(session.receive(event("a", "1"), 1)).not.toBeNull();
  expect(session.receive(event("a", "1"), 2)).toBeNull();
});

test("without a sign of life for ten seconds the page is stale, and a heartbeat heals it", () => {
  const session = new FeedSession(null, 0);
  session.receive(hello("0", "0"), 1000);
  session.tick(1000 + STALE_AFTER_MS - 1);
  expect(session.phase).toBe("live");
  session.tick(1000 + STALE_AFTER_MS);
  expect(session.phase).toBe("stale");
  session.receive(heartbeat("0"), 12_000);
  expect(session.phase).toBe("live");
});

test("a page that never connects turns stale too", () => {
  const session = new FeedSession(null, 0);
  session.tick(STALE_AFTER_MS);
  expect(session.phase).toBe("stale");
});

test("coming back counts the images that were missed, not their events", () => {
  const session = returned("5", "8");
  session.receive(event("a", "6", "one"), 20_010);
  session.receive(event("b", "7", "one"), 20_020);
  expect(session.notice).toBeNull();
  session.receive(event("c", "8", "two"), 20_030);
  expect(session.notice).toEqual({ kind: "caught-up", count: 2, at: 20_030 });
  expect(session.receive(event("d", "9", "three"), 20_040)?.replayed).toBe(false);
});

test("coming back to nothing new says so at once", () => {
  expect(returned("8", "8").notice).toMatchObject({ kind: "caught-up", count: 0 });
});

test("a heartbeat amid a long catch-up does not end it, one after silence does", () => {
  const session = returned("5", "unreachable");
  session.receive(event("a", "6"), 24_900);
  session.receive(heartbeat("6"), 25_000);
  expect(session.notice).toBeNull();
  session.receive(heartbeat("6"), 30_000);
  expect(session.notice).toMatchObject({ kind: "caught-up", count: 1 });
});

test("history that is gone is told with the times between which it is missing", () => {
  expect(returned("7", "9", false).notice).toEqual({ kind: "gap", from: 5000, to: 20_000 });
});

test("a page that was loaded anew tells a gap from when it was left", () => {
  const session = new FeedSession("old", 100_000, 40_000);
  session.receive(hello("7", "9", false), 101_000);
  expect(session.notice).toEqual({ kind: "gap", from: 40_000, to: 101_000 });
});

test("a refused position is given up", () => {
  const session = new FeedSession("bad", 0);
  session.positionRefused(10);
  expect(session.subscription({})).toMatchObject({ position: "latest" });
});

test("a first connection is no return", () => {
  const session = new FeedSession(null, 0);
  session.receive(hello("0", "3"), 1);
  session.receive(heartbeat("3"), 5000);
  expect(session.notice).toBeNull();
});

test("tries to reconnect grow apart up to a limit, and no two clients agree on them", () => {
  const session = new FeedSession(null, 0);
  const delays = Array.from({ length: 8 }, () => session.closed(0.999, 1006, 0));
  expect(delays[0]).toBeLessThanOrEqual(500);
  expect(delays[3]).toBeGreaterThan(delays[0] ?? 0);
  expect(Math.max(...delays)).toBeLessThanOrEqual(15_000);
  expect(new FeedSession(null, 0).closed(0, 1006, 0)).not.toBe(new FeedSession(null, 0).closed(0.9, 1006, 0));
});

test("a broker that is away shows in the heartbeat", () => {
  const session = new FeedSession(null, 0);
  const since = "2026-11-23T00:00:00.000Z";
  session.receive(heartbeat("1", { broker: "away", broker_away_since: since }), 1);
  expect(session.brokerAwaySince).toBe(Date.parse(since));
  session.receive(heartbeat("1", { broker: "up" }), 2);
  expect(session.brokerAwaySince).toBeNull();
  session.receive(heartbeat("1", { broker: "away" }), 3);
  expect(session.brokerAwaySince).toBe(3);
});

test("a server that waits for its broker says so when it closes", () => {
  const session = new FeedSession(null, 0);
  session.closed(0, 1013, 5);
  session.closed(0, 1013, 9);
  expect(session.brokerAwaySince).toBe(5);
  session.closed(0, 1006, 12);
  expect(session.brokerAwaySince).toBeNull();
});
