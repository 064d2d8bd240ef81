"""PaddleClas's inference archives: ``X_infer.tar`` with a Paddle program and its weights.

The program itself, run by Paddle Inference, is the reference; see ``paddle_program`` for how it yields logits. The
weights are taken from paddle2onnx's graph of the program, whose convolutions, batch-norms and matrix products are in
the order of the forward pass. This is not assumed to be right: the graph made of them must give the same logits.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters.paddle_program import Program, read_program
from exporters.paddle_to_onnx import program_to_onnx
from exporters.routes import Route
from ghostzoo._utils.tars import read_headers
from ghostzoo.errors import ParityError, WeightsError
from ghostzoo.network.architecture import Architecture
from ghostzoo.predictions import sigmoid, softmax
from ghostzoo.weights.params import MAX_WEIGHTS_BYTES, Weights
from ghostzoo.weights.programs import MAX_PROGRAM_BYTES, check_params
from ghostzoo.weights.recognition import check_weights, infer_architecture

PROGRAM_FILES = ("inference.pdmodel", "inference.json")
"""The program as Paddle 2 and as Paddle 3 writes it."""
PARAMS_FILE = "inference.pdiparams"
ACTIVATION_TOLERANCE = 1e-6
"""Largest difference of Paddle's float32 softmax or sigmoid from that in float64; a softmax differed by some 2e-7."""
_MAX_MEMBERS = 64


@dataclass(frozen=True)
class Archive:
    """The checked program and weights of an archive."""

    path: Path
    program: Program
    params: bytes
    sha256: str
    """Of the whole archive."""
    size: int
    """Bytes of the archive."""


def read_archive(path: Path) -> Archive:
    """Read program and weights from an uncompressed tar, without extracting anything.

    Raises:
        WeightsError: it is not the archive of a GhostNet.
    """
    data = _read_file(path)
    try:
        found = _find_members(data)
        programs = [name for name in PROGRAM_FILES if name in found]
        if len(programs) != 1 or PARAMS_FILE not in found:
            raise WeightsError(
                f"it holds {', '.join(sorted(found)) or 'neither program nor weights'}; an inference archive has "
                f"{PARAMS_FILE} and one of {', '.join(PROGRAM_FILES)}."
            )
        check_params(found[PARAMS_FILE])
        program = read_program(found[programs[0]], PurePosixPath(programs[0]).suffix)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except MemoryError:
        raise WeightsError(f"{path} needs more memory than is available; is it an inference archive?") from None
    return Archive(path, program, found[PARAMS_FILE], hashlib.sha256(data).hexdigest(), len(data))


def _read_file(path: Path) -> bytes:
    limit = MAX_WEIGHTS_BYTES + 2 * MAX_PROGRAM_BYTES
    try:
        if not path.is_file():
            raise WeightsError(f"There is no archive {path}; check the path.")
        size = path.stat().st_size
        if size > limit:
            raise WeightsError(f"{path} has {size} bytes, more than the {limit} that are read.")
        with path.open("rb") as file:
            return file.read(size)
    except MemoryError:
        raise WeightsError(f"{path} needs more memory than is available; is it an inference archive?") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from error


def _find_members(data: bytes) -> dict[str, bytes]:
    try:
        return dict(_members(data))
    except tarfile.TarError as error:
        raise WeightsError(
            f"it is not a readable, uncompressed tar file ({error}); get it again, or unpack it."
        ) from error


def _members(data: bytes) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for count, member in enumerate(read_headers(io.BytesIO(data))):
        if count == _MAX_MEMBERS:
            raise WeightsError(f"it has more than {_MAX_MEMBERS} members; is it an inference archive?")
        name = PurePosixPath(member.name).name
        if name not in (*PROGRAM_FILES, PARAMS_FILE):
            continue
        if name in seen:
            raise WeightsError(f"it contains {name} twice, so it is unclear which one counts.")
        seen.add(name)
        if not member.isreg() or member.issparse():
            raise WeightsError(f"{name} in it is a link or special file, which is not read.")
        limit = MAX_WEIGHTS_BYTES if name == PARAMS_FILE else MAX_PROGRAM_BYTES
        if member.size > limit:
            raise WeightsError(f"{name} in it has {member.size} bytes; at most {limit} are read.")
        content = data[member.offset_data : member.offset_data + member.size]
        if len(content) != member.size:
            raise WeightsError(f"{name} in it is truncated; get the archive again.")
        yield name, content


