"""Weights with PaddleClas's or timm's keys: read without executing anything, and checked against the architecture."""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..network.architecture import Architecture
from ..network.families import PADDLE_GHOSTNET, Family
from .checkpoints import find_network, tensor
from .file_kinds import HEAD_BYTES, describe_folder, describe_foreign, describe_missing, describe_text
from .pickle_data import DamagedPickleError, UnsafePickleError, load_pickle_data
from .recognition import MAX_KEY_SHOWN, check_weights, infer_architecture, shorten, without_extras
from .safetensors import BFLOAT16, dump_safetensors, load_safetensors, looks_like_safetensors, to_float32

MAX_WEIGHTS_BYTES = 512 * 2**20
"""Largest weight file that is read; the largest official one has 30 MB."""

_PICKLE_PROTOCOL = 4  # what paddle.save writes
_log = logging.getLogger("ghostzoo")


@dataclass(frozen=True)
class Weights:
    """The float32 tensors of one weight file under its source's keys, and the file's identity."""

    arrays: Mapping[str, NDArray[np.float32]]
    architecture: Architecture
    file_name: str
    sha256: str
    size: int
    """Bytes of the file."""
    prefix: str = ""
    """What preceded these keys in the file."""


def read_weights(
    path: str | PathLike[str],
    *,
    width: float | None = None,
    family: Family | None = None,
    num_classes: int | None = None,
    prefix: str | None = None,
    max_bytes: int = MAX_WEIGHTS_BYTES,
) -> Weights:
    """Read a ``.pdparams`` file of Paddle 1.x to 3.x, or a safetensors file, and check it against the architecture.

    float64, float16 and bfloat16 (stored by Paddle as uint16) are converted to float32.

    Args:
        path: the file; its format is detected from its content.
        width: the expected width; ``None`` infers it from the shapes.
        family: the expected family; ``None`` infers it from the keys, and with a ``width`` is PaddleClas's GhostNet.
        num_classes: the expected number of classes; ``None`` infers it from the shapes.
        prefix: the key prefix of the network to read, such as ``Student.``; ``None`` reads the only network there is
            and logs its prefix.
        max_bytes: larger files are refused without being read.

    Raises:
        WeightsError: the file is missing, too large, damaged, unsafe, of another kind, holds several networks, does not
            fit the architecture, or needs more memory than there is.
    """
    path = Path(path)
    try:
        data = _read_file(path, max_bytes)
        is_safetensors = _is_safetensors(path, data)
        content = _load(path, data, is_safetensors)
        try:
            network = find_network(content, prefix)
            arrays = _named_arrays(without_extras(network.entries), len(data), of_paddle=not is_safetensors)
            architecture = infer_architecture(arrays)
            _check_expected(architecture, width, family, num_classes)
            check_weights(arrays, architecture)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
    except MemoryError:
        raise WeightsError(f"{path} takes more memory than there is; is it a GhostNet weight file?") from None
    if network.prefix and prefix is None:
        count = network.left_out
        others = f"; {count} other {'entry is' if count == 1 else 'entries are'} ignored" if count else ""
        _log.warning("%s: using the network with the prefix %s%s.", path, ascii(network.prefix), others)
    sha256 = hashlib.sha256(data).hexdigest()
    return Weights(arrays, architecture, _encodable(path.name), sha256, len(data), _encodable(network.prefix))


