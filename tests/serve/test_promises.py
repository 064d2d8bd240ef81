"""What an operator relies on without looking: where the server listens, and that it serves no wrong model."""

from __future__ import annotations

import gzip
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import GOLDEN_FILE, Bundle
from tests.fixtures.serving import COMMAND, ServerProcess, running_server

pytestmark = pytest.mark.slow

MIB = 2**20


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="who listens where is read from /proc/net/tcp")
def test_it_listens_on_this_machine_alone_by_default(server: ServerProcess) -> None:
    ports = {server.host_and_port[1], int(str(server.grpc).rpartition(":")[2])}
    listening = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            host, _, port = address.partition(":")
            if state == "0A" and int(port, 16) in ports:  # it waits for connections
                listening[int(port, 16)] = host
    assert set(listening) == ports
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1, and as an address of IPv6, on x86 and Arm
    assert set(listening.values()) <= loopback


def test_a_model_with_other_answers_is_not_served(tiny_bundle: Bundle, tmp_path: Path) -> None:
    golden, manifest = tiny_bundle.golden(), tiny_bundle.manifest
    wrong = replace(golden, logits=golden.logits + 1)
    write_bundle(
        tmp_path / "wrong",
        name=manifest.name,
        contents={name: tiny_bundle.read(name) for name in manifest.files} | {GOLDEN_FILE: wrong.to_bytes()},
        weights=manifest.weights,
        created_by=manifest.created_by,
        validation=manifest.validation,
    )
    result = subprocess.run(
        [sys.executable, *COMMAND, "--model", str(tmp_path / "wrong")], capture_output=True, text=True, timeout=180
    )
    assert result.returncode != 0
    assert "fails the golden check" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_a_body_that_swells_takes_no_more_than_its_limit(tiny_bundle: Bundle) -> None:
    """A gigabyte of zeros in a megabyte, which may be 8 MiB at most."""
    bomb = gzip.compress(bytes(1024 * MIB), 9)
    assert len(bomb) < 2 * MIB
    with running_server("--model", str(tiny_bundle.path), "--max-body-mb", "8") as server:

        def peak() -> int:
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024

        before = peak()
        answer = requests.post(
            f"{server.http}/v1/classify", data=bomb, headers={"Content-Encoding": "gzip"}, timeout=120
        )
        assert answer.status_code == 413
        assert peak() - before < 100 * MIB
