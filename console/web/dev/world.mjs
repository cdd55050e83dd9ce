// A plant in memory: products, images, and stages that answer after a moment.
import { randomUUID, createHash } from "node:crypto";
import { random } from "./png.mjs";
import { reportFor, sentencesFor } from "./reports.mjs";

const SCRATCHES = [
  [188, 214, 262, 178], [300, 300, 372, 338], [214, 306, 236, 352], [330, 180, 366, 226],
];
const LONG_NAME = "아주 긴 이름을 가진 검사 대상 부품 ".repeat(12).slice(0, 200);

export class World {
  products = new Map();
  defectTypes = new Map();
  images = new Map();
  jobs = new Map();
  normals = new Map();
  log = [];
  listeners = new Set();
  llm = true;
  #count = 0;

  constructor({ empty = false, llm = true } = {}) {
    this.llm = llm;
    if (empty) return;
    this.addProduct("cap", "병뚜껑", "Bottle cap", "auto");
    this.addProduct("plate", "고정 플레이트", "Mounting plate", "on_request");
    for (const code of ["cap", "plate"]) {
      this.defectTypes.set(code, [
        { product: code, code: "scratch", name_ko: "긁힘", name_en: "Scratch" },
        { product: code, code: "dent", name_ko: "찍힘", name_en: "Dent" },
        { product: code, code: "stain", name_ko: "얼룩", name_en: "Stain" },
        { product: code, code: "burr", name_ko: "버", name_en: "Burr" },
        { product: code, code: "crack", name_ko: "크랙", name_en: "Crack" },
      ]);
    }
  }

  addProduct(code, ko, en, mode) {
    this.products.set(code, {
      product: code, display_name: ko, display_name_en: en, active_bank: "v1", threshold: null,
      review_band: [0.95, 1.05], policy: { anomaly: mode, report: mode }, language: "ko",
      revision: 1, removed: false, event_id: randomUUID(), occurred_at: new Date().toISOString(),
    });
    this.normals.set(code, new Set(Array.from({ length: 34 }, (_, i) => `n${i}`)));
  }