def dump_params(arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Return float32 tensors as a ``.pdparams`` file, as Paddle reads and writes it."""
    return pickle.dumps(
        {key: np.array(array, np.float32, order="C") for key, array in arrays.items()}, protocol=_PICKLE_PROTOCOL
    )


def dump_weights(arrays: Mapping[str, NDArray[np.float32]], architecture: Architecture) -> bytes:
    """Return tensors as a file of their source's format: see ``weights_suffix``."""
    return (dump_params if architecture.family == PADDLE_GHOSTNET else dump_safetensors)(arrays)


def weights_suffix(architecture: Architecture) -> str:
    """``.pdparams`` for PaddleClas's GhostNet, ``.safetensors`` for networks with timm's keys."""
    return ".pdparams" if architecture.family == PADDLE_GHOSTNET else ".safetensors"


def _encodable(name: str) -> str:
    """Escape lone surrogates: POSIX file names and keys in a file need not be UTF-8, documents must be."""
    return name.encode("utf-8", "backslashreplace").decode()


def _is_safetensors(path: Path, data: bytes) -> bool:
    head = data[:HEAD_BYTES]
    if looks_like_safetensors(head):
        return True
    if (foreign := describe_foreign(head)) is not None:
        raise WeightsError(f"{path} is not a weight file: it is {foreign}.")
    return path.suffix.lower() == ".safetensors"


def _load(path: Path, data: bytes, is_safetensors: bool) -> Any:
    if is_safetensors:
        try:
            return load_safetensors(data)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from error
    try:
        return load_pickle_data(data)
    except UnsafePickleError as error:
        raise WeightsError(
            f"{path} is refused as weights: {error}. Nothing in it was executed; get the file from a source you trust."
        ) from error
    except DamagedPickleError as error:
        if (text := describe_text(data[:HEAD_BYTES])) is not None:
            raise WeightsError(f"{path} is not a weight file: it is {text}.") from error
        raise WeightsError(f"{path} is not a readable .pdparams file: {error}. Download it again.") from error


def _check_expected(
    architecture: Architecture, width: float | None, family: Family | None, num_classes: int | None
) -> None:
    if width is not None or family is not None:
        wanted = Architecture.of(width or architecture.width, 1, family or PADDLE_GHOSTNET)
        if (wanted.family, wanted.channels) != (architecture.family, architecture.channels):
            same = wanted.family == architecture.family
            found = f"width {architecture.width:g}" if same else architecture.title
            asked = f"{wanted.width:g}" if same else wanted.title
            raise WeightsError(
                f"the weights are of {found}, not {asked} as was asked for; check the model name and the file."
            )
    if num_classes is not None and architecture.num_classes != num_classes:
        raise WeightsError(
            f"the weights have {architecture.num_classes} classes, not {num_classes} as was asked for; "
            "check the labels and the file."
        )


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        if path.is_dir():
            raise WeightsError(f"{path} is a folder, not a weight file; {describe_folder(path)}")
        if not path.is_file():
            raise WeightsError(f"There is no weight file {path}; {describe_missing(path)}")
        size = path.stat().st_size
        if size > max_bytes:
            raise WeightsError(
                f"{path} has {size} bytes, more than the {max_bytes} that are read; is it a GhostNet weight file?"
            )
        with path.open("rb") as file:
            data = file.read(size + 1)  # read() allocates what it is asked for, so not the limit
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from error
    if len(data) > size:
        raise WeightsError(f"{path} grew beyond {size} bytes while it was read; try again when it is whole.")
    return data


def _named_arrays(entries: Mapping[str, Any], file_size: int, *, of_paddle: bool) -> dict[str, NDArray[np.float32]]:
    arrays: dict[str, NDArray[np.float32]] = {}
    strange: list[str] = []
    unused = file_size
    for key, value in entries.items():
        array = tensor(value)
        if of_paddle and array is not None and (array.dtype.kind, array.dtype.itemsize) == ("u", 2):
            array = array.astype("<u2", copy=False).view(BFLOAT16)  # how Paddle stores bfloat16
        if array is not None and (array.dtype.kind == "f" or array.dtype == BFLOAT16):
            # Many keys may share one array, and conversion would copy it for each.
            unused -= array.nbytes
            if unused < 0:
                raise WeightsError(
                    "its tensors share their contents, so together they are larger than the file; "
                    "get it from a source you trust."
                )
            arrays[key] = to_float32(array)
        else:
            kind = type(value).__name__ if array is None else array.dtype
            strange.append(f"{key[:MAX_KEY_SHOWN]} ({kind})")
    if strange:
        raise WeightsError(
            f"{len(strange)} of its {len(entries)} entries are not floating-point tensors: {shorten(strange)}. Is it "
            "an optimizer's state? The weights are in the .pdparams file."
        )
    return arrays
