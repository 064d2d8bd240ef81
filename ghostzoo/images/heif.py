"""AVIF and HEIC: the size, the orientation, and a bound on what the items decode to.

Both store coded images as items of the same container (ISO/IEC 14496-12 and 23008-12). A codec's decoder allocates the
size in its own headers, not the container's, so those are read too, and the frames of all items are counted. Tracks and
EXIF data are hidden from the decoder: a sequence is read as its still image, which is the first frame.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from . import av1, hevc
from .container import DAMAGED, TRUNCATED, Alpha, Header, HeaderError

_AVIF = frozenset({b"avif", b"avis"})
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_MOST_BOXES = 1000
"""In one box, or at the top level."""
_MOST_ITEMS = 1000
"""A large photo has some dozens of tiles. Decoders search the list of items once for each."""
_MOST_TIMES_READ = 2
"""Bytes that all items together may name, as a multiple of the file."""
_MOST_PIXELS_DECODED = 16
"""As a multiple of the picture: alpha, thumbnails and depth are separate images, and some sizes are upper bounds."""
_SLACK = 2**22
_ORIENTATIONS = {(0, 0): 4, (0, 1): 2, (1, None): 8, (1, 0): 5, (1, 1): 7, (2, None): 3, (2, 0): 2, (2, 1): 4}
_ORIENTATIONS |= {(3, None): 6, (3, 0): 7, (3, 1): 5}
"""Quarter turns anticlockwise, axis of mirroring -> EXIF orientation."""


@dataclass
class _Item:
    kind: bytes = b""
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    extents: list[tuple[int, int]] = field(default_factory=list)
    """Offset in the file, length."""

    def find(self, kind: bytes) -> bytes | None:
        """The one property of this kind."""
        found = [content for name, content in self.properties if name == kind]
        if len(found) > 1:
            raise HeaderError(DAMAGED)
        return found[0] if found else None


def is_heif(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and bool(_brands(data) & (_AVIF | _HEIC))


def read_heif(data: bytes) -> Header:
    """The size is that of the primary item."""
    is_avif = bool(_brands(data) & _AVIF)
    plain = bytearray(data)
    if is_avif:  # no longer a sequence
        (end,) = struct.unpack_from(">L", data)
        plain[8:12], plain[16:end] = b"avif", plain[16:end].replace(b"avis", b"avif")
    meta: tuple[int, int] | None = None
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta" and meta is None:
            meta = start, end
        elif kind in (b"meta", b"moov"):
            plain[start - 4 : start] = b"free"
    if meta is None:
        raise HeaderError("it is a sequence without a still image; convert it to PNG")
    items, primary = _read_meta(data, plain, *meta)
    shown = items.get(primary, _Item())
    size = shown.find(b"ispe")
    if size is None:
        raise HeaderError("its header gives no size; save it again")
    width, height = struct.unpack_from(">LL", size, 4)
    _check_items(data, items, width * height)
    angle, axis = shown.find(b"irot"), shown.find(b"imir")
    turn = (angle[0] & 3 if angle else 0), (axis[0] & 1 if axis else None)
    return Header(
        width,
        height,
        bytes(plain),
        orientation=_ORIENTATIONS.get(turn, 1) if is_avif else 1,
        alpha=Alpha.STRAIGHT,
        alpha_shift=_depth(items) - 8,
        decoder="avif" if is_avif else "heif",
    )


def _brands(data: bytes) -> frozenset[bytes]:
    (length,) = struct.unpack_from(">L", data)
    return frozenset(data[start : start + 4] for start in (8, *range(16, min(length, 256), 4)))


def _boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, and where its content starts and ends."""
    for _ in range(_MOST_BOXES):
        if position >= end:
            return
        length, kind = struct.unpack_from(">L4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        stop = end if length == 0 else position + length
        if not start <= stop <= end:
            raise HeaderError(TRUNCATED)
        yield kind, start, stop
        position = stop
    raise HeaderError(f"it has more than {_MOST_BOXES} boxes; save it again")


def _read_meta(data: bytes, plain: bytearray, start: int, end: int) -> tuple[dict[int, _Item], int]:
    """All items by their ID, and the ID of the primary one; EXIF data are hidden in ``plain``."""
    boxes: dict[bytes, tuple[int, int]] = {}
    for kind, first, last in _boxes(data, start + 4, end):
        if kind in boxes:
            raise HeaderError(DAMAGED)
        boxes[kind] = first, last
    if not {b"pitm", b"iloc", b"iinf", b"iprp"} <= boxes.keys():
        raise HeaderError(DAMAGED)
    items: dict[int, _Item] = {}
    _read_kinds(data, plain, items, *boxes[b"iinf"])
    _read_extents(data, items, *boxes[b"iloc"], boxes.get(b"idat"))
    _read_properties(data, items, *boxes[b"iprp"])
    if b"iref" in boxes and boxes[b"iref"][1] - boxes[b"iref"][0] > 64 * _MOST_ITEMS:
        raise _too_many()
    position = boxes[b"pitm"][0]
    (primary,) = struct.unpack_from(">L" if data[position] else ">H", data, position + 4)
    return items, primary


def _too_many() -> HeaderError:
    return HeaderError(f"it has more than {_MOST_ITEMS} items; save it again")


def _read_kinds(data: bytes, plain: bytearray, items: dict[int, _Item], start: int, end: int) -> None:
    number = 4 if data[start] else 2
    for kind, first, last in _boxes(data, start + 4 + number, end):
        version = data[first]
        if kind != b"infe" or version not in (2, 3) or last - first < 12:
            raise HeaderError(DAMAGED)
        (key,) = struct.unpack_from(">H" if version == 2 else ">L", data, first + 4)
        place = first + 4 + (4 if version == 2 else 6)
        if key in items:
            raise HeaderError(DAMAGED)
        items[key] = _Item(data[place : place + 4])
        if items[key].kind == b"Exif":
            plain[place : place + 4] = b"hide"
        if len(items) > _MOST_ITEMS:
            raise _too_many()


def _read_extents(data: bytes, items: dict[int, _Item], start: int, end: int, idat: tuple[int, int] | None) -> None:
    """ISO/IEC 14496-12, 8.11.3."""
    version = data[start]
    sizes, more = data[start + 4], data[start + 5]
    offset, length, base, index = sizes >> 4, sizes & 15, more >> 4, (more & 15 if version else 0)
    if version > 2 or not {offset, length, base, index} <= {0, 4, 8}:
        raise HeaderError(DAMAGED)
    position = start + 6

    def take(size: int) -> int:
        nonlocal position
        position += size
        if position > end:
            raise HeaderError(TRUNCATED)
        return int.from_bytes(data[position - size : position])

    extents = 0
    for _ in range(take(4 if version == 2 else 2)):
        key = take(4 if version == 2 else 2)
        method = take(2) & 15 if version else 0
        take(2)
        origin = take(base)
        if method == 1 and idat:
            origin += idat[0]
        elif method:
            raise HeaderError(DAMAGED)
        item = items.setdefault(key, _Item())
        for _ in range(take(2)):
            take(index)
            first = origin + take(offset)
            item.extents.append((first, take(length) or len(data) - first))
            extents += 1
            if extents > _MOST_ITEMS or len(items) > _MOST_ITEMS:
                raise _too_many()


def _read_properties(data: bytes, items: dict[int, _Item], start: int, end: int) -> None:
    """ISO/IEC 23008-12, 9.3: a list of properties, and which item has which."""
    properties: list[tuple[bytes, bytes]] = []
    associations: list[tuple[int, int]] = []
    for kind, first, last in _boxes(data, start, end):
        if kind == b"ipco":
            if properties:
                raise HeaderError(DAMAGED)
            properties = [(name, data[begin:stop]) for name, begin, stop in _boxes(data, first, last)]
        elif kind == b"ipma":
            associations.append((first, last))
    for first, last in associations:
        wide, large = data[first + 3] & 1, data[first]
        (count,) = struct.unpack_from(">L", data, first + 4)
        if count > _MOST_ITEMS:
            raise _too_many()
        position = first + 8
        for _ in range(count):
            (key,) = struct.unpack_from(">L" if large else ">H", data, position)
            position += 4 if large else 2
            number = data[position] if position < last else 0
            for _ in range(number):
                (value,) = struct.unpack_from(">H" if wide else ">B", data, position + 1)
                position += 2 if wide else 1
                place = value & (0x7FFF if wide else 0x7F)
                if 0 < place <= len(properties):
                    items.setdefault(key, _Item()).properties.append(properties[place - 1])
            position += 1


def _check_items(data: bytes, items: dict[int, _Item], pixels: int) -> None:
    """Raise ``HeaderError`` if the items exceed the file, or decode to far more pixels than the picture."""
    left = _MOST_TIMES_READ * len(data)
    decoded = 0
    for item in items.values():
        for first, length in item.extents:
            left -= length
            if left < 0 or first + length > len(data):
                raise HeaderError(TRUNCATED)
        if item.kind in (b"av01", b"hvc1", b"hev1"):
            content = b"".join(data[first : first + length] for first, length in item.extents)
            try:
                configuration = item.find(b"hvcC") or b""
                decoded += (
                    av1.decoded_pixels(content) if item.kind == b"av01" else hevc.decoded_pixels(configuration, content)
                )
            except struct.error:
                raise HeaderError(DAMAGED) from None
        elif item.kind not in (b"grid", b"iovl", b"iden", b"tmap", b"Exif", b"mime", b"uri ", b""):
            raise HeaderError("it holds images of an unknown kind; convert it to PNG")
    if not decoded or decoded > _MOST_PIXELS_DECODED * pixels + _SLACK:
        raise HeaderError("its data are out of proportion to its picture; save it again")


def _depth(items: dict[int, _Item]) -> int:
    """Bits a sample of the AV1 images, as their configurations say: AV1-ISOBMFF, 2.3.3."""
    flags = next((content[2] for item in items.values() if (content := item.find(b"av1C")) and len(content) > 2), 0)
    return 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
