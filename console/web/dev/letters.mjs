// Dead letters in memory, and replays that put them back: most succeed, the broken ones return.
import { randomUUID } from "node:crypto";

const json = (status, body) => ({ status, type: "application/json", body: JSON.stringify(body) });
const problem = (status, slug, detail) => ({
  status, type: "application/problem+json", body: JSON.stringify({ slug, title: slug, status, detail }),
});

const KINDS = [
  ["anomaly", "object_missing", "images/3f… is not in the store"],
  ["embed", "object_missing", "images/3f… is not in the store"],
  ["anomaly", "corrupt_image", "the picture ends after 312 of 2048 lines"],
  ["llm", "retries_exhausted", "the language model did not answer within 60 s"],
  ["anomaly", "unknown_product", "neu-17 is not configured"],
  ["record", "schema", "subject.product: a product code is 1-64 letters or digits of any script"],
  ["bank-build", "too_few_normals", "cap has 2 normal photos; add at least 5"],
];

export class Letters {
  letters = new Map();
  replays = [];

  constructor(world, count) {
    const images = [...world.images.values()];
    for (let i = 0; i < count; i += 1) {
      const [stage, reason, error_text] = KINDS[i % KINDS.length];
      const image = stage === "record" || stage === "bank-build" ? null : images[i % Math.max(1, images.length)];
      if (image && reason === "object_missing" && i % 2) image.missing = true;
      this.#add({ stage, reason, error_text, image, at: new Date(Date.now() - i * 47_000) });
    }
  }

