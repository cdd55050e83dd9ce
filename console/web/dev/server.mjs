// A pretend Lineside for developing the pages: canned data, drawn pictures, a live feed.
//
//   node dev/server.mjs [--port 5055] [--empty] [--no-llm] [--rows 1000] [--quiet] [--long-names] [--letters 1000]
//
// Serves dist/ as well. POST /mock/feed?do=cut|heal|forget plays the network's troubles;
// POST /mock/image?product=cap&outcome=NG sends one image; POST /mock/line plays silent cameras.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { Letters } from "./letters.mjs";
import { answer } from "./routes.mjs";
import { accept } from "./websocket.mjs";
import { World } from "./world.mjs";

const DIST = join(dirname(fileURLToPath(import.meta.url)), "../dist");
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" };
const CSP =
  "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; " +
  "connect-src 'self'; base-uri 'self'; object-src 'none'; frame-ancestors 'none'";
const args = process.argv.slice(2);
const flag = (name) => args.includes(name);
const option = (name, otherwise) => (flag(name) ? args[args.indexOf(name) + 1] : otherwise);

const world = new World({ empty: flag("--empty"), llm: !flag("--no-llm") });
const rows = Number(option("--rows", "40"));
if (!flag("--empty")) {
  world.autoReports = false;
  for (let i = rows; i > 0; i -= 1) {
    const product = i % 5 === 0 ? "plate" : "cap";
    const purpose = i % 17 === 3 ? "golden" : "production";
    const image = world.upload(product, {
      at: new Date(Date.now() - i * 9000), quick: true, purpose, longNames: flag("--long-names"),
    });
    if (i > 12 && image.outcome === "NG") world.review(image, { decision: "ng", defect_type: "scratch" });
  }
  world.autoReports = true;
}

world.letters = new Letters(world, Number(option("--letters", "0")));

let mode = "on";
let broker = { broker: "up" };
const clients = new Set();

function broadcast(client) {
  if (mode !== "on" || !client.subscribed) return;
  while (client.next < world.log.length) {
    const { topic, event } = world.log[client.next];
    client.next += 1;
    client.send(JSON.stringify({ type: "event", topic, position: String(client.next), event }));
  }
}

function subscribe(client, text) {
  const { position } = JSON.parse(text);
  client.next = position === "latest" ? world.log.length : position === "earliest" ? 0 : Number(position);
  const recovered = mode !== "forgotten" && client.next <= world.log.length;
  if (!recovered) client.next = world.log.length;
  mode = "on";
  client.subscribed = true;
  client.send(JSON.stringify({
    type: "hello", recovered, from: String(client.next), to: String(world.log.length),
  }));
  broadcast(client);
  beat(client);
}

function beat(client) {
  if (mode !== "on" || !client.subscribed) return;
  client.send(JSON.stringify({ type: "heartbeat", server_time: new Date().toISOString(), position: String(client.next), ...broker }));
}

world.listeners.add(() => clients.forEach(broadcast));
setInterval(() => clients.forEach(beat), 5000);

function control(path, query, body) {
  if (path === "/mock/image") {
    const image = world.upload(query.get("product") ?? "cap", { outcome: query.get("outcome") ?? undefined });
    image.missing = query.has("missing");
    return { status: 200, type: "text/plain", body: image.subject.image_id };
  }
  if (path === "/mock/line") {
    world.line = body;
    broker = body.broker_away_since ? { broker: "away", broker_away_since: body.broker_away_since } : { broker: "up" };
    clients.forEach(beat);
    return { status: 200, type: "text/plain", body: "ok" };
  }
  const act = query.get("do");
  if (act === "cut" || act === "silent") {
    mode = act;
    if (act === "cut") clients.forEach((client) => client.close());
  } else mode = act === "forget" ? "forgotten" : "on";
  return { status: 200, type: "text/plain", body: mode };
}

function file(path) {
  const inside = normalize(path).replace(/^(\.\.[/\\])+/, "");
  try {
    return { status: 200, type: TYPES[extname(inside)] ?? "application/octet-stream", body: readFileSync(join(DIST, inside)) };
  } catch {
    return { status: 200, type: TYPES[".html"], body: readFileSync(join(DIST, "index.html")) };
  }
}

async function readBody(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  const data = Buffer.concat(parts);
  const type = request.headers["content-type"] ?? "";
  if (type.startsWith("multipart/")) {
    const form = await new Response(data, { headers: { "content-type": type } }).formData();
    const file = form.get("file");
    if (file) file.bytes = Buffer.from(await file.arrayBuffer());
    return { form: { get: (name) => (name === "file" ? file : form.get(name)) } };
  }
  return { body: data.length && type.includes("json") ? JSON.parse(data.toString()) : {} };
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, "http://x");
  const input = { method: request.method, path: url.pathname, query: url.searchParams, ...(await readBody(request)) };
  let out;
  if (input.path.startsWith("/mock/")) out = control(input.path, input.query, input.body);
  else if (input.path.startsWith("/v1/")) out = answer(world, input);
  else out = file(input.path);
  response.writeHead(out.status, { "content-type": out.type, "content-security-policy": CSP, "cache-control": "no-store" });
  response.end(out.body);
});
server.on("upgrade", (request, socket) => {
  if (mode === "cut") return socket.destroy();
  const client = accept(request, socket, {
    onText: (text) => subscribe(client, text),
    onClose: () => clients.delete(client),
  });
  if (client) clients.add(client);
});
server.listen(Number(option("--port", "5055")), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${server.address().port}/`);
});
if (!flag("--quiet") && !flag("--empty")) {
  setInterval(() => world.upload(Math.random() < 0.8 ? "cap" : "plate"), 4000);
}
