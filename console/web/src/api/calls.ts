// One function for each call of the API that the pages use.
import { address } from "../router.svelte";
import { call, idempotencyKey, send, withQuery } from "./http";
import type {
  Accepted,
  Decision,
  DefectType,
  ImageDetail,
  ImagePage,
  Job,
  LineFacts,
  Product,
  Stats,
  StoredFiles,
  SystemFacts,
} from "./shapes";

const part = encodeURIComponent;

export interface ListQuery {
  readonly product?: string | null;
  readonly unacknowledged?: "true";
  readonly cursor?: string | null;
  readonly limit?: number;
}

export interface ReviewBody {
  readonly decision?: Decision | null;
  readonly defect_type?: string | null;
  readonly reviewer?: string | null;
  readonly reason?: string | null;
  readonly undoes?: string | null;
  readonly not_similar?: string | null;
}

export const listImages = (query: ListQuery): Promise<ImagePage> =>
  call(withQuery("v1/images", { ...query }));

export const getImage = (id: string): Promise<ImageDetail> => call(`v1/images/${part(id)}`);

export const inspect = (id: string, by: string | null): Promise<{ event_id: string }> =>
  call(`v1/images/${part(id)}/inspect`, {
    method: "POST",
    json: { requested_by: by },
    idempotencyKey: idempotencyKey(),
  });

export const explain = (
  id: string,
  by: string | null,
): Promise<{ event_id: string; stage: "anomaly" | "llm" }> =>
  call(`v1/images/${part(id)}/explain`, {
    method: "POST",
    json: { requested_by: by },
    idempotencyKey: idempotencyKey(),
  });

export const review = (id: string, body: ReviewBody): Promise<{ event_id: string; machine_verdict: string | null }> =>
  call(`v1/images/${part(id)}/review`, {
    method: "POST",
    json: body,
    idempotencyKey: idempotencyKey(),
  });

export const acknowledge = (id: string, by: string | null): Promise<{ event_id: string }> =>
  call(`v1/images/${part(id)}/acknowledge`, { method: "POST", json: { by } });

export const getLine = (): Promise<LineFacts> => call("v1/line");

export const getStats = (product: string | null): Promise<Stats> =>
  call(withQuery("v1/stats", { product }));

export const getSystem = (): Promise<SystemFacts> => call("v1/system");

export const listProducts = async (): Promise<readonly Product[]> =>
  (await call<{ products: readonly Product[] }>("v1/products")).products;

export const getProduct = (code: string): Promise<Product> => call(`v1/products/${part(code)}`);

export const putProduct = (code: string, body: Record<string, unknown>): Promise<Product> =>
  call(`v1/products/${part(code)}`, { method: "PUT", json: body });

export const listDefectTypes = async (code: string): Promise<readonly DefectType[]> =>
  (await call<{ defect_types: readonly DefectType[] }>(`v1/products/${part(code)}/defect-types`))
    .defect_types;

export const addDefectType = (code: string, body: DefectType): Promise<DefectType> =>
  call(`v1/products/${part(code)}/defect-types`, { method: "POST", json: body });

export const uploadNormal = (
  code: string,
  file: File,
  onProgress: (done: number) => void,
): Promise<StoredFiles> => {
  const form = new FormData();
  form.append("file", file, file.name);
  return send(`v1/products/${part(code)}/normals`, form, onProgress);
};

export const buildBank = (code: string, by: string | null): Promise<{ job_id: string }> =>
  call(`v1/products/${part(code)}/banks`, { method: "POST", json: { requested_by: by } });

export const getJob = (id: string): Promise<Job> => call(`v1/banks/jobs/${part(id)}`);

export interface UploadFields {
  readonly product: string;
  readonly purpose?: string;
  readonly anomaly?: "auto" | "force";
}

export const uploadImage = (
  file: File,
  fields: UploadFields,
  onProgress: (done: number) => void,
): Promise<Accepted> => {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value !== undefined) form.append(name, value);
  }
  form.append("source", "console");
  form.append("file", file, file.name);
  return send("v1/images", form, onProgress);
};

/** Addresses of pictures and files. */
export const pictureOf = {
  content: (id: string): string => address(`v1/images/${part(id)}/content`),
  thumbnail: (id: string): string => address(`v1/images/${part(id)}/thumbnail`),
  heatmap: (id: string, eventId: string): string =>
    address(`v1/images/${part(id)}/heatmap?event_id=${part(eventId)}`),
  case: (id: string): string => address(`v1/cases/${part(id)}/image?thumbnail=true`),
  manual: (id: string, page: number | null): string =>
    address(`v1/manuals/${part(id)}/file`) + (page ? `#page=${page}` : ""),
  normal(key: string): string | null {
    const match = /^normals\/([^/]+)\/([^/]+)$/.exec(key);
    if (!match?.[1] || !match[2]) return null;
    return address(`v1/products/${part(match[1])}/normals/${part(match[2])}`);
  },
};

/** A page of a manual as text, to show a quote in its place. */
export const manualPage = (
  id: string,
  page: number,
): Promise<{ title: string; page: number; pages: number; text: string }> =>
  call(`v1/manuals/${part(id)}/pages/${page}`);

export interface Normal {
  readonly sha256: string;
  readonly url: string;
}

export const listNormals = (
  code: string,
  limit: number,
): Promise<{ total: number; normals: readonly Normal[] }> =>
  call(withQuery(`v1/products/${part(code)}/normals`, { limit }));

export const deleteNormal = (code: string, sha256: string): Promise<null> =>
  call(`v1/products/${part(code)}/normals/${part(sha256)}`, { method: "DELETE" });
