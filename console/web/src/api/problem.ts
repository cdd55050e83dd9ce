// Problem details (RFC 9457) as an error that says what to do.

export interface FieldError {
  readonly field: string;
  readonly message: string;
}

interface ProblemBody {
  slug?: unknown;
  type?: unknown;
  title?: unknown;
  detail?: unknown;
  errors?: unknown;
  retry_after_s?: unknown;
}

export class Problem extends Error {
  override readonly name = "Problem";
  readonly status: number;
  readonly slug: string;
  readonly detail: string;
  readonly errors: readonly FieldError[];
  readonly retryAfterS: number | null;

  constructor(status: number, body: ProblemBody, retryAfter: string | null) {
    const slug = typeof body.slug === "string" ? body.slug : lastSegment(body.type);
    super(typeof body.title === "string" ? body.title : `HTTP ${status}`);
    this.status = status;
    this.slug = slug ?? `http_${status}`;
    this.detail = typeof body.detail === "string" ? body.detail : "";
    this.errors = Array.isArray(body.errors) ? (body.errors as FieldError[]) : [];
    const seconds = Number(body.retry_after_s ?? retryAfter ?? NaN);
    this.retryAfterS = Number.isFinite(seconds) ? seconds : null;
  }
}

function lastSegment(type: unknown): string | null {
  if (typeof type !== "string" || type === "about:blank") return null;
  return type.split("/").at(-1) ?? null;
}

/** The problem of an answer that is none of the 2xx; bodies that are no JSON are no obstacle. */
export function problemFrom(status: number, text: string, retryAfter: string | null): Problem {
  let body: ProblemBody = {};
  try {
    const parsed: unknown = JSON.parse(text);
    if (parsed && typeof parsed === "object") body = parsed;
  } catch {
    // A proxy's HTML page: the status alone has to do.
  }
  return new Problem(status, body, retryAfter);
}

/** The server could not be reached at all. */
export const unreachable = (): Problem => new Problem(0, { slug: "unreachable" }, null);
