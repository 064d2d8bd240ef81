"""OpenVINO's library as the engine imports it: without its usage reports, and so that forked processes can end."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._utils.locks import never_freed_in_forks, opening

__all__ = ["ov", "shared_core"]


def _opted_in() -> bool:
    """Whether the user turned OpenVINO's usage reports on with its ``opt_in_out --opt_in``, which keeps a file."""
    try:
        if platform.system() == "Windows":
            folder = Path(os.environ["LOCALAPPDATA"], "Intel Corporation")
        else:
            folder = Path.home() / "intel"
        return (folder / "openvino_telemetry").read_text(encoding="ascii").strip() == "1"
    except (OSError, ValueError, KeyError, RuntimeError):  # no such file or text, and no home
        return False


@contextmanager
def _no_usage_reports() -> Iterator[None]:
    """Import OpenVINO without the usage report that importing it sends, unless the user opted in.

    It sends none on build servers, which it knows by ``CI=true``. Its other switch, ``opt_in_out --opt_out``, writes to
    the user's home folder, and sends a report of its own.
    """
    before = os.environ.get("CI")
    if not _opted_in():
        os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is not None:
            os.environ["CI"] = before
        else:
            os.environ.pop("CI", None)


with _no_usage_reports():
    import openvino as ov


_cores: dict[int, Any] = {}
"""Process -> its core."""


def shared_core() -> Any:
    """Return the one core of this process, which lives as long as the process.

    Each core gives the thread that opens it a stack for signals, and puts the one before back when it ends. Where cores
    end in another order than they began, that is one that is gone, and the next Ctrl-C ends the process with a
    segmentation fault.
    """
    with opening:
        if os.getpid() not in _cores:
            core = _cores[os.getpid()] = ov.Core()
            never_freed_in_forks.add(core)
        return _cores[os.getpid()]


def _end_without_threads() -> None:
    """In a fork: have the process end without the library's own end, which may wait for threads that stayed behind.

    What is registered last is called first, with the exit status. Python has flushed its files by then. Nothing is
    looked up here: a thread that stayed behind may have been loading a library.
    """
    if _on_exit is not None:
        _on_exit(_exit, None)


if hasattr(os, "register_at_fork"):
    _process = ctypes.CDLL(None)
    _on_exit = getattr(_process, "on_exit", None)  # of glibc
    _exit = ctypes.cast(_process._exit, ctypes.c_void_p)
    os.register_at_fork(after_in_child=_end_without_threads)
