// Draws small pictures and encodes them as PNG, with nothing but Node.
import { deflateSync } from "node:zlib";

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

function crc(bytes) {
  let c = 0xffffffff;
  for (const byte of bytes) c = CRC[(c ^ byte) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

function chunk(type, data) {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const out = Buffer.alloc(body.length + 8);
  out.writeUInt32BE(data.length, 0);
  body.copy(out, 4);
  out.writeUInt32BE(crc(body), body.length + 4);
  return out;
}

/** PNG of an RGBA buffer. */
export function encodePng(width, height, rgba) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 6, 0, 0, 0], 8);
  const rows = Buffer.alloc((width * 4 + 1) * height);
  for (let y = 0; y < height; y += 1) {
    rgba.copy(rows, y * (width * 4 + 1) + 1, y * width * 4, (y + 1) * width * 4);
  }
  return Buffer.concat([
    Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(rows, { level: 3 })),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

/** Repeatable pseudo-random numbers in [0, 1). */
export function random(seed) {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 4294967296;
  };
}

function paint(width, height, colourAt) {
  const rgba = Buffer.alloc(width * height * 4);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) rgba.set(colourAt(x, y), (y * width + x) * 4);
  }
  return encodePng(width, height, rgba);
}

const distanceToLine = (x, y, [ax, ay, bx, by]) => {
  const t = Math.max(
    0,
    Math.min(1, ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / ((bx - ax) ** 2 + (by - ay) ** 2)),
  );
  return Math.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay));
};

/** A part seen from above: "cap" is a ribbed lid, anything else a brushed plate with two holes. */
export function drawPart(kind, seed, scratch, size) {
  const next = random(seed);
  const noise = Float32Array.from({ length: 4096 }, () => next() - 0.5);
  const light = 150 + next() * 20;
  return paint(size, size, (px, py) => {
    const x = (px / size) * 512;
    const y = (py / size) * 512;
    const grain = noise[(px * 31 + py * 57) & 4095] * 9;
    let value = 42 + grain;
    let tint = [1, 1, 1];
    const r = Math.hypot(x - 256, y - 256);
    if (kind === "cap") {
      const rib = r > 176 && r < 214 ? Math.sign(Math.sin(Math.atan2(y - 256, x - 256) * 60)) * 14 : 0;
      if (r < 214) value = light + rib + grain - (r > 168 && r < 178 ? 46 : 0) - (x + y - 512) * 0.05;
      if (r < 168) value += Math.cos(r * 0.09) * 5;
      tint = [0.93, 0.97, 1.06];
    } else if (x > 46 && x < 466 && y > 110 && y < 402) {
      value = light - 18 + noise[(py * 13) & 4095] * 22 + grain * 0.5;
      const hole = Math.min(Math.hypot(x - 120, y - 256), Math.hypot(x - 392, y - 256));
      if (hole < 38) value = 30 + grain;
      else if (hole < 46) value += 34;
    }
    if (scratch) {
      const d = distanceToLine(x, y, scratch);
      if (d < 3.2) value = 232 - d * 18;
      else if (d < 6) value -= 30;
    }
    return [value * tint[0], value * tint[1], value * tint[2], 255].map((v) =>
      Math.max(0, Math.min(255, v)),
    );
  });
}

const CIVIDIS = [
  [0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56],
];

/** The heat around a scratch: transparent where normal, cividis above. */
export function drawHeat(scratch, size) {
  return paint(size, size, (px, py) => {
    const d = distanceToLine((px / size) * 512, (py / size) * 512, scratch);
    const heat = Math.exp(-(d * d) / 900) * 1.05;
    if (heat < 0.18) return [0, 0, 0, 0];
    const at = Math.min(0.999, heat) * (CIVIDIS.length - 1);
    const low = CIVIDIS[Math.floor(at)];
    const high = CIVIDIS[Math.ceil(at)];
    const mix = at % 1;
    return [...low.map((v, i) => v + (high[i] - v) * mix), Math.min(255, 120 + heat * 150)];
  });
}
