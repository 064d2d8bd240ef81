"""One candidate in a process and an environment of its own; ``turns.py`` gives it its turns.

It reads one JSON object a line from stdin and answers each with one on stdout: first what to open, then how many calls
to make. The time of each call is taken in here, so the pipes cost nothing. Nothing but the standard library, NumPy and
the peer's own library is needed, save for ghostzoo itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Network = Callable[[Any], Any]
"""(N, 3, 224, 224) float32 -> logits."""

MEAN = np.array([0.485, 0.456, 0.406], "float32")
STD = np.array([0.229, 0.224, 0.225], "float32")
ROOT = Path(__file__).parents[1]


def open_onnxruntime(folder: Path, threads: int, batch: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads:  # none: the library's default
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(folder / "raw.onnx"), options, providers=["CPUExecutionProvider"])
    name, output = session.get_inputs()[0].name, [session.get_outputs()[0].name]
    return lambda batch: session.run(output, {name: batch})[0]


def open_openvino(folder: Path, threads: int, batch: int) -> Network:
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / "raw.onnx")
    model.reshape([batch, 3, 224, 224])
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda batch: request.infer([batch], share_inputs=True)[0]


def open_paddle(folder: Path, threads: int, batch: int) -> Network:
    from paddle import inference

    config = inference.Config(str(folder / "paddle.json"), str(folder / "paddle.pdiparams"))
    config.disable_gpu()
    config.enable_new_executor()
    config.enable_new_ir(True)
    config.enable_mkldnn()
    config.set_cpu_math_library_num_threads(threads)
    config.enable_memory_optim()
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    target = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(batch: Any) -> Any:
        source.copy_from_cpu(batch)
        predictor.run()
        return target.copy_to_cpu()

    return run


def open_torch(folder: Path, threads: int, batch: int) -> Network:
    import torch

    sys.path.insert(0, str(ROOT))
    from exporters.torch_network import GhostNet, load_official
    from ghostzoo.network.architecture import Architecture

    torch.set_num_threads(threads)
    arrays = dict(np.load(folder / "arrays.npz"))
    width = {"GhostNet_x0_5": 0.5, "GhostNet_x1_0": 1.0, "GhostNet_x1_3": 1.3}[folder.name]
    network = GhostNet(Architecture.of(width, 1000))
    load_official(network, arrays)
    network.eval()
    return _torch_run(network)


def open_torch_compiled(folder: Path, threads: int, batch: int) -> Network:
    import torch

    run = open_torch(folder, threads, batch)
    return _torch_run(torch.compile(run.network))  # type: ignore[attr-defined]


def _torch_run(network: Any) -> Network:
    import torch

    @torch.inference_mode()
    def run(batch: Any) -> Any:
        return network(torch.from_numpy(batch)).numpy()

    run.network = network
    return run


def open_ncnn(folder: Path, threads: int, batch: int) -> Network:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False  # float32, as all others
    net.load_param(str(folder / "model.ncnn.param"))
    net.load_model(str(folder / "model.ncnn.bin"))

    def run(batch: Any) -> Any:
        rows = []
        for image in batch:
            with net.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(image))
                rows.append(np.array(extractor.extract("out0")[1]))
        return np.stack(rows)

    return run


def open_mnn(folder: Path, threads: int, batch: int) -> Network:
    import MNN

    interpreter = MNN.Interpreter(str(folder / "model.mnn"))
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    source = interpreter.getSessionInput(session)
    interpreter.resizeTensor(source, (batch, 3, 224, 224))
    interpreter.resizeSession(session)
    output = interpreter.getSessionOutput(session)
    shape = (batch, 1000)

    def run(batch: Any) -> Any:
        given = MNN.Tensor(batch.shape, MNN.Halide_Type_Float, batch, MNN.Tensor_DimensionType_Caffe)
        source.copyFrom(given)
        interpreter.runSession(session)
        taken = MNN.Tensor(shape, MNN.Halide_Type_Float, np.empty(shape, "float32"), MNN.Tensor_DimensionType_Caffe)
        output.copyToHostTensor(taken)
        return np.array(taken.getNumpyData(), copy=True).reshape(shape)

    return run


def open_ghostzoo(folder: Path, threads: int, batch: int, engine: str = "onnxruntime", way: str = "fp32") -> Any:
    """``way`` is a precision, or what the native engine is told to run with."""
    sys.path.insert(0, str(ROOT))
    import ghostzoo

    options: dict[str, Any] = {"engine": engine, "precision": way}
    if way == "avx2":
        options |= {"precision": "fp32", "engine_options": {"instructions": way}}
    if threads:
        options["threads"] = threads
    if batch:
        options["batch_size"] = batch
    return ghostzoo.load(folder / "bundle", **options)


def original_decode(data: bytes) -> Any:
    """PaddleClas's own way: BGR decoded, reversed as a view, resized, normalised in HWC, transposed."""
    import cv2

    return cv2.imdecode(np.frombuffer(data, "uint8"), cv2.IMREAD_COLOR)[:, :, ::-1]


