"""Converters, run where they can do no harm.

They overwrite their input, leave files behind, print to stdout, may end the process, and some install packages or
report what they did: so each runs in a process of its own, in a scratch folder that is also its home and its PATH.
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


def run_isolated(name: str, command: Sequence[str], folder: Path) -> str:
    """Run a converter in ``folder``; return what it printed.

    Its exit status counts for nothing, since converters that failed have been seen to return 0: check what it wrote.

    Args:
        name: of the converter, for messages.
        command: program and arguments; the program by its full path.
        folder: working folder, home and PATH; holds the copy of what is converted.

    Raises:
        EngineError: it was not done in time.
    """
    # Without a PATH it finds no pip, and no other program either.
    surroundings = os.environ | dict.fromkeys((*_HOMES, "PATH"), str(folder)) | {"PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(  # noqa: S603  # a program of an installed package, with fixed arguments
            command,
            cwd=folder,
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{name} was not done after {_TIMEOUT_SECONDS} seconds and was stopped.") from error
    return done.stdout.decode("utf-8", "replace")


def last_words(log: str) -> str:
    """Return the last few lines that a converter printed, for messages."""
    return " / ".join(line.strip() for line in log.splitlines()[-_SHOWN_LOG_LINES:] if line.strip()) or "none"
