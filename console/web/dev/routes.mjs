// The console's HTTP API over a World, close enough to develop pages against.
import { randomUUID } from "node:crypto";
import { answerLetters } from "./letters.mjs";
import { drawHeat, drawPart } from "./png.mjs";
import { MANUAL_PAGE } from "./reports.mjs";

const json = (status, body) => ({ status, type: "application/json", body: JSON.stringify(body) });
const png = (body) => ({ status: 200, type: "image/png", body });
const problem = (status, slug, detail = "", more = {}) => ({
  status, type: "application/problem+json", body: JSON.stringify({ slug, title: slug, status, detail, ...more }),
});

const standing = (image) => {
  const undone = new Set(image.reviews.map((r) => r.undoes));
  return image.reviews.filter((r) => r.decision && !undone.has(r.event_id)).at(-1) ?? null;
};
const acknowledged = (image) => {
  const ack = image.reviews.find((r) => r.acknowledges && r.acknowledges === image.scored?.event_id);
  return ack ? { event_id: ack.acknowledges, by: ack.reviewer, at: ack.occurred_at } : null;
};
const verdictOf = (image) => image.scored?.verdict ?? (image.skipped.length ? "NOT_JUDGED" : null);
const statusOf = (image) => (verdictOf(image) === "ERROR" ? "failed" : verdictOf(image) ? "complete" : "pending");

const item = (image) => ({
  image_id: image.subject.image_id, status: statusOf(image), verdict: verdictOf(image), subject: image.subject,
  scored: image.scored, decision: standing(image)?.decision ?? null, defect_type: standing(image)?.defect_type ?? null,
  acknowledged: acknowledged(image),
});
const detail = (image) => ({
  ...item(image), waiting_for: verdictOf(image) ? [] : ["anomaly"], embedded: image.embedded, explained: image.explained,
  skipped: image.skipped, reviews: image.reviews, decision: standing(image), dead_letters: image.dead_letters,
  superseded: image.superseded, requests: image.requests,
});

function counts(images) {
  const out = { total: images.length, OK: 0, NG: 0, REVIEW: 0, ERROR: 0, NOT_JUDGED: 0, pending: 0 };
  for (const image of images) out[verdictOf(image) ?? "pending"] += 1;
  return out;
}

const newestFirst = (world) =>
  [...world.images.values()].sort((a, b) => b.subject.received_at.localeCompare(a.subject.received_at));

function listImages(world, query) {
  let found = newestFirst(world).filter((image) => !query.get("product") || image.subject.product === query.get("product"));
  if (query.get("unacknowledged")) {
    found = found.filter((image) => verdictOf(image) === "NG" && !standing(image) && !acknowledged(image));
  }
  return json(200, { images: found.slice(0, Number(query.get("limit") ?? 50)).map(item), next_cursor: null });
}

function stats(world, query) {
  const all = newestFirst(world).filter((image) => !query.get("product") || image.subject.product === query.get("product"));
  const lots = [...new Set(all.map((image) => image.subject.lot_id))];
  return json(200, {
    all: counts(all), today: counts(all), by_time: [],
    unacknowledged: all.filter((i) => verdictOf(i) === "NG" && !standing(i) && !acknowledged(i)).length,
    by_lot: lots.map((lot_id) => ({ lot_id, ...counts(all.filter((i) => i.subject.lot_id === lot_id)) })),
  });
}

function picture(world, image, kind, size = 512) {
  if (kind === "heatmap") {
    return image.scratch && image.scored ? png(drawHeat(image.scratch, 256)) : problem(404, "no_heatmap");
  }
  if (image.missing) return problem(404, "missing_object", "the object store has no such picture");
  if (image.bytes) return { status: 200, type: image.bytes.type, body: image.bytes.data };
  return png(drawPart(image.subject.product, image.number, image.scratch, kind === "thumbnail" ? 160 : size));
}