  /** Accepts an image and lets the stages run. Options: outcome, at, quick, longNames, bytes. */
  upload(product, options = {}) {
    const number = (this.#count += 1);
    const at = options.at ?? new Date();
    const sha256 = createHash("sha256").update(`${product}${number}`).digest("hex");
    const outcome = options.outcome ?? outcomeOf(number);
    const subject = {
      image_id: sha256.slice(0, 32), product, source: options.source ?? "cam-2", line: "A",
      station: options.longNames ? LONG_NAME : "A-03",
      part_id: options.longNames ? `PART-${"0123456789".repeat(19)}` : `CP-${String(24100 + number)}`,
      lot_id: options.longNames ? LONG_NAME : `L-1123-${1 + (number >> 6)}`, view: "top", attempt: 1,
      captured_at: at.toISOString(), received_at: at.toISOString(), time_quality: "device",
      purpose: options.purpose ?? "production", is_historical: options.historical ?? false,
      image: { bucket: "local", key: `images/${sha256}`, sha256, size_bytes: 204800, width: 512, height: 512, content_type: "image/png" },
      requested: { anomaly: "auto", report: "auto" },
    };
    const image = {
      number, subject, outcome, bytes: options.bytes ?? null, scratch: null, embedded: null,
      scored: null, explained: null, skipped: [], reviews: [], dead_letters: [], superseded: [], requests: [],
    };
    if (outcome === "NG" || outcome === "REVIEW") image.scratch = SCRATCHES[number % SCRATCHES.length];
    this.images.set(subject.image_id, image);
    const uploaded = this.#event(image, "images.uploaded", { label: null }, at);
    this.#later(options.quick, 500, () => this.#embed(image, uploaded));
    const auto = this.products.get(product)?.policy.anomaly !== "on_request";
    this.#later(options.quick, 700, () =>
      auto && outcome !== "NOT_JUDGED"
        ? this.score(image, uploaded)
        : image.skipped.push(this.#event(image, "images.skipped", stage("anomaly", uploaded, { reason: "policy" }), at)),
    );
    return image;
  }

  inspect(image, explain = false) {
    const request = this.#event(image, null, { stage: "anomaly", requested_by: "op" });
    image.requests.push(request);
    if (image.outcome === "NOT_JUDGED") image.outcome = image.number % 2 ? "NG" : "OK";
    if (image.outcome === "NG") image.scratch ??= SCRATCHES[image.number % SCRATCHES.length];
    setTimeout(() => this.score(image, request, explain), 1200);
    return request;
  }

  explain(image) {
    if (!image.scored) return this.inspect(image, true);
    const request = this.#event(image, null, { stage: "llm", requested_by: "op" });
    this.#report(image, request);
    return request;
  }

  score(image, trigger, explain = false) {
    const { outcome, number } = image;
    const next = random(number + 7);
    const threshold = 2.1;
    const score = { OK: 1.1 + next() * 0.6, NG: 2.6 + next() * 1.6, REVIEW: 2.08, ERROR: null }[outcome] ?? null;
    const region = image.scratch && box(image.scratch);
    if (image.scored) image.superseded.push({ type: "ImageScored", event: image.scored });
    image.scored = this.#event(image, "images.scored", stage("anomaly", trigger, {
      verdict: outcome, reason: { OK: "below_threshold", NG: "above_threshold", REVIEW: "within_review_band", ERROR: "no_bank" }[outcome],
      score, threshold: outcome === "ERROR" ? null : threshold, threshold_source: "bank", map_threshold: 1.9,
      review_band: [1.995, 2.205], percentile: outcome === "NG" ? 100 : 62.4, model: "timm:tf_efficientnet_lite0",
      bank_version: "v1", configuration_revision: 1, heatmap_key: image.scratch ? "heatmaps/x.png" : null,
      heatmap_scale: { low: 1.2, high: 3.8, cell_px: 16 },
      regions: region && !(number % 11 === 5) ? [region] : [],
      nearest_normal: outcome === "ERROR" ? null : { image_key: `normals/${image.subject.product}/${"ab12".repeat(16)}`, distance: 0.9 },
    }), trigger.occurred_at);
    if (explain || (["NG", "REVIEW"].includes(outcome) && this.autoReports)) this.#report(image, trigger);
  }

  autoReports = true;

  #embed(image, trigger) {
    const close = image.number % 9 !== 4;
    const types = ["scratch", "scratch", "dent", "scratch", "stain"];
    image.embedded = this.#event(image, "images.embedded", stage("embed", trigger, {
      model: "open_clip:ViT-B-32", index_version: "7",
      neighbours: close ? types.map((defect_type, i) => ({
        case_id: `case-${image.number % 5}-${i}`, image_key: "cases/x", product: image.subject.product, defect_type,
        similarity: 0.94 - i * 0.035, decision: i === 4 ? "ok" : "ng", decided_at: "2026-10-1" + i + "T03:00:00Z",
        action_taken: ["이송 롤러 이물 제거 후 정상", "금형 청소", null, "가이드 간격 0.2 mm 조정", null][i],
      })) : [],
      voted_defect_type: close ? "scratch" : null, voted_confidence: close ? 0.74 : null,
    }), trigger.occurred_at);
  }

  #report(image, trigger) {
    const report = reportFor(image, this.llm);
    const stream_id = randomUUID();
    sentencesFor(report).forEach((item, sequence, all) =>
      setTimeout(() => this.#event(image, "reports.streamed", { stream_id, sequence, ...item, last: sequence === all.length - 1 }),
        image.quick ? 0 : 300 + sequence * 350),
    );
    setTimeout(() => {
      image.explained = this.#event(image, "images.explained", stage("llm", trigger, {
        report, model: report.model, refused: report.refused, timings_ms: { total: 2100 },
      }));
    }, image.quick ? 1 : 700 + sentencesFor(report).length * 350);
  }

  review(image, body) {
    const review = this.#event(image, "reviews.recorded", { reviewer: "operator", machine_verdict: image.scored?.verdict ?? null, ...body });
    image.reviews.push(review);
    return review;
  }

  #event(image, topic, fields, at) {
    const occurred_at = new Date(at ?? Date.now()).toISOString();
    const event = { event_id: randomUUID(), occurred_at, subject: image.subject, ...fields };
    if (topic) {
      this.log.push({ topic, event });
      for (const listener of this.listeners) listener(this.log.length - 1);
    }
    return event;
  }

  #later(quick, ms, act) {
    if (quick) act();
    else setTimeout(act, ms);
  }
}

function stage(name, trigger, fields) {
  return { stage: name, trigger_event_id: trigger.event_id, origin_event_id: trigger.event_id, origin_at: trigger.occurred_at, ...fields };
}

function outcomeOf(number) {
  const next = random(number * 7919 + 1);
  next();
  next();
  const roll = next();
  if (roll < 0.72) return "OK";
  if (roll < 0.84) return "NG";
  if (roll < 0.9) return "REVIEW";
  return roll < 0.94 ? "ERROR" : "NOT_JUDGED";
}

function box([ax, ay, bx, by]) {
  const x = Math.min(ax, bx) - 14;
  const y = Math.min(ay, by) - 14;
  const width = Math.abs(ax - bx) + 28;
  const height = Math.abs(ay - by) + 28;
  const across = [(by - ay) * 0.16 + 4, (ax - bx) * 0.16];
  const outline = [[ax + across[0], ay + across[1]], [bx + across[0], by + across[1]], [bx - across[0], by - across[1]], [ax - across[0], ay - across[1]]];
  return { x, y, width, height, area_px: 420, score: 3.4, outline: outline.map((p) => p.map(Math.round)) };
}
