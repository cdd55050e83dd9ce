// The server's half of RFC 6455, as much as a development server needs: text frames, close, ping.
import { createHash } from "node:crypto";

const MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

function frame(opcode, payload) {
  const { length } = payload;
  let header;
  if (length < 126) header = Buffer.from([0x80 | opcode, length]);
  else if (length < 65536) {
    header = Buffer.from([0x80 | opcode, 126, length >> 8, length & 255]);
  } else {
    header = Buffer.alloc(10);
    header.set([0x80 | opcode, 127]);
    header.writeBigUInt64BE(BigInt(length), 2);
  }
  return Buffer.concat([header, payload]);
}

/** Frames in `buffer`, and what is left of it. */
function readFrames(buffer) {
  const frames = [];
  while (buffer.length >= 2) {
    const opcode = buffer[0] & 15;
    let length = buffer[1] & 127;
    let at = 2;
    if (length === 126) {
      if (buffer.length < 4) break;
      length = buffer.readUInt16BE(2);
      at = 4;
    }
    const masked = (buffer[1] & 128) !== 0;
    const end = at + (masked ? 4 : 0) + length;
    if (buffer.length < end) break;
    const mask = masked ? buffer.subarray(at, at + 4) : null;
    const data = Buffer.from(buffer.subarray(end - length, end));
    if (mask) for (let i = 0; i < data.length; i += 1) data[i] ^= mask[i & 3];
    frames.push({ opcode, data });
    buffer = buffer.subarray(end);
  }
  return { frames, rest: buffer };
}

/** Answers an upgrade; returns {send, close}, or null where the request is no websocket's. */
export function accept(request, socket, { onText, onClose }) {
  const key = request.headers["sec-websocket-key"];
  if (!key) {
    socket.destroy();
    return null;
  }
  const answer = createHash("sha1").update(key + MAGIC).digest("base64");
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      `Sec-WebSocket-Accept: ${answer}\r\n\r\n`,
  );
  let pending = Buffer.alloc(0);
  socket.on("data", (data) => {
    const { frames, rest } = readFrames(Buffer.concat([pending, data]));
    pending = rest;
    for (const { opcode, data: payload } of frames) {
      if (opcode === 1) onText(payload.toString("utf8"));
      if (opcode === 8) socket.end(frame(8, payload));
      if (opcode === 9) socket.write(frame(10, payload));
    }
  });
  socket.on("close", onClose);
  socket.on("error", () => socket.destroy());
  return {
    send: (text) => socket.writable && socket.write(frame(1, Buffer.from(text))),
    close: () => socket.destroy(),
  };
}