class ProgramRoute:
    """Pixel values -> the logits of the archive's own program, run by Paddle Inference without oneDNN.

    If the program ends in a softmax or a sigmoid, the whole program runs as well, on every image, and its probabilities
    must be that of the logits: this shows that the truncated program is the archive's.
    """

    def __init__(self, archive: Archive) -> None:
        """Load the program.

        Raises:
            WeightsError: Paddle cannot load it.
        """
        self._path = archive.path
        self._cut = _paddle_route(archive, archive.program.cut)
        self.activation = archive.program.activation
        self._whole = _paddle_route(archive, archive.program.whole) if self.activation is not None else None
        self.activation_difference = 0.0
        """Largest difference between its probabilities and the softmax or sigmoid of its logits so far."""

    def __call__(self, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run it.

        Raises:
            ParityError: the program's probabilities are not the softmax or sigmoid of its logits.
        """
        logits = self._cut(pixel_values)
        if self._whole is not None:
            exact: Any = logits.astype(np.float64)
            expected = sigmoid(exact) if self.activation == "sigmoid" else softmax(exact)
            difference = float(np.abs(expected - self._whole(pixel_values)).max())
            if not difference <= ACTIVATION_TOLERANCE:
                raise ParityError(
                    f"{self._path}: its probabilities differ by {difference:.1e} from the {self.activation} of the "
                    "tensor before it, so the logits to compare with are not known. Nothing was written."
                )
            self.activation_difference = max(self.activation_difference, difference)
        return logits


def _paddle_route(archive: Archive, program: bytes) -> Route:
    from paddle import inference

    with tempfile.TemporaryDirectory(prefix="ghostzoo-export-") as folder:
        program_file, params_file = Path(folder, f"inference{archive.program.suffix}"), Path(folder, PARAMS_FILE)
        program_file.write_bytes(program)
        params_file.write_bytes(archive.params)
        config = inference.Config(str(program_file), str(params_file))
        config.disable_gpu()
        config.enable_new_executor()
        config.enable_new_ir(True)
        config.disable_mkldnn()  # the plain kernels, whose answer is the network's own forward pass
        config.disable_glog_info()
        try:
            predictor = inference.create_predictor(config)
        except Exception as error:  # Paddle's errors are of many kinds
            raise WeightsError(f"{archive.path}: Paddle cannot load its program ({error}); get it again.") from error
    image, output = predictor.get_input_names()[0], predictor.get_output_names()[0]

    def run(pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
        predictor.get_input_handle(image).copy_from_cpu(pixel_values)
        try:
            predictor.run()
        except Exception as error:
            raise WeightsError(
                f"{archive.path}: Paddle cannot run its program on images of {pixel_values.shape[2:]} pixels ({error})."
            ) from error
        result: NDArray[np.float32] = predictor.get_output_handle(output).copy_to_cpu()
        return result

    return run


def archive_to_onnx(archive: Archive) -> bytes:
    """Convert the archive's program, without its softmax or sigmoid, with paddle2onnx."""
    return program_to_onnx(archive.program.cut, archive.program.suffix, archive.params)


def weights_of_archive(archive: Archive, model: bytes) -> Weights:
    """Find the weights in paddle2onnx's graph ``model`` of the archive's program, under the official keys.

    Raises:
        WeightsError: the graph is not that of a GhostNet.
    """
    try:
        arrays = _named(list(_tensors_in_order(onnx.load_from_string(model).graph)))
        architecture = infer_architecture(arrays)
        check_weights(arrays, architecture)
    except WeightsError as error:
        raise WeightsError(f"{archive.path}: its program is not a GhostNet: {error}") from error
    file_name = archive.path.name.encode("utf-8", "backslashreplace").decode()
    return Weights(arrays, architecture, file_name, archive.sha256, archive.size)


def _named(tensors: list[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Give the tensors the official keys, which have the order of the forward pass for every width."""
    keys = list(Architecture.of(1.0, 1).state_shapes())
    if len(tensors) != len(keys):
        raise WeightsError(f"it has {len(tensors)} weight tensors, a GhostNet has {len(keys)}.")
    return dict(zip(keys, tensors, strict=True))


def _tensors_in_order(graph: onnx.GraphProto) -> Iterator[NDArray[np.float32]]:
    """Yield the weights in the order of the nodes that use them; paddle2onnx does not fold batch-norms."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            values[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    operands = {"Conv": (1,), "BatchNormalization": (1, 2, 3, 4), "MatMul": (1,), "Add": (0, 1)}
    for node in graph.node:
        for position in operands.get(node.op_type, ()):
            tensor = values.get(node.input[position]) if position < len(node.input) else None
            if tensor is not None:
                yield np.ascontiguousarray(onnx.numpy_helper.to_array(tensor), dtype=np.float32)
