// Zoom and pan shared by pictures that stand side by side, in fractions of a picture.

export interface View {
  /** 1 = the whole picture fits. */
  readonly zoom: number;
  /** Centre, 0…1 of width and height. */
  readonly x: number;
  readonly y: number;
}

export const WHOLE: View = { zoom: 1, x: 0.5, y: 0.5 };
const LARGEST_ZOOM = 16;

const clamp = (value: number, low: number, high: number): number =>
  Math.min(high, Math.max(low, value));

function inside(view: View): View {
  const half = 0.5 / view.zoom;
  return { ...view, x: clamp(view.x, half, 1 - half), y: clamp(view.y, half, 1 - half) };
}

/** Zooms by `factor` so that the point (x, y) stays where it is on the screen. */
export function zoomAt(view: View, factor: number, x: number, y: number): View {
  const zoom = clamp(view.zoom * factor, 1, LARGEST_ZOOM);
  const kept = view.zoom / zoom;
  return inside({ zoom, x: x + (view.x - x) * kept, y: y + (view.y - y) * kept });
}

/** Moves the picture by fractions of its size. */
export function panBy(view: View, dx: number, dy: number): View {
  return inside({ ...view, x: view.x - dx, y: view.y - dy });
}

/** viewBox of an SVG that draws a picture of this size in user units of its pixels. */
export function viewBox(view: View, width: number, height: number): string {
  const w = width / view.zoom;
  const h = height / view.zoom;
  return `${view.x * width - w / 2} ${view.y * height - h / 2} ${w} ${h}`;
}
