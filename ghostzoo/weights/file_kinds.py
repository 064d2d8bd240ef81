"""Recognises files that are not weights by their content, and says what to do about each kind."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

HEAD_BYTES = 1024
"""Bytes at the start of a file that are inspected."""
WEIGHT_SUFFIXES = (".pdparams", ".safetensors")
_MAX_TEXT_SHOWN = 60
_MAX_ENTRIES = 10_000
_LISTED = 5

_SAVE_AS_SAFETENSORS = (
    "which is not unpickled; where PyTorch is installed, write its state_dict with safetensors.torch.save_file("
    "torch.load(FILE, weights_only=True), 'model.safetensors') and use that file"
)
_UNPACK = "unpack it and use the .pdparams file in it"
_ARCHIVE = (
    "which may be an inference archive (..._infer.tar); use the training weights (..._pretrained.pdparams), or, from a "
    "checkout, 'python -m exporters export --archive'"
)
_INFERENCE = "of an exported inference model; use the training weights (.pdparams) that it was exported from"

_BEGINNINGS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), description)
    for pattern, description in (
        (
            rb"version https?://[\w.-]+/spec/v1\n",
            "a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'",
        ),
        (
            rb"(\xef\xbb\xbf)?\s*<(!doctype|html|head|body|script)",
            "a web page, not the file; download it again, and check the address",
        ),
        (rb"(\xef\xbb\xbf)?\s*<(\?xml|error)", "an XML document, perhaps a server's error; download the file again"),
        (rb'(\xef\xbb\xbf)?\s*\{\s*"base_code"', f"a program {_INFERENCE}"),
        (rb'(\xef\xbb\xbf)?\s*(\{\s*["}]|\[\s*[{\["])', "a JSON document; use the .pdparams file"),
        (
            rb"\x08[\x01-\x20][\x12\x1a\x22\x2a\x32\x3a\x42]",
            "an ONNX model already; use the weights that it was made of",
        ),
        (rb"\x0a.{1,5}\x08\x00\x10", f"a program (.pdmodel) {_INFERENCE}"),
        (rb"\0{16}[\x01-\x80]\0{3}\x08", f"the weights (.pdiparams) {_INFERENCE}"),
        (rb".{257}ustar", f"a tar archive, {_ARCHIVE}"),
        (
            rb"PK\x03\x04.{26}[\w./-]*(\.pkl|/data/\d|/byteorder|/\.format_version|/\.data/|/code/)",
            "a PyTorch checkpoint, " + _SAVE_AS_SAFETENSORS,
        ),
        (rb"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.", f"a PyTorch checkpoint, {_SAVE_AS_SAFETENSORS}"),
        (rb"PK(\x03\x04|\x05\x06)", f"a zip archive; {_UNPACK}"),
        (rb"\x1f\x8b", f"compressed by gzip; {_UNPACK}"),
        (rb"BZh[1-9]", f"compressed by bzip2; {_UNPACK}"),
        (rb"\xfd7zXZ\0", f"compressed by xz; {_UNPACK}"),
        (rb"\x28\xb5\x2f\xfd", f"compressed by zstd; {_UNPACK}"),
        (rb"7z\xbc\xaf\x27\x1c", f"a 7z archive; {_UNPACK}"),
        (rb"Rar!\x1a\x07", f"a RAR archive; {_UNPACK}"),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it; use a .pdparams file"),
        (rb"\x93NUMPY", "a numpy array; use the .pdparams file"),
        (rb".{4}TFL3", "a TensorFlow Lite model; use the .pdparams file"),
        (rb"\0{64}", "full of zeros, so its download did not finish; download it again"),
        (rb"$", "empty, so its download did not finish; download it again"),
    )
)


def describe_foreign(head: bytes) -> str | None:
    """Describe a file of another kind by its first bytes, as the end of a sentence; ``None`` if it may be weights."""
    return next((description for pattern, description in _BEGINNINGS if pattern.match(head)), None)


def describe_text(head: bytes) -> str | None:
    """Describe an unreadable file that turns out to be text; ``None`` if it is binary."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    line = text.strip().partition("\n")[0].strip()
    if " " not in line or not all(letter.isprintable() or letter.isspace() for letter in text):
        return None  # a protocol 0 pickle is text too, but has no words
    return f"a text that begins {line[:_MAX_TEXT_SHOWN]!r}; download the file again, and check the address"


def describe_missing(path: Path) -> str:
    """Say what to do about a path that does not exist."""
    near = [path.with_name(path.name + suffix) for suffix in WEIGHT_SUFFIXES] if path.name else []
    found = [str(other) for other in near if other.is_file()]
    return f"did you mean {found[0]}?" if found else "check the path."


def describe_folder(path: Path) -> str:
    """Say what to do about a folder passed as a weight file."""
    entries = islice(path.iterdir(), _MAX_ENTRIES)
    names = sorted(entry.name for entry in entries if entry.suffix.lower() in WEIGHT_SUFFIXES and entry.is_file())
    if not names:
        return f"name a weight file ({' or '.join(WEIGHT_SUFFIXES)}); there is none in this folder."
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"name a file in it: {', '.join(names[:_LISTED])}{more}."