def original_resize(image: Any) -> Any:
    import cv2

    height, width = image.shape[:2]
    scale = 256 / min(height, width)
    image = cv2.resize(image, (round(width * scale), round(height * scale)))
    top, left = (image.shape[0] - 224) // 2, (image.shape[1] - 224) // 2
    return image[top : top + 224, left : left + 224]


def original_normalise(image: Any) -> Any:
    image = (image.astype("float32") * np.float32(0.00392157) - MEAN) / STD
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None])


def original_preprocess(data: bytes) -> Any:
    return original_normalise(original_resize(original_decode(data)))


def top5(logits: Any) -> list[tuple[int, float]]:
    exponentials = np.exp(logits - logits.max())
    scores = exponentials / exponentials.sum()
    return [(int(index), float(scores[index])) for index in scores.argsort()[::-1][:5]]


def plain_folder(network: Network, images: list[Path]) -> None:
    """What people write first: Pillow, NumPy, one image after the other."""
    from PIL import Image

    for path in images:
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), "float32") / 255
        top5(network(((pixels - MEAN) / STD).transpose(2, 0, 1)[None].astype("float32"))[0])


def make_call(order: dict[str, Any]) -> Callable[[], Any]:
    kind, work = order["kind"], order["work"]
    folder, threads, batch = Path(order["folder"]), order["threads"], order["batch"]
    if kind.startswith("ghostzoo"):
        classifier = open_ghostzoo(folder, threads, batch, *kind.split("-")[1:])
        if work == "network":
            pixels = np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype("float32")
            return lambda: classifier.engine.run(pixels)
        if work == "jpeg":
            data = Path(order["image"]).read_bytes()
            return lambda: [(each.index, each.score) for each in classifier(data)]
        return lambda: sum(1 for _ in classifier.predict(order["images"]))
    network = globals()[f"open_{kind.replace('-', '_')}"](folder, threads, batch)
    if work == "network":
        pixels = np.random.default_rng(0).normal(size=(batch, 3, 224, 224)).astype("float32")
        return lambda: network(pixels)
    if work == "jpeg":
        data = Path(order["image"]).read_bytes()
        return lambda: top5(network(original_preprocess(data))[0])
    images = sorted(Path(order["images"]).iterdir())
    return lambda: plain_folder(network, images)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer

    def answer(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    call, clock = None, time.perf_counter
    for line in sys.stdin:
        order = json.loads(line)
        try:
            if call is None:
                call = make_call(order)
                if order.get("processor_time"):
                    clock = time.process_time
                result = call()
                answer({"result": np.asarray(result).tolist() if result is not None else None})
                continue
            durations = []
            for _ in range(order["calls"]):
                start = clock()
                call()
                durations.append(clock() - start)
            answer({"durations": durations})
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
