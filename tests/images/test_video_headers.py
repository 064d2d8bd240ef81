"""The sizes that AV1 and HEVC sequence headers allow, against headers that are written field by field."""

from __future__ import annotations

import struct
from itertools import product

import pytest

from ghostzoo.images import av1, hevc
from ghostzoo.images.bits import Bits


def packed(bits: str) -> bytes:
    bits += "1" + "0" * (-(len(bits) + 1) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8)


def exponential(value: int) -> str:
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


@pytest.mark.parametrize("value", [0, 1, 2, 5, 254, 2**31 - 2])
def test_an_exponential_code_is_read(value: int) -> None:
    bits = Bits(packed(exponential(value) + "101"))
    assert (bits.exponential(), bits.read(3)) == (value, 0b101)
    with pytest.raises(struct.error):
        Bits(bytes(8)).exponential()


def av1_sequence(*, still: bool, timing: bool, model: bool, equal: bool, delay: bool, tier: bool) -> str:
    """5.5.1, with two operating points, for frames of 800 x 500."""
    bits = "000" + "1" + f"{still:b}"
    if still:
        bits += "00101"
    else:
        bits += f"{timing:b}"
        if timing:
            bits += "01" * 32 + f"{equal:b}" + (exponential(5) if equal else "") + f"{model:b}"
            if model:
                bits += f"{4:05b}" + "10" * 16 + f"{7:05b}" + f"{9:05b}"
        bits += f"{delay:b}" + f"{1:05b}"
        for _ in range(2):
            bits += f"{257:012b}" + (f"{9:05b}1" if tier else f"{7:05b}")
            if timing and model:
                bits += "1" + "10110" * 2 + "1"
            if delay:
                bits += "1" + f"{6:04b}"
    return bits + f"{10:04b}{8:04b}" + f"{799:011b}{499:09b}"


@pytest.mark.parametrize(("timing", "model", "equal", "delay", "tier"), list(product([False, True], repeat=5)))
def test_the_largest_frame_of_an_av1_video(timing: bool, model: bool, equal: bool, delay: bool, tier: bool) -> None:
    header = packed(av1_sequence(still=False, timing=timing, model=model, equal=equal, delay=delay, tier=tier))
    frame = bytes((6 << 3 | 2, 3)) + b"abc"
    extended = bytes((3 << 3 | 4, 0xA5)) + b"the rest is the frame's"
    data = bytes((1 << 3 | 2, 128 | len(header), 0)) + header + frame + frame
    assert av1.decoded_pixels(data) == 2 * 2**11 * 2**9
    assert av1.decoded_pixels(data + extended) == 3 * 2**11 * 2**9
    for damaged in (data[:-1], frame, header, data[: -2 * len(frame)], b"\x0a" + b"\x80" * 8 + data):
        with pytest.raises(struct.error):
            av1.decoded_pixels(damaged)


def test_the_frame_of_an_av1_still_picture() -> None:
    bits = av1_sequence(still=True, timing=False, model=False, equal=False, delay=False, tier=False)
    header = packed(bits)
    data = bytes((1 << 3 | 2, len(header))) + header + bytes((3 << 3 | 2, 0))
    assert av1.decoded_pixels(data) == 800 * 500


def hevc_sequence(layers: int, present: tuple[bool, bool], chroma: int, width: int = 800, height: int = 500) -> bytes:
    """7.3.2.2.1 and 7.3.3, with or without profile and level of each lower layer."""
    bits = f"{0:04b}{layers:03b}1" + "10" * 48
    bits += "".join(f"{flag:b}" for flag in present) * layers + ("00" * (8 - layers) if layers else "")
    bits += (("01" * 44 if present[0] else "") + ("1" * 8 if present[1] else "")) * layers
    bits += exponential(3) + exponential(chroma) + ("1" if chroma == 3 else "") + exponential(width)
    return bytes((33 << 1, 1)) + packed(bits + exponential(height))


def units(*contents: bytes, length: int = 4) -> bytes:
    return b"".join(len(content).to_bytes(length) + content for content in contents)


@pytest.mark.parametrize(
    ("layers", "present", "chroma"),
    [(0, (True, True), 1), (1, (True, False), 3), (6, (False, True), 2), (2, (True,) * 2, 3)],
)
@pytest.mark.parametrize("length", [1, 2, 4])
def test_the_pictures_of_an_hevc_item(layers: int, present: tuple[bool, bool], chroma: int, length: int) -> None:
    sequence, small = hevc_sequence(layers, present, chroma), hevc_sequence(0, (True, True), 1, 9, 9)
    begins, goes_on = (bytes((19 << 1, 1, flag << 7)) + b"pixels" for flag in (1, 0))
    arrays = bytes((32, 0, 1)) + units(b"\x40\1", length=2) + bytes((33, 0, 2)) + units(small, sequence, length=2)
    configuration = bytes(21) + bytes((0xFC | length - 1, 2)) + arrays
    data = units(begins, goes_on, begins, b"\x4e\1\xff", length=length)
    assert hevc.decoded_pixels(configuration, data) == 2 * 800 * 500
    inside = units(sequence, begins, length=length)
    assert hevc.decoded_pixels(configuration[:22] + b"\0", inside) == 800 * 500
    for damaged in (data[:-1], units(goes_on, length=length)):
        with pytest.raises(struct.error):
            hevc.decoded_pixels(configuration, damaged)
    with pytest.raises(struct.error):
        hevc.decoded_pixels(configuration[:22], data)
