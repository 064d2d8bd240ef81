"""OpenVINO.

``engine_options``: any property of the device or of OpenVINO's core by its own name, such as
``{"PERFORMANCE_HINT": "THROUGHPUT"}`` or ``{"CACHE_DIR": ""}``. They have the last word over what is set here.

On a CPU the compiled model is kept in ghostzoo's cache folder, which checks what it reads; OpenVINO's own cache
(``CACHE_DIR``), which does not, serves the other devices, since only it can keep what they compile.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from .._utils.cache import CHECKSUM_BYTES, prepare, writable_folder
from .._utils.hardware import cpu_features, usable_cpus
from ..errors import EngineError, EngineUnavailableError, OptionError, nearest
from .base import Engine, EngineOptions, Output
from .openvino_library import ov, shared_core
from .pool import Pool

if TYPE_CHECKING:
    from ..bundle.folder import Bundle

_CACHE = "openvino"
_DEVICE_KINDS = ("CPU", "GPU", "NPU", "AUTO")
_CORE_PROPERTIES = ("CACHE_DIR", "CACHE_MODE", "ENABLE_MMAP")  # accepted by every device, listed by none
_MAX_STREAMS = 8
"""Calls that run at the same time on a CPU; each stream has activations and a copy of the execution plan."""
_STREAM_PROPERTIES = ("NUM_STREAMS", "INFERENCE_NUM_THREADS", "PERFORMANCE_HINT", "PERFORMANCE_HINT_NUM_REQUESTS")
_PRECISION_PROPERTIES = ("INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT")


class OpenVinoEngine(Engine):
    """A compiled model of OpenVINO on ``CPU``, ``GPU``, ``GPU.1``, ``NPU`` or what ``AUTO`` chooses.

    On an NPU the network runs in float16, whatever the graph's precision: that is all an NPU has.
    """

    name = "openvino"
    default_device = "CPU"
    computes_bf16 = True
    gives_features: ClassVar[bool] = True
    opens_after_fork: ClassVar[bool] = False  # TBB, which it computes with, would wait for threads that stayed behind

    def __init__(self, model: bytes, options: EngineOptions, model_hash: str | None = None) -> None:
        """Compile ``model``; ``model_hash`` is its SHA-256 in hexadecimal, where the caller knows it already."""
        super().__init__(model, options)
        self._core: Any = shared_core()
        _check_device(self.device, self._core.available_devices)
        self.device = self.device.upper()
        self._is_cpu = self.device.split(".")[0] == "CPU"
        if options.threads is not None and not self._is_cpu:
            raise OptionError(
                f"OpenVINO has threads on a CPU only, not on {self.device}; leave threads out or use device 'CPU'."
            )
        extra = dict(options.engine_options)
        if options.threads is not None and "INFERENCE_NUM_THREADS" in extra:
            raise OptionError("threads and INFERENCE_NUM_THREADS mean the same; give one of them.")
        _check_properties(self._core, self.device, extra)
        if options.precision == "bf16":
            self._check_bf16(extra)
        self._compiled: Any = self._open(model, model_hash, self._properties(extra))
        self._image_shape = tuple(size.get_length() for size in list(self._compiled.inputs[0].partial_shape)[1:])
        self._requests: Pool[Any] | None = Pool(self._compiled.create_infer_request)
        if self._is_cpu:
            self._check_threads()

    @classmethod
    def _load(cls, bundle: Bundle, options: EngineOptions) -> Self:
        if options.precision == "bf16":
            _refuse_emulation()
        return cls(bundle.model(options.precision), options, bundle.model_hash(options.precision))

    @classmethod
    def devices(cls) -> list[str]:
        return list(shared_core().available_devices)

    def _properties(self, extra: dict[str, Any]) -> dict[str, Any]:
        """The options as OpenVINO's properties."""
        properties: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if not any(name in extra for name in _PRECISION_PROPERTIES):
            # Left alone, CPUs that have bfloat16 compute every graph in it, and all GPUs float32 graphs in 16 bits.
            if self.options.precision == "bf16":
                properties["INFERENCE_PRECISION_HINT"] = "bf16"
            elif self._is_cpu or (self.options.precision == "fp32" and self.device.split(".")[0] == "GPU"):
                properties["INFERENCE_PRECISION_HINT"] = "f32"
            elif self.options.precision == "fp32" and self.device.startswith("AUTO"):
                properties["EXECUTION_MODE_HINT"] = "ACCURACY"
        if self._is_cpu:
            properties |= self._thread_properties(extra)
        else:
            folder = writable_folder(_CACHE)
            if folder is not None:
                properties["CACHE_DIR"] = str(folder)
        return properties | extra

    def _check_bf16(self, extra: dict[str, Any]) -> None:
        if any(name in extra for name in _PRECISION_PROPERTIES):
            raise OptionError(f"precision bf16 and {' or '.join(_PRECISION_PROPERTIES)} exclude each other; give one.")
        if not self._is_cpu or "BF16" not in self._core.get_property(self.device, "OPTIMIZATION_CAPABILITIES"):
            raise EngineUnavailableError(
                f"Precision bf16 needs a CPU with AVX512-BF16 or AMX, which OpenVINO does not find as {self.device}; "
                "take precision fp32."
            )

    def _thread_properties(self, extra: dict[str, Any]) -> dict[str, Any]:
        """``threads`` is for one call; OpenVINO counts those of all streams, and runs one call a stream at a time."""
        threads = self.options.thread_count
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        if self.options.threads is not None:
            properties["ENABLE_HYPER_THREADING"] = True  # else no more threads than physical cores
        streams = min(usable_cpus() // threads, _MAX_STREAMS)
        if streams > 1 and self._may_stream and not any(name in extra for name in _STREAM_PROPERTIES):
            properties |= {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": threads * streams}
            # With fewer threads than CPUs, the CPUs are shared, so threads are not pinned.
            properties["ENABLE_CPU_PINNING"] = False
        return properties

    def _open(self, model: bytes, model_hash: str | None, properties: dict[str, Any]) -> Any:
        core, device, size = self._core, self.device, self.options.batch_size

        def compile_model() -> Any:
            graph = core.read_model(model)
            _leave_gates_small(graph)
            if size is not None:
                graph.reshape(ov.PartialShape([size, *list(graph.inputs[0].partial_shape)[1:]]))
            return core.compile_model(graph, device, properties)

        def build(_: str) -> tuple[Any, bytes]:
            compiled = compile_model()
            return compiled, compiled.export_model().getvalue()

        try:
            if not self._is_cpu or "CACHE_DIR" in properties:
                return compile_model()
            digest = model_hash or hashlib.sha256(model).hexdigest()
            return prepare(
                _CACHE,
                (
                    digest,
                    ov.__version__,
                    device,
                    "small gates",
                    size,
                    sorted((name, repr(value)) for name, value in properties.items()),
                ),
                build=build,
                restore=lambda path: core.import_model(path.read_bytes()[:-CHECKSUM_BYTES], device, properties),
                plain=compile_model,
            )
        except RuntimeError as error:
            raise EngineError(f"OpenVINO {_version()} refuses the model or an option: {_reason(error)}") from error

    @property
    def _may_stream(self) -> bool:
        """With several streams, OpenVINO (2026.4) makes nonsense of weights that the graph widens from int8."""
        return self.options.precision != "int8"

    def _check_threads(self) -> None:
        if not self._may_stream and int(self._compiled.get_property("NUM_STREAMS")) > 1:
            raise OptionError(
                "OpenVINO gives wrong results in int8 with more than one stream; take NUM_STREAMS 1, or precision fp32."
            )
        running = self._threads()
        if self.options.threads is not None and running != self.options.threads:
            raise OptionError(
                f"OpenVINO runs {running} threads per call here, not {self.options.threads}; ask for fewer threads."
            )

    def _threads(self) -> int:
        """Threads of one call."""
        total, streams = (int(self._compiled.get_property(name)) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS"))
        return total // max(1, streams)

    def _infer(self, batch: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
        requests = self._requests
        if requests is None:
            raise self._was_closed()
        self._check_image_shape(batch, self._image_shape)  # OpenVINO itself takes some smaller images
        try:
            with requests.lend() as request:
                # The output is memory of the request, which another caller will take.
                result: NDArray[np.float32] = request.infer({"pixel_values": batch}, share_outputs=True)[output].copy()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on a batch of shape {batch.shape}: {_reason(error)}") from error
        return result

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"engine": self.name, "version": _version(), "device": self.device}
        compiled = self._compiled
        if compiled is None:
            return facts
        facts["execution_devices"] = list(compiled.get_property("EXECUTION_DEVICES"))
        if self._is_cpu:
            facts["threads"] = self._threads()
            facts["streams"] = compiled.get_property("NUM_STREAMS")
            facts["computes_in"] = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        return facts

    def _release(self) -> None:
        self._compiled = self._requests = self._core = None


def _refuse_emulation() -> None:
    """OpenVINO says that it computes in bfloat16 on every CPU with AVX-512, but most have no instructions for it."""
    known = set(cpu_features())  # none where the system does not list them
    if known and not known & {"avx512_bf16", "amx_bf16", "bf16"}:
        raise EngineUnavailableError(
            "This CPU has no instructions that multiply in bfloat16, so OpenVINO is no faster in bf16; take precision "
            "fp32."
        )


def _leave_gates_small(graph: Any) -> None:
    """Multiply by gates of 1x1 pixels as they are; spread to full size first, they are faster in ONNX Runtime alone."""
    for node in graph.get_ops():
        if node.get_type_name() != "Interpolate":
            continue
        users = {target.get_node().get_type_name() for target in node.output(0).get_target_inputs()}
        pixels = list(node.input_value(0).partial_shape)[2:]
        if users == {"Multiply"} and all(side.is_static and side.get_length() == 1 for side in pixels):
            node.output(0).replace(node.input_value(0))


def _version() -> str:
    """The version without the name of the build."""
    return str(ov.__version__).partition("-")[0]


def _check_device(name: str, available: list[str]) -> None:
    """Check a name such as ``GPU.1`` or ``AUTO:GPU,CPU`` against what OpenVINO finds."""
    device = name.upper()
    kind, _, members = device.partition(":")
    if kind == "AUTO":
        for member in filter(None, members.split(",")):
            _check_device(member.removeprefix("-"), available)
        return
    bare = [item.partition(".")[0] for item in available]
    if device in available or device in bare or device.removesuffix(".0") in bare:
        return
    if not re.fullmatch(r"(CPU|GPU|NPU)(\.\d+)?", device):
        raise OptionError(f"OpenVINO has no device {name!r}. {nearest(device, _DEVICE_KINDS)}")
    raise EngineUnavailableError(
        f"OpenVINO finds no {device} on this machine (is its driver installed?); it finds {', '.join(available)}."
    )


def _check_properties(core: Any, device: str, extra: dict[str, Any]) -> None:
    """Check the names and values of properties, so that their errors are not mistaken for the model's."""
    if not extra:
        return
    kind = device.partition(":")[0]
    asked = [kind, *core.available_devices] if kind == "AUTO" else [kind]
    known = {
        str(name): None
        for item in asked
        for name, access in core.get_property(item, "SUPPORTED_PROPERTIES").items()
        if access != "RO"
    } | dict.fromkeys(_CORE_PROPERTIES)
    for name, value in extra.items():
        if name not in known:
            raise OptionError(f"OpenVINO has no property {name!r} for {device}. {nearest(str(name), known)}")
        if (refusal := _refusal(kind, name, value)) is not None:
            raise OptionError(f"OpenVINO does not take {name} = {value!r}: {refusal}")


def _refusal(kind: str, name: str, value: Any) -> str | None:
    """Why a kind of device does not take a value; asked of a core that ends here, for it would keep the value."""
    core = ov.Core()
    core.get_property(kind, "SUPPORTED_PROPERTIES")  # the plugin checks the values, and is loaded for this
    try:
        core.set_property(kind, {name: value})
    except (RuntimeError, TypeError) as error:
        return _reason(error)
    return None


def _reason(error: Exception) -> str:
    """The message without the source lines of the library and line breaks."""
    lines = (line.strip() for line in str(error).splitlines())
    return " ".join(line for line in lines if line and not line.startswith("Exception from"))
