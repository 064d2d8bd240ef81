"""Official inference archives: ``X_infer.tar`` with a Paddle program and its weights.

The program is run as it is by Paddle Inference and is the oracle. The weights are taken from paddle2onnx's graph of the
program, whose convolutions, batch-norms and matrix products come in the order of the forward pass.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from numpy.typing import NDArray

from ghostzoo.architecture import Architecture
from ghostzoo.errors import WeightsError
from ghostzoo.params import MAX_WEIGHTS_BYTES, Weights, check_weights, infer_architecture

from .paddle_route import program_to_onnx, scratch_folder

PROGRAM_FILES = ("inference.pdmodel", "inference.json")
"""The program as Paddle 2 and as Paddle 3 writes it."""
PARAMS_FILE = "inference.pdiparams"
_BATCH_NORM = ("weight", "bias", "_mean", "_variance")
_MAX_MEMBERS = 64


@dataclass(frozen=True)
class Archive:
    """The two files of an archive, as data."""

    path: Path
    program_name: str
    program: bytes
    params: bytes
    sha256: str
    """Of the archive as a whole."""
    size: int

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write program and weights into ``folder`` under their own fixed names; return both paths."""
        program, params = folder / self.program_name, folder / PARAMS_FILE
        program.write_bytes(self.program)
        params.write_bytes(self.params)
        return program, params


def read_archive(path: Path) -> Archive:
    """Read program and weights from an uncompressed tar. Its paths are not used, and nothing is extracted.

    Raises:
        WeightsError: it is no such archive, or holds something that an inference archive does not.
    """
    try:
        size = path.stat().st_size
        if size > 2 * MAX_WEIGHTS_BYTES:
            raise WeightsError(f"{path} has {size} bytes, more than an inference archive of GhostNet can have.")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with tarfile.open(path, "r:") as archive:
            found = dict(_members(archive))
    except (OSError, tarfile.TarError) as error:
        raise WeightsError(f"{path} is no readable, uncompressed tar file: {error}; get it again.") from error
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    programs = [name for name in PROGRAM_FILES if name in found]
    if len(programs) != 1 or PARAMS_FILE not in found:
        raise WeightsError(
            f"{path} holds {', '.join(sorted(found)) or 'neither program nor weights'}; an inference archive has "
            f"{PARAMS_FILE} and one of {', '.join(PROGRAM_FILES)}."
        )
    return Archive(path, programs[0], found[programs[0]], found[PARAMS_FILE], digest, size)


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    seen = set()
    for count, member in enumerate(archive):
        if count == _MAX_MEMBERS:
            raise WeightsError(f"it has more than {_MAX_MEMBERS} members; is it an inference archive?")
        name = PurePosixPath(member.name).name
        if name not in (*PROGRAM_FILES, PARAMS_FILE):
            continue
        if name in seen:
            raise WeightsError(f"it has {name} twice; which one counts cannot be known.")
        seen.add(name)
        file = archive.extractfile(member) if member.isreg() and not member.issparse() else None
        if file is None:
            raise WeightsError(f"{name} in it is a link or special file, which is not read.")
        if member.size > MAX_WEIGHTS_BYTES:
            raise WeightsError(
                f"{name} in it has {member.size} bytes, more than the {MAX_WEIGHTS_BYTES} that are read."
            )
        data = file.read(member.size)
        if len(data) != member.size:
            raise WeightsError(f"{name} in it is truncated; get the archive again.")
        yield name, data


def run_archive(archive: Archive, pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run the archive's own program with Paddle Inference; return its first output (N, classes)."""
    from paddle import inference

    with scratch_folder() as folder:
        program, params = archive.write(folder)
        config = inference.Config(str(program), str(params))
        config.disable_gpu()
        config.enable_new_executor()
        config.enable_new_ir(True)
        config.disable_mkldnn()  # the plain kernels: what training computed
        config.disable_glog_info()
        predictor = inference.create_predictor(config)
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(pixel_values)
        predictor.run()
        output: NDArray[np.float32] = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        return output


def archive_to_onnx(archive: Archive) -> bytes:
    """Convert the archive's program with paddle2onnx."""
    with scratch_folder() as folder:
        return program_to_onnx(*archive.write(folder))


def ends_in_softmax(model: bytes) -> bool:
    """Whether the graph's first output is a softmax, as in the official archives."""
    graph = onnx.load_from_string(model).graph
    producers = {output: node for node in graph.node for output in node.output}
    node = producers.get(graph.output[0].name)
    while node is not None and node.op_type in ("Identity", "Mul", "Add"):  # Paddle appends a scaling by 1 plus 0
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def weights_of_archive(archive: Archive, model: bytes) -> Weights:
    """Find the weights in paddle2onnx's graph ``model`` of the archive's program, under the official keys.

    Raises:
        WeightsError: the graph is not that of a GhostNet.
    """
    tensors = list(_tensors_in_order(onnx.load_from_string(model).graph))
    try:
        arrays = _named(tensors)
        architecture = infer_architecture(arrays)
        check_weights(arrays, architecture)
    except WeightsError as error:
        raise WeightsError(f"{archive.path}: its program is no GhostNet; {error}") from error
    return Weights(arrays, architecture, archive.path.name, archive.sha256, archive.size)


def _named(tensors: list[tuple[str, NDArray[np.float32]]]) -> dict[str, NDArray[np.float32]]:
    """Give the tensors the official keys, which have the order of the forward pass for every width."""
    keys = list(Architecture.of(1.0, 1).state_shapes())
    if len(tensors) != len(keys):
        raise WeightsError(f"it has {len(tensors)} weight tensors, a GhostNet has {len(keys)}.")
    return {key: array for key, (_, array) in zip(keys, tensors, strict=True)}


def _tensors_in_order(graph: onnx.GraphProto) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the weights in the order of the nodes that use them."""
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Identity" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]]
    operands = {"Conv": (1,), "BatchNormalization": (1, 2, 3, 4), "MatMul": (1,), "Add": (0, 1)}
    for node in graph.node:
        for position in operands.get(node.op_type, ()):
            tensor = values.get(node.input[position])
            if tensor is not None and tensor.dims:  # a scalar is no weight
                yield node.input[position], onnx.numpy_helper.to_array(tensor).astype(np.float32)
