"""Whether a JPEG's pixels are all there, told from its structure. Pure; the decoding is others'.

Decoders paint what a file lacks grey and only whisper a warning, which Pillow swallows. So the
file is put before the decoder in a form in which the lack is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_SEQUENTIAL = (0xC0, 0xC1)
_PROGRESSIVE = 0xC2
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_START_OF_SCAN = 0xDA
_END = 0xD9
# The end of a scan: a marker that is neither a stuffed byte, a restart mark nor a fill byte.
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# What a decoder reads ahead of the last pixel's bits: 8 bytes of ones, of which no code consists.
_READ_AHEAD = b"\xff\x00" * 8
_COEFFICIENTS = 64


class JpegScans(NamedTuple):
    """What the structure tells.

    `probe` is the file cut at the end of its one scan, without an end mark: a decoder asks for
    more bytes exactly if pixels are missing. None where that cannot be told this way.
    """

    probe: bytes | None
    lacks_scans: bool


def read_scans(data: bytes) -> JpegScans:
    """Walk the segments of a JPEG; a file that is broken otherwise tells nothing.

    Of a progressive picture, whose decoder needs the end mark, the scans are counted instead:
    each coefficient of each component must come, down to its last bit.
    """
    try:
        return _walk(data)
    except IndexError:
        return JpegScans(None, lacks_scans=False)


def _walk(data: bytes) -> JpegScans:
    frame: int | None = None
    components: set[int] = set()
    bits_to_come: dict[tuple[int, int], int] = {}
    for marker, body, after in _segments(data):
        if marker in _FRAMES:
            frame = marker
            components = {data[body + 6 + 3 * n] for n in range(data[body + 5])}
            bits_to_come = {(c, k): 16 for c in components for k in range(_COEFFICIENTS)}
        elif marker == _START_OF_SCAN:
            named = {data[body + 1 + 2 * n] for n in range(data[body])}
            if frame in _SEQUENTIAL and named == components:
                return JpegScans(data[: _end_of_scan(data, after)] + _READ_AHEAD, lacks_scans=False)
            first, last, bits = data[after - 3], data[after - 2], data[after - 1] & 0x0F
            band = range(first, min(last + 1, _COEFFICIENTS))
            bits_to_come |= {(c, k): bits for c in named for k in band}
    is_counted = frame == _PROGRESSIVE or frame in _SEQUENTIAL
    return JpegScans(None, lacks_scans=is_counted and any(bits_to_come.values()))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, and where its segment's body begins and ends; a scan's pixels are passed."""
    place = 2
    while data[place] == 0xFF and data[place + 1] != _END:
        marker, body = data[place + 1], place + 4
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        after = place + 2 + int.from_bytes(data[place + 2 : body], "big")
        yield marker, body, after
        place = _end_of_scan(data, after) if marker == _START_OF_SCAN else after


def _end_of_scan(data: bytes, start: int) -> int:
    found = _SCAN_END.search(data, start)
    return found.start() if found else len(data)
