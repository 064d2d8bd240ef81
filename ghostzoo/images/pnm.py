"""PNM and PAM: the size, and the largest sample value, which the decoder does not always scale by.

A PAM file is converted to PNM: the decoder reads grey PAM files wrongly.
"""

from __future__ import annotations

import re

import numpy as np

from .container import DAMAGED, TRUNCATED, Alpha, Header, HeaderError

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])*"
_PNM = re.compile(rb"P[1-6](?=\s)" + _GAP + rb"(\d{1,9})\s" + _GAP + rb"(\d{1,9})\s")
_WHITE = re.compile(_GAP + rb"(\d{1,9})\s")
_HEADER = 2**16
"""Bytes that are searched for the size; the search takes 40 times as much memory."""
_PAM_FIELD = re.compile(rb"(?:#[^\n]*|[ \t]*(WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE)[ \t]+([^\n]{1,100}?)[ \t]*|[ \t]*)\n")
_PAM_END = re.compile(rb"ENDHDR[ \t]*\n")
_PAM_LINES = 1000
_COLOURS = {1: 1, 2: 1, 3: 3, 4: 3}
"""Samples per pixel -> those that are colour; the other one is alpha."""


def read_pnm(data: bytes) -> Header:
    """White is the largest value, unless the decoder scales it: by itself in text, or 65535 by the upper byte."""
    match = _PNM.match(data, 0, _HEADER)
    if match is None:
        raise HeaderError(DAMAGED)
    size = int(match[1]), int(match[2])
    if data[1:2] in b"14":
        return Header(*size, data)
    white = _WHITE.match(data, match.end(), match.end() + _HEADER)
    if white is None or not 0 < int(white[1]) <= 0xFFFF:
        raise HeaderError(DAMAGED)
    value = int(white[1])
    scaled = value == 0xFFFF or (value <= 255 and data[1:2] in b"23")
    return Header(*size, data, white=255 if scaled else value)


def read_pam(data: bytes) -> Header:
    """Samples other than grey, RGB and alpha are refused."""
    fields: dict[bytes, bytes] = {}
    position = len(b"P7\n")
    for _ in range(_PAM_LINES):
        if end := _PAM_END.match(data, position):
            return _as_pnm(data, end.end(), fields)
        line = _PAM_FIELD.match(data, position)
        if line is None or line[1] in fields:
            raise HeaderError(DAMAGED)
        if line[1]:
            fields[line[1]] = line[2]
        position = line.end()
    raise HeaderError(DAMAGED)


def _as_pnm(data: bytes, start: int, fields: dict[bytes, bytes]) -> Header:
    try:
        width, height, depth, white = (int(fields[name]) for name in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError):
        raise HeaderError(DAMAGED) from None
    if min(width, height) < 0 or not 0 < white <= 0xFFFF:
        raise HeaderError(DAMAGED)
    kinds = ("", "BLACKANDWHITE", "GRAYSCALE", "GRAYSCALE_ALPHA", "RGB", "RGB_ALPHA")
    if depth not in _COLOURS or fields.get(b"TUPLTYPE", b"").decode("latin-1") not in kinds:
        raise HeaderError("its samples are neither grey nor RGB; convert it to PNG")
    count, kind = width * height * depth, np.dtype(np.uint8 if white < 256 else ">u2")
    if len(data) - start < count * kind.itemsize:
        raise HeaderError(TRUNCATED)
    colours = _COLOURS[depth]
    samples = np.frombuffer(data, kind, count, start).reshape(-1, depth)[:, :colours]
    header = b"P%d %d %d %d\n" % (5 if colours == 1 else 6, width, height, white)
    return Header(
        width,
        height,
        header + samples.tobytes(),
        white=255 if white == 0xFFFF else white,
        alpha=Alpha.LOST if colours < depth else Alpha.NONE,
    )
