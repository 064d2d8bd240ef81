"""In a process of its own: load a model, make one prediction, and say how long that took and what it held in memory.

``python -m ghostzoo.bench.probe`` reads the arguments of ``ghostzoo.load`` and a batch size as JSON from stdin.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import GhostZooError

_TIMEOUT_SECONDS = 600
_log = logging.getLogger("ghostzoo")
_STATUS = Path("/proc/self/status")


def probe(arguments: Mapping[str, Any]) -> tuple[float | None, int | None]:
    """Return seconds and bytes of such a process; ``None`` for what could not be found out."""
    given = {name: value for name, value in arguments.items() if name != "progress"}  # it draws on this terminal
    try:
        done = subprocess.run(  # noqa: S603  # this interpreter, with fixed arguments
            [sys.executable, "-m", __name__],
            input=json.dumps(given, default=os.fspath),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
    except subprocess.SubprocessError as error:
        _log.warning("A process that loads %s did not tell what that takes: %s", arguments, error)
        return None, None
    found = json.loads(done.stdout)
    return found["seconds"], found["peak_memory"]


def main() -> None:
    arguments = json.load(sys.stdin)
    start = time.perf_counter()
    from ..loading import load
    from .sample_image import jpeg

    picture = jpeg()
    try:
        with load(**arguments) as classifier:
            size = arguments["batch_size"]
            list(classifier.predict([picture] * size, batch_size=size, workers=1))
            seconds = time.perf_counter() - start
    except GhostZooError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_memory": _peak_memory()}))


def _peak_memory() -> int | None:
    try:  # Linux's getrusage counts what the parent held when it forked
        status = _STATUS.read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # the one counts bytes, the others KiB


if __name__ == "__main__":
    main()
