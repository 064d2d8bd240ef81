"""Third-party converters, each run in a sandboxed process.

They overwrite their input, leave files behind, print to stdout, may exit the process, and some install packages or
send telemetry. So each runs in its own process, in a scratch folder that is also its home and its PATH.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ghostzoo.errors import EngineError

_TIMEOUT_SECONDS = 600
_SHOWN_LOG_LINES = 3
_HOMES = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP")


def run_converter(name: str, command: Sequence[str], folder: Path) -> str:
    """Run a converter in ``folder``; return its output.

    Its exit status is ignored, since converters have been seen to return 0 when they failed: check what it wrote.

    Args:
        name: the converter's, for error messages.
        command: full path of the program, and its arguments.
        folder: working folder, home and PATH; holds a copy of the input.

    Raises:
        EngineError: it timed out.
    """
    # Without a PATH it finds neither pip nor any other program.
    environment = os.environ | dict.fromkeys((*_HOMES, "PATH"), str(folder)) | {"PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(  # noqa: S603  # a program of an installed package, with fixed arguments
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{name} did not finish within {_TIMEOUT_SECONDS} seconds and was stopped.") from error
    return done.stdout.decode("utf-8", "replace")


def last_lines(log: str) -> str:
    """Return the last few lines of a converter's output, for error messages."""
    return " / ".join(line.strip() for line in log.splitlines()[-_SHOWN_LOG_LINES:] if line.strip()) or "none"
