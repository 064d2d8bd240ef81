"""What the figures in the text say: each renderer reads what its benchmark wrote, and returns text or a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figures import SPEED_PICTURE, read

WIDTHS = ("x0_5", "x1_0", "x1_3")
PEERS = {
    "onnxruntime": "paddle2onnx's graph in ONNX Runtime",
    "openvino": "the same in OpenVINO",
    "paddle": "Paddle Inference with oneDNN",
    "torch": "PyTorch, eager",
    "torch-compiled": "PyTorch, compiled",
    "ncnn": "ncnn",
    "mnn": "MNN",
}

OURS = {
    "ghostzoo native": "ghostzoo, its own engine",
    "ghostzoo onnxruntime": "ghostzoo, ONNX Runtime",
    "ghostzoo openvino": "ghostzoo, OpenVINO",
}


_OUR_ORT = "ghostzoo onnxruntime"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def to_raw_graph(batch: int) -> str:
    """The ratio for each width of the network, as ``graph.py`` measured it."""
    figures = read("graph")["figures"]
    return " / ".join(f"{figures[f'GhostNet_{width}, batch {batch}']['onnxruntime']['ratio']:.2f}" for width in WIDTHS)


def network() -> str:
    figures = read("graph")["figures"]
    header = ["network alone, `.venv/bin/python benchmarks/graph.py`"]
    header += [width if batch == 1 else f"{width}, batch {batch}" for batch in (1, 8) for width in WIDTHS]
    rows = []
    for peer, title in PEERS.items():
        cells = [figures[f"GhostNet_{width}, batch {batch}"].get(peer) for batch in (1, 8) for width in WIDTHS]
        rows.append([title, *("-" if cell is None else f"{cell['ratio']:.2f}" for cell in cells)])
    return table(header, rows)


def native() -> str:
    """Our own engine to our graph in ONNX Runtime."""
    content = read("graph")
    names = {
        "ghostzoo native": "float32",
        "ghostzoo native bf16": "bf16",
        "ghostzoo native avx2": "AVX2, to ONNX Runtime's AVX-512",
    }
    rows = []
    for name, title in names.items():
        cells = [content["figures"][f"GhostNet_{width}, batch {batch}"] for batch in (1, 8) for width in WIDTHS]
        rows.append([title, *(f"{each[name]['median_ms'] / each[_OUR_ORT]['median_ms']:.2f}" for each in cells)])
    header = ["", *(width if batch == 1 else f"{width}, batch {batch}" for batch in (1, 8) for width in WIDTHS)]
    return table(header, rows) + f"\n{_taken(content)}.\n"


def network_milliseconds() -> str:
    figures = read("graph")["figures"]
    names = {"ghostzoo onnxruntime": "ghostzoo, ONNX Runtime", "ghostzoo openvino": "ghostzoo, OpenVINO"}
    names |= {"onnxruntime": "ONNX Runtime, raw graph", "openvino": "OpenVINO, raw graph"}
    rows = []
    for name, title in (PEERS | names).items():
        cells = [figures[f"GhostNet_{width}, batch 1"].get(name) for width in WIDTHS]
        rows.append([title, *("-" if cell is None else f"{cell['median_ms']:.2f}" for cell in cells)])
    return table(["", *WIDTHS], sorted(rows, key=lambda row: not row[0].startswith("ghostzoo")))


def network_range() -> str:
    figures = [row for name, row in read("graph")["figures"].items() if name.startswith("GhostNet_")]

    def extent(*peers: str) -> str:
        ratios = [row[peer]["ratio"] for row in figures for peer in peers if peer in row]
        return f"{min(ratios):.2f} to {max(ratios):.2f}"

    return (
        f"the network takes {extent('onnxruntime')} of the time of what paddle2onnx exports, and "
        f"{extent('torch', 'torch-compiled')} of PyTorch's"
    )


def end_to_end() -> str:
    figures = read("end_to_end")["figures"]
    title = "JPEG bytes to top-5, GhostNet_x1_0, `.venv/bin/python benchmarks/end_to_end.py`: the original's way in"
    names = PEERS | {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    rows = [[names[peer], f"{figures[peer]['ratio']:.2f}"] for peer in PEERS if peer in figures]
    return table([title, ""], rows)


def folder() -> str:
    found = read("folder")["figures"]
    times = " and ".join(f"{found[f'GhostNet_{width}']['times']:.1f} times ({width})" for width in ("x0_5", "x1_0"))
    return f"goes through {times} as fast"


def machine() -> str:
    content = read("graph")
    facts = content["machine"]
    instructions = ", ".join(facts["instructions"])
    return (
        f"{facts['processor']} ({instructions}), {facts['cpus']} usable CPUs, {content['peak_gflops']:.0f} GFLOP/s a "
        f"core in a product of matrices, ONNX Runtime {facts['libraries']['onnxruntime']}, {content['date']}"
    )


def quantized() -> str:
    figures = read("quantized")["figures"]
    rows = [
        [name, f"{row['size']:.3g}", *(f"{row[engine]:.4f}" for engine in ("onnxruntime", "openvino"))]
        for name, row in figures["precisions"].items()
    ]
    return table(["", "size, of float32", "top-1, ONNX Runtime", "top-1, OpenVINO"], rows)


def calibration() -> str:
    return f"{read('quantized')['figures']['calibration_images']:,}"


def standing() -> str:
    """The questions that each benchmark answers, with the aim of each."""
    return table(["question", "measured", "aim"], [list(row) for row in _standing()])


def _standing() -> Iterator[tuple[str, str, str]]:
    yield "network to raw graph, batch 1: x0_5 / x1_0 / x1_3", to_raw_graph(1), "0.75 / 0.84 / 0.74"
    yield "network to raw graph, batch 8: x0_5 / x1_0 / x1_3", to_raw_graph(8), "0.65 / 0.78 / 0.66"
    whole = read("end_to_end")["figures"]
    yield (
        "bytes to top-5, to the original's way in ONNX Runtime / Paddle / compiled PyTorch",
        " / ".join(f"{whole[peer]['ratio']:.2f}" for peer in ("onnxruntime", "paddle", "torch-compiled")),
        "0.74 / 0.45 / 0.5",
    )
    photos = read("folder")["figures"]
    yield (
        "folder of 500 JPEG files, to a plain loop: x0_5 / x1_0",
        " / ".join(f"{photos[name]['times']:.1f}" for name in ("GhostNet_x0_5", "GhostNet_x1_0")) + " times",
        "4 times",
    )
    start = read("startup")["figures"]
    yield "`import ghostzoo`, over a bare interpreter", f"{start['import_ms']:.0f} ms", "30 ms"
    yield "`ghostzoo list` to `import numpy`", f"{start['list_ratio']:.2f}", "2"
    yield (
        "load and first prediction from a file to raw ONNX Runtime with OpenCV",
        f"{start['first_prediction_ratio']:.2f}",
        "1.1",
    )
    calls = read("overhead")["figures"]
    yield (
        "a `Classifier` call to the same by hand: x0_5 / x1_0",
        " / ".join(f"{calls[name]['ratio']:.3f}" for name in ("GhostNet_x0_5", "GhostNet_x1_0")),
        "1.03",
    )
    memory = read("memory")["figures"]
    yield (
        f"resident memory before and at most later in {memory['predictions']['count']:,} predictions",
        " / ".join(f"{memory['predictions'][key]:.1f}" for key in ("before_mb", "later_mb")) + " MB",
        "flat",
    )
    yield (
        f"resident memory before and at most in a folder of {memory['folder']['count']:,} images",
        " / ".join(f"{memory['folder'][key]:.1f}" for key in ("before_mb", "later_mb")) + " MB",
        "bounded",
    )
    for name, of in (("serve-x1_0", "x1_0"), ("serve-x0_5", "x0_5"), ("serve-embedded", "the bundled model")):
        rows = read(name)["figures"]
        yield (
            f"images a second of `ghostzoo serve` to a plain FastAPI handler, {of}, 1 / 8 / 64 clients",
            " / ".join(f"{rows[clients]['ghostzoo serve']['of_plain']:.1f}" for clients in ("1", "8", "64")) + " times",
            "2 times at 64",
        )
        busy = rows["64"]
        yield (
            f"processor time of an image there, plain handler to `ghostzoo serve`, {of}, 64 clients",
            f"{busy['plain FastAPI']['cpu_ms'] / busy['ghostzoo serve']['cpu_ms']:.1f}",
            "2",
        )
        yield (
            f"99th percentile of `ghostzoo serve` and of the plain handler at 64 clients, {of}",
            " and ".join(f"{busy[server]['p99_ms']:.0f}" for server in ("ghostzoo serve", "plain FastAPI")) + " ms",
            "below",
        )
    soak = read("soak")["figures"]
    yield (
        f"{soak['requests']:,} requests, a fifth malformed: answered as they should be; memory warm and at most",
        f"all; {soak['warm_mb']:.0f} and {soak['peak_mb']:.0f} MB",
        "all; bounded",
    )


def speed(folder: str = "docs/images") -> str:
    """The picture, seen from README.md."""
    return f"\n\n![{network_range()}]({folder}/{SPEED_PICTURE.name})\n\n"


def speed_on_the_site() -> str:
    return speed("images")


def stages() -> str:
    rows = []
    figures = read("stages")["figures"]
    for title, names in (
        ("decode", ("decode",)),
        ("resize, normalise", ("resize", "normalise", "resize and normalise")),
        ("network", ("network",)),
        ("softmax, top 5", ("top 5",)),
    ):
        sums = [sum(figures[way].get(name, 0.0) for name in names) for way in ("original", "ghostzoo", "batch")]
        rows.append([title, *(f"{microseconds:.0f}" for microseconds in sums)])
    rows.append(["all", *(f"{sum(figures[way].values()):.0f}" for way in ("original", "ghostzoo", "batch"))])
    return table(["", "original's way", "ghostzoo", "ghostzoo in batches of 4"], rows)


def stages_bound() -> str:
    content, photos = read("stages"), read("folder")["figures"]["GhostNet_x1_0"]["images_per_second"]
    return (
        f"{content['machine']['cpus']} CPUs that did nothing else would classify {content['images_per_second']:.0f} "
        f"images a second, where `folder.py` measures {photos['ghostzoo']:.0f} for x1_0, and "
        f"{photos['plain loop']:.0f} for the plain loop, whose network has all CPUs"
    )


def start_up() -> str:
    processes = read("startup")["figures"]["processes_ms"]
    return table(["a new process", "ms"], [[name, f"{ms:.0f}"] for name, ms in processes.items()])


def servers() -> str:
    header = ["", "images a second", "CPU ms an image", "50th and 99th percentile, ms"]
    rows = []
    for name, of in (("serve-x1_0", "x1_0"), ("serve-x0_5", "x0_5"), ("serve-embedded", "the bundled model")):
        for server, found in read(name)["figures"]["64"].items():
            latency = f"{found['p50_ms']:.0f} and {found['p99_ms']:.0f}"
            rows.append([f"{server}, {of}", f"{found['images_per_second']:.0f}", f"{found['cpu_ms']:.2f}", latency])
    return table(header, rows)


def layers() -> str:
    content = read("layers")
    peak = content["peak"]["gflops"]
    batches = [content["figures"][f"GhostNet_x1_3, batch {batch}"] for batch in (1, 8)]
    ours = [batch["profiles"]["ghostzoo"] for batch in batches]
    totals = [sum(kind["seconds"] for kind in kinds.values()) for kinds in ours]

    def cells(seconds: float, operations: float, total: float) -> list[str]:
        speed = operations / seconds / 1e9
        shown = [f"{speed:.0f}", f"{speed / peak:.0%}"] if operations else ["", ""]
        return [f"{1000 * seconds:.2f}", f"{seconds / total:.0%}", *shown]

    rows = []
    for name in sorted(ours[0], key=lambda name: -ours[0][name]["seconds"]):
        kinds = [(kinds[name]["seconds"], kinds[name]["operations"]) for kinds in ours]
        rows.append([name, *cells(*kinds[0], totals[0]), *cells(*kinds[1], totals[1])])
    needed = [cells(total, batch["needed"], total) for total, batch in zip(totals, batches, strict=True)]
    rows.append(["all", *needed[0], *needed[1]])
    columns = ["ms", "share", "GFLOP/s", "of the peak"]
    return table(["ghostzoo", *(f"batch {batch}: {name}" for batch in (1, 8) for name in columns)], rows)


def layers_of_raw() -> str:
    content = read("layers")
    parts = []
    for batch in (1, 8):
        profiles = content["figures"][f"GhostNet_x1_3, batch {batch}"]["profiles"]
        sums = [1000 * sum(kind["seconds"] for kind in profiles[graph].values()) for graph in ("raw", "ghostzoo")]
        parts.append(f"{sums[0]:.2f} ms to {sums[1]:.2f} at batch {batch}")
    peak = content["peak"]
    return (
        f"The raw graph takes {' and '.join(parts)}; one core reaches {peak['gflops']:.0f} GFLOP/s in a product of "
        f"matrices and {peak['memory']:.0f} GB/s from memory"
    )


def batch() -> str:
    content = read("batch")
    rows = [
        [
            name,
            f"{row['images']:,}",
            f"{row['per_second']:.0f}",
            f"{row['predict_per_second']:.0f}",
            f"{row['ratio']:.2f}",
        ]
        for name, row in content["figures"].items()
    ]
    header = ["way", "pictures", "a second", "`predict(folder)` at about the same time", "ratio"]
    return table(header, rows) + f"\n{_taken(content)}, the bundled model.\n"


def batch_memory() -> str:
    content = read("memory")
    found = content["figures"]["batch"]
    return (
        f"Resident memory over {found['count']:,} pictures (`{content['command']}`, {content['date']}): "
        f"{found['early_mb']:.0f} MB after a tenth, {found['later_mb']:.0f} MB at most later, "
        f"{found['last_mb']:.0f} MB at the end"
    )


def sizing() -> str:
    content = read("sizing")
    rows = []
    for name, row in content["figures"].items():
        pairs = ((row["measured"][key], row["simulated"][key]) for key in ("images_per_second", "p50_ms", "p95_ms"))
        rows.append([name, *(" / ".join(f"{value:.0f}" for value in pair) for pair in pairs)])
    header = ["measured / simulated", "pictures a second", "median, ms", "95th percentile, ms"]
    cpus = f"the server and its clients had {content['cpus']:.2f} of them"
    return table(header, rows) + f"\n{_taken(content)}; {cpus}.\n"


def _taken(content: dict[str, Any]) -> str:
    facts = content["machine"]
    return (
        f"`{content['command']}`, {content['date']}, on {facts['processor']} ({', '.join(facts['instructions'])}), of "
        f"which one core reaches {content['peak_gflops']:.0f} GFLOP/s in float32, {facts['cpus']} CPUs"
    )


RENDERERS: dict[str, Callable[[], str]] = {
    "batch": batch,
    "batch-memory": batch_memory,
    "calibration": calibration,
    "end-to-end": end_to_end,
    "folder": folder,
    "layers": layers,
    "layers-of-raw": layers_of_raw,
    "machine": machine,
    "native": native,
    "network": network,
    "network-milliseconds": network_milliseconds,
    "network-range": network_range,
    "quantized": quantized,
    "servers": servers,
    "sizing": sizing,
    "speed": speed,
    "speed-on-the-site": speed_on_the_site,
    "stages": stages,
    "stages-bound": stages_bound,
    "start-up": start_up,
    "standing": standing,
}
