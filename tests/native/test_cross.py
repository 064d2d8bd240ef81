"""The library, compiled for another CPU and run by an emulator: its logits are those of a plain evaluation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
NEEDED = ("cmake", "aarch64-linux-gnu-g++", "qemu-aarch64")
MISSING = [name for name in NEEDED if not shutil.which(name)]


@pytest.mark.extra
@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"not in PATH: {', '.join(MISSING)} (g++-aarch64-linux-gnu, qemu-user)")
def test_logits_on_arm_are_right(tmp_path: Path) -> None:
    def run(*words: object, limit: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=limit, check=False)

    toolchain = NATIVE / "cmake/aarch64-linux-gnu.cmake"
    done = run("cmake", "-S", NATIVE, "-B", tmp_path, "--toolchain", toolchain, "-DGHOSTZOO_DECODERS=OFF", limit=300)
    assert done.returncode == 0, done.stderr
    done = run("cmake", "--build", tmp_path, "--target", "test_network", "test_graphs", limit=1800)
    assert done.returncode == 0, done.stdout
    done = run("ctest", "--test-dir", tmp_path, "-R", "^(network|graphs)$", "--verbose", limit=900)
    assert done.returncode == 0, done.stdout
    assert "4 ways to run, 0 failures" in done.stdout, done.stdout  # the portable kernels and NEON's, 1 and 3 threads
