"""The process that decodes images for the server: encoded images on stdin, cut ones on stdout, until stdin ends.

What is small enough goes through shared memory instead, where there is some: through a pipe it takes a fifth of the
time of decoding a photo once more.

``decoder_process`` starts it and speaks with it. It runs what is written in C on bytes that anybody may have sent, so
it holds nothing but the image in hand, and may be killed at any time. It imports little, for a killed one is replaced.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import struct
import sys
import threading
import traceback
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from ..errors import ImageError
from ..images.decode import ImageLimits, read_image
from ..images.preprocessing import Preprocessing
from ..images.transform import cut_centre

try:
    import resource
except ImportError:  # Windows, where the memory of a process is not bounded
    resource = None  # type: ignore[assignment]

READY = b"ready\n"
REQUEST = struct.Struct("<II?")
"""Lengths of the preprocessing as JSON, which follows, and of the encoded image; whether that is in shared memory."""
ANSWER = struct.Struct("<BIH")
"""What it is, the length of what follows, and that of what libraries printed meanwhile, which comes last."""
SHARED, PIXELS, REFUSED, FAILED = range(4)
"""(crop_size, crop_size, 3) uint8 in shared memory, or here; why the image cannot be read; the traceback of an error of
ours."""

SLOT = 2**20
"""Shared memory has one of so many bytes for an encoded image, and one for what is cut from it."""

_NICENESS = 5
"""The server's event loop goes first, which all of these wait for."""
_MOST_PRINTED = 2000
"""Bytes of what libraries print about one image; what is beyond is lost."""

_BYTES_PER_PIXEL = 32
"""Measured: 6 (JPEG, PNG) to 17 (JPEG 2000) for RGB with what the decoder itself takes; 16 bits and alpha take more."""
_ROOM = 64 * 2**20


def memory_limit(limits: ImageLimits) -> int:
    """Return the bytes that decoding one image may take; no image within ``limits`` needs as many."""
    return _BYTES_PER_PIXEL * limits.max_pixels + 2 * limits.max_bytes + _ROOM


def main() -> None:
    """Decode until stdin ends; the last arguments are the shared memory, if there is one, and the limits as JSON."""
    limits = ImageLimits(**json.loads(sys.argv[-1]))
    shared = mmap.mmap(int(sys.argv[-2]), 2 * SLOT) if sys.argv[-2] else None
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    cv2.setNumThreads(1)  # there is one of these for each CPU, and more
    if hasattr(os, "nice"):
        os.nice(_NICENESS)
    if resource is not None and sys.platform != "win32":
        _bound_memory(memory_limit(limits))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if hasattr(select, "poll"):
        threading.Thread(target=_end_with_the_server, args=(requests.fileno(),), daemon=True).start()
    printed = _catch_output()
    answers.write(READY)
    answers.flush()
    while request := requests.read(REQUEST.size):
        config_length, length, in_shared = REQUEST.unpack(request)
        config = _preprocessing(_read(requests, config_length))
        image = shared[:length] if in_shared and shared is not None else _read(requests, length)
        kind, content = _answer(image, config, limits)
        if kind == PIXELS and shared is not None and len(content) <= SLOT:
            shared[SLOT : SLOT + len(content)] = content
            kind, content = SHARED, b""
        complaint = _take(printed)
        answers.write(ANSWER.pack(kind, len(content), len(complaint)))
        answers.write(content)
        answers.write(complaint)
        answers.flush()
        del image, content  # not kept until the next one is there


@lru_cache
def encode_preprocessing(config: Preprocessing) -> bytes:
    return json.dumps(vars(config)).encode()


@lru_cache
def _preprocessing(encoded: bytes) -> Preprocessing:
    content = json.loads(encoded)
    values: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in content.items()}
    return Preprocessing(**values)


def shared_memory() -> int | None:
    """Return the descriptor of memory that no process can make smaller, which would crash the others; ``None`` where
    the system has none. It is no file: there need not be a writable folder, nor room in /dev/shm."""
    if sys.platform != "linux":
        return None
    import fcntl

    try:
        memory = os.memfd_create("ghostzoo-decoder", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:  # as in sandboxes
        return None
    os.ftruncate(memory, 2 * SLOT)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return memory


def _answer(image: bytes, config: Preprocessing, limits: ImageLimits) -> tuple[int, Any]:
    try:
        return PIXELS, np.ascontiguousarray(cut_centre(read_image(image, limits), config)).data.cast("B")
    except ImageError as error:
        return REFUSED, error.reason.encode()
    except (MemoryError, cv2.error):
        return REFUSED, b"decoding it takes more memory than one image may have; make it smaller"
    except Exception:
        return FAILED, traceback.format_exc().encode()


def _read(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:  # the server has ended
        sys.exit()
    return data


def _catch_output() -> int | None:
    """Have what this process prints written to memory, where the system has such files; else it stays on stderr."""
    if sys.platform != "linux":
        return None
    try:
        printed = os.memfd_create("ghostzoo-printed")
    except OSError:  # as in sandboxes
        return None
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MOST_PRINTED, _MOST_PRINTED))  # an image can make them print endlessly
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    return printed


def _take(printed: int | None) -> bytes:
    """Return what was printed since the last time."""
    if sys.platform == "win32" or printed is None:
        return b""
    if not (length := os.lseek(printed, 0, os.SEEK_END)):
        return b""
    text = os.pread(printed, length, 0)
    os.ftruncate(printed, 0)
    os.lseek(printed, 0, os.SEEK_SET)
    return text


def _bound_memory(more: int) -> None:
    """Let this process take ``more`` bytes than it has now, where the system tells what that is."""
    if sys.platform != "linux":
        return
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _end_with_the_server(requests: int) -> None:
    """End when nobody is left who could write to us, even in the midst of an image that takes minutes."""
    if sys.platform == "win32":
        return
    poller = select.poll()
    poller.register(requests, 0)  # that the other end is closed is always told
    poller.poll()
    os._exit(0)
