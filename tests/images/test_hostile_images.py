"""Files that end the process, or take it minutes or gigabytes, if they are simply decoded."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ghostzoo.errors import ImageError
from ghostzoo.images.decode import ImageLimits, read_image
from ghostzoo.images.header import read_header
from tests.fixtures.hostile_images import HOSTILE, crashing_apng, jpeg_of_scans, pnm_of_comments
from tests.fixtures.limited import run_limited

pytestmark = pytest.mark.slow

SERVER_LIMITS = ImageLimits(max_bytes=32 * 2**20, max_pixels=50_000_000)
READ = """
import resource, sys
from pathlib import Path
from ghostzoo.errors import ImageError
from ghostzoo.images.decode import ImageLimits, read_image
data = Path(sys.argv[1]).read_bytes()
read_image(b"P5 1 1 255\\n0")
def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
seconds, mb = used()
try:
    print(read_image(data, ImageLimits(max_bytes=32 * 2**20, max_pixels=50_000_000)).shape)
except ImageError as error:
    print(error)
print(*(after - before for after, before in zip(used(), (seconds, mb))))
"""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_costs_little_and_is_read_or_refused(name: str, tmp_path: Path) -> None:
    make, reason = HOSTILE[name]
    path = tmp_path / name
    path.write_bytes(make())
    ended = run_limited(READ, path, memory_mb=3072, seconds=60)
    assert ended.returncode == 0, ended.stderr[-500:]
    said, cost = ended.stdout.strip().splitlines()
    seconds, mb = map(float, cost.split())
    assert re.search(reason, said) if reason else said.startswith("("), said
    assert mb < 150, f"{mb:.0f} MB"
    assert seconds < 12, f"{seconds:.1f} s of CPU time"


def test_the_file_that_crashes_decoders_shows_its_default_image() -> None:
    np.testing.assert_array_equal(read_image(crashing_apng()), np.zeros((4, 4, 3)))


def test_a_smaller_picture_may_have_more_scans() -> None:
    data = jpeg_of_scans(50, side=500)
    assert read_header(data).scans == 51
    assert read_image(data, ImageLimits(max_pixels=500 * 500, max_scans=51)).shape == (500, 500, 3)
    with pytest.raises(ImageError, match=r"51 scans of 250000 pixels are more than 50 \(max_scans\) of 250000"):
        read_image(data, ImageLimits(max_pixels=500 * 500, max_scans=50))
    assert read_image(data, ImageLimits(max_pixels=2 * 500 * 500, max_scans=25.5)).shape == (500, 500, 3)


def test_a_pnm_header_may_have_some_comments() -> None:
    assert read_header(b"P2 " + b"#" * 60_000 + b"\n4 4 255 " + b"0 " * 16).width == 4
    assert len(pnm_of_comments()) > 28 * 2**20
