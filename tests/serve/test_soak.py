"""The soak of ``benchmarks/soak.py``, in short: honest and hostile clients at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fixtures.limited import ROOT

pytestmark = pytest.mark.slow


def test_honest_clients_are_answered_whatever_others_send() -> None:
    pytest.importorskip("grpc", reason="grpcio, which a part of the clients speak with, is not installed here")
    command = [sys.executable, str(ROOT / "benchmarks" / "soak.py"), "--requests", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "honest: right" in done.stdout
    assert "honest, gRPC: right" in done.stdout
