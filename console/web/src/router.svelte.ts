// Hash-free routes below the <base href> of index.html.

export type Route =
  | { readonly page: "operator" }
  | { readonly page: "detail"; readonly imageId: string }
  | { readonly page: "setup"; readonly product: string | null }
  | { readonly page: "letters"; readonly letterId: string | null }
  | { readonly page: "unknown"; readonly path: string };

/** Address of a path of this application, whatever prefix it is served under. */
export function address(path: string): string {
  return new URL(path.replace(/^\/+/, ""), document.baseURI).href;
}

/** The route of a path relative to the base, such as "i/0af3…". */
export function parseRoute(path: string, search: string = ""): Route {
  const clean = path.replace(/^\/+|\/+$/g, "");
  if (clean === "" || clean === "index.html" || clean === "matching.html") {
    return { page: "operator" };
  }
  const detail = /^i\/([0-9a-f]{32})$/.exec(clean);
  if (detail?.[1]) return { page: "detail", imageId: detail[1] };
  if (clean === "setup") {
    return { page: "setup", product: new URLSearchParams(search).get("product") };
  }
  if (clean === "dead-letters") {
    return { page: "letters", letterId: new URLSearchParams(search).get("id") };
  }
  return { page: "unknown", path: clean };
}

function current(): Route {
  const base = new URL(document.baseURI).pathname;
  const { pathname, search } = window.location;
  return parseRoute(pathname.startsWith(base) ? pathname.slice(base.length) : pathname, search);
}

class Router {
  route = $state.raw<Route>({ page: "operator" });

  start(): () => void {
    this.route = current();
    const back = (): void => {
      this.route = current();
    };
    window.addEventListener("popstate", back);
    document.addEventListener("click", this.#click);
    return () => {
      window.removeEventListener("popstate", back);
      document.removeEventListener("click", this.#click);
    };
  }

  go(path: string): void {
    window.history.pushState(null, "", address(path));
    this.route = current();
    window.scrollTo(0, 0);
  }

  #click = (event: MouseEvent): void => {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a[data-route]") : null;
    const path = link?.getAttribute("data-route");
    if (path == null) return;
    event.preventDefault();
    this.go(path);
  };
}

export const router = new Router();
