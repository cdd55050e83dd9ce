// Requests to the API on the same origin, below the base address.
import { address } from "../router.svelte";
import { problemFrom, unreachable } from "./problem";

export interface Call {
  readonly method?: string;
  readonly json?: unknown;
  readonly form?: FormData;
  readonly idempotencyKey?: string;
  readonly signal?: AbortSignal;
}

/** Address with the parameters that are set. */
export function withQuery(path: string, query: Record<string, string | number | null | undefined>): string {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== null && value !== undefined && value !== "") search.set(name, String(value));
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

/** Sends a request and returns the JSON answer; anything but 2xx throws a Problem. */
export async function call<T>(path: string, options: Call = {}): Promise<T> {
  const headers = new Headers({ accept: "application/json" });
  if (options.idempotencyKey) headers.set("idempotency-key", options.idempotencyKey);
  let body: BodyInit | null = null;
  if (options.form) body = options.form;
  else if (options.json !== undefined) {
    headers.set("content-type", "application/json");
    body = JSON.stringify(options.json);
  }
  const init: RequestInit = { method: options.method ?? "GET", headers, body };
  if (options.signal) init.signal = options.signal;
  let response: Response;
  let text: string;
  try {
    response = await fetch(address(path), init);
    text = await response.text();
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw unreachable();
  }
  if (!response.ok) throw problemFrom(response.status, text, response.headers.get("retry-after"));
  return (text ? JSON.parse(text) : null) as T;
}

/** Sends a form with progress in 0…1, which fetch cannot tell. */
export function send<T>(path: string, form: FormData, onProgress: (done: number) => void): Promise<T> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    request.setRequestHeader("accept", "application/json");
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(unreachable());
    request.onload = () => {
      if (request.status >= 200 && request.status < 300) {
        resolve(JSON.parse(request.responseText) as T);
        return;
      }
      const retryAfter = request.getResponseHeader("retry-after");
      reject(problemFrom(request.status, request.responseText, retryAfter));
    };
    request.send(form);
  });
}

/** A key under which a repeated request counts once; works over plain HTTP. */
export function idempotencyKey(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