  #add({ stage, reason, error_text, image, at, replay_of = null }) {
    const id = image?.subject.image_id ?? null;
    const offset = 1000 + this.letters.size;
    const letter = {
      event_id: randomUUID(), state: "open", stage, reason, error_text, occurred_at: at.toISOString(),
      product: image?.subject.product ?? (stage === "bank-build" ? "cap" : null), image_id: id,
      thumbnail_url: id && `/v1/images/${id}/thumbnail`, content_url: id && `/v1/images/${id}/content`,
      part_id: image?.subject.part_id ?? null, lot_id: null, station: "A-03",
      topic: stage === "bank-build" ? "banks.requested" : "images.uploaded", partition: offset % 3, offset,
      is_replayable: true, replay_of, replayed_at: null, returned_as: null, resolved_by: null, resolved_at: null,
    };
    this.letters.set(letter.event_id, letter);
    return letter;
  }

  detail(letter) {
    const value = letter.image_id ? { subject: { product: letter.product, part_id: letter.part_id } } : "no event at all";
    return {
      ...letter, error_class: "pipeline.errors.PoisonError", attempts: 3, first_attempt_at: letter.occurred_at,
      last_attempt_at: letter.occurred_at, trace_id: "4bf92f3577b34da6a3ce929d0e0e4736", trigger_event_id: null, subject: null,
      record: {
        topic: letter.topic, partition: letter.partition, offset: letter.offset, omitted: [],
        key: { encoding: "text", data: "A-03", size_bytes: 4 },
        headers: [
          { name: "ce_type", encoding: "text", data: "ImageUploaded", size_bytes: 13 },
          { name: "traceparent", encoding: "text", data: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", size_bytes: 55 },
        ],
        value: { encoding: letter.image_id ? "json" : "text", data: value, size_bytes: 412 },
      },
      history: {
        earlier: letter.replay_of ? [this.letters.get(letter.replay_of)] : [],
        returned: letter.returned_as ? [this.letters.get(letter.returned_as)] : [],
        other_stages: [],
        replays: this.replays.filter((run) => run.ids.includes(letter.event_id)).map((run) => ({
          replay_id: run.replay_id, requested_by: run.requested_by, requested_at: run.requested_at, reason: run.reason,
          put_back_at: letter.replayed_at, outcome: letter.returned_as ? "returned" : letter.resolved_by ? "resolved" : letter.replayed_at ? "waiting" : "queued",
        })),
      },
    };
  }

  find(query) {
    const since = query.get("since");
    return [...this.letters.values()]
      .filter((one) => ["stage", "reason", "product", "state"].every((name) => !query.get(name) || one[name] === query.get(name)))
      .filter((one) => !since || one.occurred_at >= since)
      .sort((a, b) => b.occurred_at.localeCompare(a.occurred_at));
  }

  counts() {
    const rows = new Map();
    for (const { stage, reason, state } of this.letters.values()) {
      const key = `${stage} ${reason}`;
      if (!rows.has(key)) rows.set(key, { stage, reason, open: 0, replayed: 0, resolved: 0 });
      rows.get(key)[state] += 1;
    }
    return [...rows.values()].sort((a, b) => (a.stage + a.reason).localeCompare(b.stage + b.reason));
  }

  #chosen(body) {
    const query = new URLSearchParams({ ...body.filter, state: "open" });
    return body.ids ?? this.find(query).map((one) => one.event_id);
  }

  plan(body) {
    return { letters: this.#chosen(body).length, left_out: {} };
  }

  begin(body) {
    const ids = this.#chosen(body);
    const run = {
      replay_id: randomUUID(), state: "running", requested_at: new Date().toISOString(), requested_by: body.requested_by ?? "operator",
      reason: body.reason ?? null, rate_per_s: body.rate_per_s, letters: ids.length, ids, done: 0,
    };
    this.replays.unshift(run);
    const timer = setInterval(() => {
      if (run.state === "running" && run.done < ids.length) this.#putBack(ids[run.done++]);
      if (run.done < ids.length) return;
      run.state = "done";
      clearInterval(timer);
    }, 1000 / body.rate_per_s);
    return run;
  }

  #putBack(id) {
    const letter = this.letters.get(id);
    Object.assign(letter, { state: "replayed", replayed_at: new Date().toISOString() });
    setTimeout(() => {
      const { stage, reason, error_text } = letter;
      if (reason === "corrupt_image" || reason === "schema") {
        const image = letter.image_id && { subject: { image_id: letter.image_id, product: letter.product, part_id: letter.part_id } };
        letter.returned_as = this.#add({ stage, reason, error_text, image, at: new Date(), replay_of: id }).event_id;
      } else Object.assign(letter, { state: "resolved", resolved_by: randomUUID(), resolved_at: new Date().toISOString() });
    }, 900);
  }

  progress({ ids, done, ...run }) {
    const taken = ids.slice(0, done).map((id) => this.letters.get(id));
    const returned = taken.filter((one) => one.returned_as).length;
    const resolved = taken.filter((one) => one.resolved_by).length;
    return { ...run, left: ids.length - done, put_back: done, passed_over: 0, passed_over_for: {}, returned, resolved, waiting: done - returned - resolved };
  }
}

export function answerLetters(letters, { method, path, query, body }) {
  if (path === "/v1/dead-letters/replay") {
    if (body.dry_run) return json(200, { ...letters.plan(body), dry_run: true });
    const run = letters.begin(body);
    return json(202, { replay_id: run.replay_id, letters: run.letters, left_out: {}, progress_url: `/v1/dead-letter-replays/${run.replay_id}` });
  }
  if (path === "/v1/dead-letters") {
    const found = letters.find(query);
    const from = Number(query.get("cursor") ?? 0);
    const to = from + Number(query.get("limit") ?? 100);
    return json(200, { dead_letters: found.slice(from, to), next_cursor: to < found.length ? String(to) : null, counts: letters.counts() });
  }
  if (path === "/v1/dead-letter-replays") return json(200, { replays: letters.replays.map((run) => letters.progress(run)), next_cursor: null });
  const [, kind, id, act] = /^\/v1\/dead-letter(s|-replays)\/([^/]+)(?:\/(\w+))?$/.exec(path) ?? [];
  if (kind === "s" && letters.letters.has(id)) return json(200, letters.detail(letters.letters.get(id)));
  const run = letters.replays.find((one) => one.replay_id === id);
  if (kind === "s" || !run) return problem(404, "unknown_dead_letter", "see GET /v1/dead-letters");
  if (method === "POST") run.state = act === "stop" ? "stopped" : "running";
  return json(200, letters.progress(run));
}
