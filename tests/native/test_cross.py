"""The library, compiled for another CPU and run by an emulator: its logits are those of a plain evaluation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
NEEDED = ("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
MISSING = [name for name in NEEDED if not shutil.which(name)]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not in PATH: {', '.join(MISSING)} (g++-aarch64-linux-gnu, qemu-user)")
def test_logits_on_arm_are_right(tmp_path: Path) -> None:
    toolchain = NATIVE / "cmake/aarch64-linux-gnu.cmake"
    configure = ["cmake", "-S", NATIVE, "-B", tmp_path, "--toolchain", toolchain, "-DGHOSTZOO_DECODERS=OFF"]
    subprocess.run(configure, check=True, timeout=300)
    subprocess.run(["cmake", "--build", tmp_path, "--target", "test_network"], check=True, timeout=1800)
    ctest = ["ctest", "--test-dir", tmp_path, "-R", "^network$", "--verbose"]
    done = subprocess.run(ctest, capture_output=True, text=True, timeout=900, check=False)
    assert "4 ways to run, 0 failures" in done.stdout, done.stdout  # the portable kernels and NEON's, 1 and 3 threads