function uploadImage(world, { form }) {
  const file = form.get("file");
  const product = form.get("product");
  if (!world.products.has(product)) {
    return problem(422, "unknown_product", "choose a product that exists", { errors: [{ field: "product", message: "unknown" }] });
  }
  if (!/^image\//.test(file.type)) return problem(415, "not_an_image", "send a JPEG, PNG, BMP or TIFF picture");
  if (file.size > 50e6) return problem(413, "image_too_large", "the limit is 50 MB");
  const image = world.upload(product, {
    bytes: { type: file.type, data: file.bytes }, source: "console", purpose: form.get("purpose") ?? "production",
    outcome: form.get("purpose") === "setup" ? "NG" : undefined,
  });
  if (form.get("anomaly") === "force") world.inspect(image);
  return json(202, { image_id: image.subject.image_id, status_url: `/v1/images/${image.subject.image_id}`, duplicate: false, duplicate_bytes: false });
}

function imageCall(world, id, act, { method, body }) {
  const image = world.images.get(id);
  if (!image) return problem(404, "unknown_image", "no image has this id");
  if (method === "GET") {
    if (!act) return json(200, detail(image));
    return picture(world, image, act);
  }
  const status_url = `/v1/images/${id}`;
  if (act === "inspect") return json(202, { event_id: world.inspect(image).event_id, image_id: id, stage: "anomaly", status_url });
  if (act === "explain") return json(202, { event_id: world.explain(image).event_id, image_id: id, stage: "llm", status_url });
  if (act === "acknowledge") {
    const event = world.review(image, { decision: null, acknowledges: image.scored?.event_id, reviewer: body.by ?? "operator" });
    return json(200, { event_id: event.event_id, image_id: id, duplicate: false, acknowledged: acknowledged(image) });
  }
  if (body.decision === "ok" && image.scored?.verdict === "NG" && !(body.reviewer && body.reason)) {
    return problem(422, "reason_required", "give a name and a reason");
  }
  const event = world.review(image, { ...body, reviewer: body.reviewer ?? "operator" });
  return json(201, { event_id: event.event_id, image_id: id, duplicate: false, case_id: null, machine_verdict: verdictOf(image) });
}

function startJob(world, product) {
  const job_id = randomUUID();
  const job = { job_id, product, state: "running", step: "features", done: 0, total: 40, eta_s: 8, version: null, error: null };
  world.jobs.set(job_id, job);
  const timer = setInterval(() => {
    job.done += 4;
    job.eta_s = (job.total - job.done) / 5;
    if (job.done < job.total) return;
    clearInterval(timer);
    Object.assign(job, { state: "done", version: "v1", eta_s: 0 });
    Object.assign(world.products.get(product), { active_bank: "v1" });
  }, 500);
  return json(202, { job_id, product, job_url: `/v1/banks/jobs/${job_id}`, duplicate: false });
}

function productCall(world, code, act, { method, body, form }) {
  const product = world.products.get(code);
  if (method === "PUT") {
    if (product && body.revision !== product.revision) return problem(409, "conflict", "somebody was faster; load it again");
    if (!product) world.addProduct(code, body.display_name, body.display_name_en, "on_request");
    const saved = world.products.get(code);
    if (!product) Object.assign(saved, { active_bank: null, revision: 0 }), world.normals.set(code, new Set());
    Object.assign(saved, body, { revision: saved.revision + 1, policy: { ...saved.policy, ...body.policy } });
    return json(product ? 200 : 201, saved);
  }
  if (!product) return problem(404, "unknown_product");
  if (!act) return json(200, { ...product, bank: null, normals: world.normals.get(code).size });
  if (act === "defect-types") {
    const rows = world.defectTypes.get(code) ?? [];
    if (method === "GET") return json(200, { defect_types: rows });
    if (rows.some((row) => row.code === body.code)) return problem(409, "conflict", "the code exists");
    world.defectTypes.set(code, [...rows, { product: code, ...body }]);
    return json(201, body);
  }
  if (act === "normals" && method === "GET") {
    const held = [...world.normals.get(code)];
    return json(200, { total: held.length, normals: held.map((sha256) => ({ sha256, url: `/v1/products/${code}/normals/${sha256}` })), next_cursor: null });
  }
  if (act.startsWith("normals/") && method === "DELETE") {
    world.normals.get(code).delete(decodeURIComponent(act.slice(8)));
    return { status: 204, type: "text/plain", body: "" };
  }
  if (act === "normals" && method === "POST") {
    const file = form.get("file");
    const held = world.normals.get(code);
    let result = /^image\//.test(file.type) ? "stored" : "refused";
    if (result === "stored" && held.has(file.name)) result = "duplicate";
    if (result === "stored") held.add(file.name);
    const files = [{ name: file.name, result, sha256: null, reason: result === "refused" ? "not_an_image" : null, detail: null }];
    return json(200, { stored: Number(result === "stored"), duplicates: Number(result === "duplicate"), refused: Number(result === "refused"), total: held.size, files });
  }
  if (act.startsWith("normals/")) return png(drawPart(code, 900, null, 512));
  if (act === "banks" && method === "POST") return startJob(world, code);
  return problem(404, "not_found");
}

/** Answer to one request: {status, type, body}. */
export function answer(world, request) {
  const { path, query } = request;
  if (path === "/v1/system") {
    return json(200, { version: "dev", timezone: "Asia/Seoul", language: "ko", languages: ["ko", "en"], llm: world.llm, upload_limit_mb: 50, now: new Date().toISOString() });
  }
  if (path.startsWith("/v1/dead-letter")) return answerLetters(world.letters, request);
  if (path === "/v1/line") return json(200, { now: new Date().toISOString(), late: null, silent: [], ...world.line });
  if (path === "/v1/stats") return stats(world, query);
  if (path === "/v1/images") return request.method === "POST" ? uploadImage(world, request) : listImages(world, query);
  if (path === "/v1/products") return json(200, { products: [...world.products.values()] });
  let match = /^\/v1\/images\/([^/]+)(?:\/(\w+))?$/.exec(path);
  if (match) return imageCall(world, match[1], match[2], request);
  match = /^\/v1\/products\/([^/]+)(?:\/(.+))?$/.exec(path);
  if (match) return productCall(world, decodeURIComponent(match[1]), match[2], request);
  match = /^\/v1\/banks\/jobs\/(.+)$/.exec(path);
  if (match) return json(200, world.jobs.get(match[1]));
  match = /^\/v1\/cases\/case-(\d)-(\d)\/image$/.exec(path);
  if (match) return png(drawPart("cap", Number(match[2]) + 40, [200 + 10 * Number(match[2]), 200, 270, 180 + 16 * Number(match[2])], 200));
  if (/^\/v1\/manuals\/\w+\/pages\/\d+$/.test(path)) {
    return json(200, { manual_id: "m1", title: "병뚜껑 불량 대응 매뉴얼", page: 4, pages: 12, text: MANUAL_PAGE });
  }
  if (/^\/v1\/manuals\/\w+\/file$/.test(path)) return { status: 200, type: "text/plain; charset=utf-8", body: MANUAL_PAGE };
  return problem(404, "not_found");
}
