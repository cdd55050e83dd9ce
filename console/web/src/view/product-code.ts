// Product codes: letters and digits of any script, "_" and "-", at most 64 (interfaces.md section 1).

const CODE = /^[\p{L}\p{M}\p{N}_-]{1,64}$/u;

export const isProductCode = (code: string): boolean => CODE.test(code.normalize("NFC"));

/** A code made of a name; the person may change it. */
export function productCodeFrom(name: string): string {
  return [...name.normalize("NFC").trim().toLowerCase().replace(/\s+/g, "-")]
    .filter((character) => /[\p{L}\p{M}\p{N}_-]/u.test(character))
    .slice(0, 64)
    .join("");
}
