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
