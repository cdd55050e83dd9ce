// Events for tests, with the fields that a test names and plausible others.
import type { ImageScored, ImageSkipped, DeadLetter, ReviewRecorded, Subject } from "../src/generated/events";

let count = 0;
export const nextId = (): string => `event-${(count += 1)}`;

export function subject(more: Partial<Subject> = {}): Subject {
  return {
    image_id: "a".repeat(32),
    product: "cap",
    captured_at: "2026-11-23T01:00:00Z",
    received_at: "2026-11-23T01:00:00Z",
    image: { bucket: "b", key: "images/x", sha256: "0".repeat(64), size_bytes: 1 },
    ...more,
  };
}

const at = (second: number): string => new Date(Date.UTC(2026, 10, 23, 1, 0, second)).toISOString();

const stage = (name: string, second: number) => ({
  event_id: nextId(),
  occurred_at: at(second),
  subject: subject(),
  stage: name,
  trigger_event_id: nextId(),
  origin_event_id: nextId(),
  origin_at: at(second),
});

export const scored = (second: number, verdict: ImageScored["verdict"], more: Partial<ImageScored> = {}): ImageScored => ({
  ...stage("anomaly", second),
  verdict,
  reason: "above_threshold",
  ...more,
});

export const skipped = (second: number, name = "anomaly"): ImageSkipped => ({
  ...stage(name, second),
  reason: "policy",
});

export const dead = (second: number, name = "anomaly"): DeadLetter => ({
  ...stage(name, second),
  origin: { topic: "images.uploaded", partition: 0, offset: 1 },
  reason: "corrupt_image",
  error_class: "PoisonError",
  error_text: "broken",
  attempts: 1,
  first_attempt_at: at(second),
  last_attempt_at: at(second),
});

export const review = (second: number, more: Partial<ReviewRecorded> = {}): ReviewRecorded => ({
  event_id: nextId(),
  occurred_at: at(second),
  subject: subject(),
  reviewer: "Kim",
  ...more,
});
