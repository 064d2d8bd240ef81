"""Text files as editors write them: UTF-8, UTF-16 or GB18030, with a byte order mark or without."""

from __future__ import annotations

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
CHINESE = "gb18030"
"""The encoding of Chinese systems, with GBK and GB2312 in it."""


def candidates(start: bytes) -> tuple[str, ...]:
    """Return the encodings that a file may have which begins with ``start`` (4 bytes), the likeliest first."""
    return next(((encoding,) for mark, encoding in _MARKS if start.startswith(mark)), ("utf-8", CHINESE))


def decode(data: bytes) -> tuple[str, str]:
    """Return the text of a file, without its byte order mark, and its encoding.

    Raises:
        UnicodeDecodeError: it is in none of these encodings; the error is that of the likeliest.
    """
    first, *others = candidates(data[:4])
    try:
        return data.decode(first).removeprefix("\ufeff"), first
    except UnicodeDecodeError as error:
        for encoding in others:
            try:
                text = data.decode(encoding)
            except UnicodeDecodeError:
                continue
            if looks_chinese(text):
                return text, encoding
        raise error


def looks_chinese(text: str) -> bool:
    """Whether most letters beyond ASCII are everyday ones: bytes of Latin-1 become rare characters if anything."""
    wide = [letter for letter in text if not letter.isascii()]
    return 2 * len("".join(wide).encode("gb2312", "ignore").decode("gb2312")) >= len(wide)
