"""Mutated files of every format that is read: an image or an ``ImageError``, never the end of the process.

A small fixed number of them by default; ``GHOSTZOO_FUZZ=100000 pytest tests/images/test_fuzz.py -s`` tries that many of
each format, in child processes of 5,000. A finding names the format and number, from which ``python -m
tests.fixtures.fuzz FORMAT NUMBER > file`` makes the file again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.fuzz import SEEDS, Findings, fuzz, mutant
from tests.fixtures.limited import run_limited

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("GHOSTZOO_FUZZ", "300"))
AT_ONCE = 5000


@pytest.mark.parametrize("name", SEEDS)
def test_mutants_are_images_or_image_errors(name: str, tmp_path: Path) -> None:
    read, refused, wrong = 0, 0, []
    for first in range(0, COUNT, AT_ONCE):
        findings: Findings = fuzz(name, first, min(AT_ONCE, COUNT - first), tmp_path)
        read, refused = read + findings.read, refused + findings.refused
        wrong += findings.wrong
    print(f"{name}: {read} read, {refused} refused, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
    assert read + refused == COUNT
    assert read > COUNT / 50, "nearly all are refused at once: the mutants do not go deep"


@pytest.mark.parametrize("name", SEEDS)
def test_a_number_always_makes_the_same_mutant(name: str) -> None:
    assert [mutant(name, number) for number in range(20)] == [mutant(name, number) for number in range(20)]
    assert len({mutant(name, number) for number in range(200)}) > 100


TWICE = """
import sys
import numpy as np
from ghostzoo.errors import ImageError
from ghostzoo.images import pixels
from ghostzoo.images.decode import ReadOptions, read_picture
from tests.fixtures.fuzz import LIMITS, mutant

pixels._LARGE = 64
read = 0
for number in range(int(sys.argv[2])):
    seen = []
    for before in (0x55, 0xAA):
        pixels.new_image = lambda *shape: np.full(shape, before, np.uint8)
        try:
            picture = read_picture(mutant(sys.argv[1], number), LIMITS, ReadOptions(lenient=number % 2 == 0))
            seen.append((picture.rgb.shape, picture.rgb.tobytes()))
            read += 1
        except ImageError as error:
            seen.append(error.reason)
    assert seen[0] == seen[1], number
print(read)
"""


@pytest.mark.parametrize("name", ["jpeg", "png", "apng", "webp"])
def test_no_mutant_shows_what_was_in_memory_before(name: str) -> None:
    ended = run_limited(TWICE, name, str(COUNT), memory_mb=2048, seconds=600)
    assert ended.returncode == 0, ended.stderr[-500:]
    assert int(ended.stdout) > COUNT / 50
