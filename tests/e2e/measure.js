// What a person with a ruler and a contrast meter would find on the page that is shown.
() => {
  const colour = (text) => {
    const rgb = /rgba?\(([^)]+)\)/.exec(text);
    if (rgb) {
      const [r, g, b, a = 1] = rgb[1].split(/[ ,/]+/).map(Number);
      return [r, g, b, a];
    }
    const srgb = /color\(srgb ([^)]+)\)/.exec(text);
    if (!srgb) return null;
    const [r, g, b, a = 1] = srgb[1].split(/[ /]+/).map(Number);
    return [r * 255, g * 255, b * 255, a];
  };
  const over = (top, below) => [
    ...[0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])),
    1,
  ];
  // WCAG 2.2, relative luminance and contrast ratio.
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const backgroundOf = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      if (style.backgroundImage !== "none") return null; // a picture or a hatch
      const c = colour(style.backgroundColor);
      if (c && c[3] > 0) layers.push(c);
      if (c && c[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const shown = (element) => {
    const box = element.getBoundingClientRect();
    return box.width > 0 && box.height > 0 && getComputedStyle(element).visibility === "visible";
  };
  const named = (element) => element.dataset.testid ?? element.textContent.trim().slice(0, 30);

  const faint = [];
  const small = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.textContent.trim() || !shown(element)) continue;
    if (element.closest(".visually-hidden, :disabled, option, script, style")) continue;
    const background = backgroundOf(element);
    const text = colour(getComputedStyle(element).color);
    if (background && text) {
      const ratio = contrast(over(text, background), background);
      if (ratio < 4.5) faint.push(`${named(element)}: ${ratio.toFixed(2)}`);
    }
  }
  for (const element of document.querySelectorAll("button, a, select, input, summary")) {
    if (!shown(element) || element.closest(".visually-hidden") || element.type === "file") continue;
    if (element.matches(".cite")) continue; // a citation's number within a line of text
    const box = element.getBoundingClientRect();
    if (box.width < 47.5 || box.height < 47.5) {
      small.push(`${named(element)}: ${Math.round(box.width)} x ${Math.round(box.height)}`);
    }
  }
  const heights = (selector) =>
    [...document.querySelectorAll(selector)].map((e) => Math.round(e.getBoundingClientRect().height));
  return {
    faint,
    small,
    sideways: document.documentElement.scrollWidth - innerWidth,
    header: heights("header")[0],
    shape: heights("[data-testid=verdict] svg")[0] ?? null,
    decisions: heights(".choice"),
    body_px: parseFloat(getComputedStyle(document.body).fontSize),
  };
}
