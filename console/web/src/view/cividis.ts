// Cividis, the colour scale of the heatmaps, in eleven even steps (dark = low, bright = high).
const STOPS = [
  "#00224e",
  "#0d3069",
  "#35456c",
  "#4f576c",
  "#666970",
  "#7d7c78",
  "#948e77",
  "#aea371",
  "#c8b866",
  "#e5cf52",
  "#fee838",
] as const;

export const CIVIDIS_GRADIENT = `linear-gradient(to right, ${STOPS.join(", ")})`;
