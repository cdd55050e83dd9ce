// Finds a quote in a page's text and cuts the text around it.

export interface Piece {
  readonly text: string;
  readonly marked: boolean;
}

const escape = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** The text in pieces, the quote marked; line breaks inside the quote do not hide it. */
export function markQuote(text: string, quote: string): readonly Piece[] {
  const words = quote.trim().split(/\s+/).filter(Boolean);
  if (words.length === 0) return [{ text, marked: false }];
  const found = new RegExp(words.map(escape).join("\\s+")).exec(text);
  if (!found) return [{ text, marked: false }];
  const end = found.index + found[0].length;
  return [
    { text: text.slice(0, found.index), marked: false },
    { text: found[0], marked: true },
    { text: text.slice(end), marked: false },
  ].filter((piece) => piece.text !== "");
}
