// What the console's HTTP API answers; events keep their generated types.
import type {
  BankPublished,
  DeadLetter,
  ImageEmbedded,
  ImageExplained,
  ImageScored,
  ImageSkipped,
  InspectionRequested,
  ReviewRecorded,
  Subject,
} from "../generated/events";

export type Verdict = "OK" | "NG" | "REVIEW" | "ERROR" | "NOT_JUDGED";
export type Decision = "ok" | "ng" | "hold";
export type Mode = "auto" | "on_request";

export interface Acknowledgement {
  readonly event_id: string;
  readonly by: string | null;
  readonly at: string;
}

export interface ImageDetail {
  readonly image_id: string;
  readonly status: "pending" | "complete" | "failed";
  readonly verdict: Verdict | null;
  readonly waiting_for: readonly string[];
  readonly subject: Subject;
  readonly embedded: ImageEmbedded | null;
  readonly scored: ImageScored | null;
  readonly explained: ImageExplained | null;
  readonly skipped: readonly ImageSkipped[];
  readonly reviews: readonly ReviewRecorded[];
  readonly decision: ReviewRecorded | null;
  readonly acknowledged: Acknowledgement | null;
  readonly dead_letters: readonly DeadLetter[];
  readonly superseded: readonly { readonly type: string; readonly event: SupersededEvent }[];
  readonly requests: readonly InspectionRequested[];
}

export interface SupersededEvent {
  readonly event_id: string;
  readonly occurred_at: string;
  readonly verdict?: string;
}

export interface ImageItem {
  readonly image_id: string;
  readonly status: "pending" | "complete" | "failed";
  readonly verdict: Verdict | null;
  readonly subject: Subject;
  readonly scored: ImageScored | null;
  readonly decision: Decision | null;
  readonly defect_type: string | null;
  readonly acknowledged: Acknowledgement | null;
}

export interface ImagePage {
  readonly images: readonly ImageItem[];
  readonly next_cursor: string | null;
}

export interface Policy {
  readonly anomaly: Mode;
  readonly report: Mode;
}

export interface Product {
  readonly product: string;
  readonly display_name: string;
  readonly display_name_en: string | null;
  readonly active_bank: string | null;
  readonly threshold: number | null;
  readonly review_band: readonly [number, number] | null;
  readonly policy: Policy;
  readonly language: "ko" | "en";
  readonly revision: number;
  readonly removed: boolean;
  readonly bank?: BankPublished | null;
  readonly normals?: number;
}

export interface DefectType {
  readonly code: string;
  readonly name_ko: string;
  readonly name_en: string;
}

export interface StoredFile {
  readonly name: string;
  readonly result: "stored" | "duplicate" | "refused";
  readonly sha256: string | null;
  readonly reason: string | null;
  readonly detail: string | null;
}

export interface StoredFiles {
  readonly stored: number;
  readonly duplicates: number;
  readonly refused: number;
  readonly total?: number;
  readonly files: readonly StoredFile[];
}

export interface Job {
  readonly job_id: string;
  readonly product: string;
  readonly state: "queued" | "running" | "done" | "failed";
  readonly step: string | null;
  readonly done: number | null;
  readonly total: number | null;
  readonly eta_s: number | null;
  readonly version: string | null;
  readonly error: string | null;
}

export interface Counts {
  readonly total: number;
  readonly OK: number;
  readonly NG: number;
  readonly REVIEW: number;
  readonly ERROR: number;
  readonly NOT_JUDGED: number;
  readonly pending: number;
}

export interface Stats {
  readonly today: Counts;
  readonly unacknowledged: number;
  readonly by_lot: readonly (Counts & { readonly lot_id: string | null })[];
}

export interface SystemFacts {
  readonly version: string;
  readonly timezone: string;
  readonly language: "ko" | "en";
  readonly llm: boolean;
  readonly upload_limit_mb: number;
  readonly now: string;
}

export interface LineFacts {
  readonly now: string;
  readonly late: { readonly image_id: string; readonly received_at: string; readonly count: number; readonly has_more?: boolean } | null;
  readonly silent: readonly {
    readonly source: string;
    readonly last_at: string;
    readonly expected_s: number;
  }[];
}

export interface Accepted {
  readonly image_id: string;
  readonly status_url: string;
  readonly duplicate: boolean;
  readonly duplicate_bytes: boolean;
}
