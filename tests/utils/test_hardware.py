from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghostzoo._utils import hardware as cpus
from ghostzoo._utils.hardware import cgroup_quota, usable_cpus


def group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".", 1)).write_text(content)


def proc(tmp_path: Path, content: str | bytes) -> Path:
    file = tmp_path / "cgroup"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


@pytest.mark.parametrize(
    ("content", "quota"),
    [("150000 100000\n", 1.5), ("50000 100000\n", 0.5), ("max 100000\n", None), ("800000 100000", 8.0)],
)
def test_version_2_quota_of_the_own_group(tmp_path: Path, content: str, quota: float | None) -> None:
    group(tmp_path / "fs", "a/b", cpu__max=content)
    assert cgroup_quota(proc(tmp_path, "0::/a/b\n"), tmp_path / "fs") == quota


def test_version_2_the_tightest_group_above_counts(tmp_path: Path) -> None:
    root = tmp_path / "fs"
    group(root, "a", cpu__max="200000 100000")
    group(root, "a/b", cpu__max="400000 100000")
    group(root, "a/b/c", cpu__max="max 100000")
    assert cgroup_quota(proc(tmp_path, "0::/a/b/c\n"), root) == 2.0


def test_in_a_container_the_mount_is_the_group(tmp_path: Path) -> None:
    group(tmp_path / "fs", ".", cpu__max="300000 100000")
    assert cgroup_quota(proc(tmp_path, "0::/not/visible/here\n"), tmp_path / "fs") == 3.0
    assert cgroup_quota(proc(tmp_path, "0::/\n"), tmp_path / "fs") == 3.0
    assert cgroup_quota(proc(tmp_path, "0::/../../elsewhere\n"), tmp_path / "fs") == 3.0


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_version_1_quota(tmp_path: Path, mount: str) -> None:
    root = tmp_path / "fs"
    group(root, f"{mount}/docker/x", cpu__cfs_quota_us="250000\n", cpu__cfs_period_us="100000\n")
    lines = "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n0::/docker/x\n"
    assert cgroup_quota(proc(tmp_path, lines), root) == 2.5
    group(root, f"{mount}/docker/x", cpu__cfs_quota_us="-1\n")
    assert cgroup_quota(proc(tmp_path, lines), root) is None


@pytest.mark.parametrize("content", ["", "max", "x y", "1 0", "1", "\x00"])
def test_files_that_make_no_sense_are_no_limit(tmp_path: Path, content: str) -> None:
    group(tmp_path / "fs", "a", cpu__max=content)
    assert cgroup_quota(proc(tmp_path, "0::/a\n"), tmp_path / "fs") is None


@pytest.mark.parametrize("lines", ["", "\n", "nonsense\n", "0:\n", b"0::/\xff\xfe\n", "1:cpuset:/a\n"])
def test_group_lists_that_make_no_sense_are_no_limit(tmp_path: Path, lines: str | bytes) -> None:
    group(tmp_path / "fs", "." if b"\xff" not in os.fsencode(lines) else "a", cpu__max="100000 100000")
    assert cgroup_quota(proc(tmp_path, lines), tmp_path / "fs") is None
    assert cgroup_quota(tmp_path / "missing", tmp_path / "fs") is None


@pytest.mark.parametrize(("content", "expected"), [("50000 100000", 1), ("100 100000", 1), ("0 100000", 1)])
def test_at_least_one_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: int) -> None:
    group(tmp_path / "fs", "a", cpu__max=content)
    monkeypatch.setattr(cpus, "_PROC_CGROUP", proc(tmp_path, "0::/a\n"))
    monkeypatch.setattr(cpus, "_CGROUP_ROOT", tmp_path / "fs")
    assert usable_cpus() == expected


def test_a_part_of_a_cpu_counts_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group(tmp_path / "fs", "a", cpu__max="250000 100000")
    monkeypatch.setattr(cpus, "_PROC_CGROUP", proc(tmp_path, "0::/a\n"))
    monkeypatch.setattr(cpus, "_CGROUP_ROOT", tmp_path / "fs")
    monkeypatch.setattr(cpus, "_affinity_cpus", lambda: 64)
    assert usable_cpus() == 3
    monkeypatch.setattr(cpus, "_affinity_cpus", lambda: 2)
    assert usable_cpus() == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity_of_this_process_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from ghostzoo._utils.hardware import usable_cpus; print(usable_cpus())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"


@pytest.mark.parametrize(("count", "expected"), [(8, 8), (1, 1), (None, 1)])
def test_without_an_affinity_mask_all_cpus_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int | None, expected: int
) -> None:
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr(cpus, "_PROC_CGROUP", tmp_path / "none")
    assert usable_cpus() == expected


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system has no affinity masks")
def test_the_affinity_mask_counts_more_than_all_cpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cpus, "_PROC_CGROUP", tmp_path / "none")
    assert usable_cpus() == 3
