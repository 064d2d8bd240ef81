"""The C++ library gives what the Python package gives: the same tensors to the bit, the same classes and refusals."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

import ghostzoo
from ghostzoo.bundle.edit import write_bundle
from ghostzoo.bundle.folder import Bundle
from ghostzoo.bundle.hub_configs import PREPROCESSOR_FILE, preprocessing_to_json
from ghostzoo.images.preprocessing import BICUBIC, BILINEAR
from ghostzoo.images.transform import preprocess
from tests.fixtures import graphs
from tests.fixtures.calibrated import calibrated_copy

native = pytest.importorskip("ghostzoo_native", reason="ghostzoo-native is not installed here; 'make native' builds it")

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "native/build/ghostzoo-classify"
PHOTOS = ROOT.parent / "shared/images"
CHELSEA = ROOT / "examples/chelsea.png"
BUNDLED = ROOT / "ghostzoo/models/GhostNet_x0_5_cifar10"
OK, BAD_ARGUMENT, NOT_FOUND, BAD_BUNDLE, BAD_MODEL, BAD_IMAGE, UNSUPPORTED = range(7)


class Class(ctypes.Structure):
    _fields_ = (("index", ctypes.c_int), ("score", ctypes.c_float), ("label", ctypes.c_char_p))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(native.library()))
    loaded.ghostzoo_last_error.restype = loaded.ghostzoo_formats.restype = ctypes.c_char_p
    loaded.ghostzoo_close.argtypes = [ctypes.c_void_p]
    return loaded


@pytest.fixture(scope="module", params=[BILINEAR, BICUBIC])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundled model, with either resize."""
    bundled = Bundle.open(BUNDLED)
    steps = bundled.preprocessing
    if request.param == BICUBIC:
        steps = replace(steps, interpolation=BICUBIC, rescale_factor=1 / 255)
    contents = {name: bundled.read(name) for name in bundled.manifest.files}
    return write_bundle(
        tmp_path_factory.mktemp("bundle") / request.param,
        name=bundled.name,
        contents=contents | {PREPROCESSOR_FILE: preprocessing_to_json(steps)},
        weights=bundled.manifest.weights,
        created_by={},
        validation={},
    )


@pytest.fixture(scope="module")
def opened(library: ctypes.CDLL, bundle: Bundle) -> Any:
    handle = ctypes.c_void_p()
    assert library.ghostzoo_open(str(bundle.path).encode(), None, ctypes.byref(handle)) == OK
    yield handle
    library.ghostzoo_close(handle)


@pytest.fixture
def classify() -> Callable[..., subprocess.CompletedProcess[str]]:
    if not PROGRAM.exists():
        pytest.skip(f"{PROGRAM} is not built; 'make native' builds it")
    return lambda *words: subprocess.run(
        [PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


def tensor(library: ctypes.CDLL, handle: Any, rgb: np.ndarray, size: int) -> np.ndarray:
    pixels = np.zeros((3, size, size), np.float32)
    height, width = rgb.shape[:2]
    rgb = np.ascontiguousarray(rgb)
    status = library.ghostzoo_preprocess_rgb(
        handle, ctypes.c_void_p(rgb.ctypes.data), width, height, ctypes.c_void_p(pixels.ctypes.data)
    )
    assert status == OK, library.ghostzoo_last_error()
    return pixels


@pytest.mark.parametrize(
    "shape", [(110, 110), (111, 300), (220, 220), (219, 441), (96, 97), (1, 1), (3, 500), (1080, 1920)]
)
def test_tensors_are_equal_to_the_bit(
    library: ctypes.CDLL, opened: Any, bundle: Bundle, shape: tuple[int, int]
) -> None:
    rgb = np.random.default_rng(7).integers(0, 256, (*shape, 3), dtype=np.uint8)
    config = bundle.preprocessing
    np.testing.assert_array_equal(tensor(library, opened, rgb, config.crop_size), preprocess(rgb, config))


def test_tensors_of_photographs_are_equal_to_the_bit(library: ctypes.CDLL, opened: Any, bundle: Bundle) -> None:
    photos = sorted(PHOTOS.glob("*/*.[jJ]*"))
    if not photos:
        pytest.skip(f"there are no photographs in {PHOTOS}")
    config = bundle.preprocessing
    for path in photos:
        rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(
            tensor(library, opened, rgb, config.crop_size), preprocess(rgb, config), err_msg=path.name
        )


def test_the_program_gives_the_package_answers(
    classify: Callable[..., subprocess.CompletedProcess[str]], library: ctypes.CDLL, tmp_path: Path
) -> None:
    rgb = cv2.cvtColor(cv2.imread(str(CHELSEA)), cv2.COLOR_BGR2RGB)
    ppm = tmp_path / "chelsea.ppm"
    ppm.write_bytes(b"P6\n%d %d\n255\n" % (rgb.shape[1], rgb.shape[0]) + rgb.tobytes())
    images = [ppm, *([CHELSEA] if b"PNG" in library.ghostzoo_formats() else [])]
    result = classify("--json", BUNDLED, *images)
    assert result.returncode == 0, result.stderr
    with ghostzoo.load(BUNDLED, engine="onnxruntime") as classifier:
        expected = classifier(str(CHELSEA))
    for line in result.stdout.splitlines():
        got = json.loads(line)["predictions"]
        assert [item["index"] for item in got] == [item.index for item in expected]
        assert [item["label"] for item in got] == [item.label for item in expected]
        np.testing.assert_allclose([item["score"] for item in got], [item.score for item in expected], atol=1e-5)


def test_the_program_scores_as_the_package_with_a_temperature(
    classify: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    bundle = calibrated_copy(tmp_path / "calibrated")
    _compare(classify, bundle, tmp_path)


def test_the_program_scores_each_class_of_a_multi_label_model(
    classify: Callable[..., subprocess.CompletedProcess[str]], multi_label_bundle: Bundle, tmp_path: Path
) -> None:
    assert _compare(classify, multi_label_bundle, tmp_path) > 5


def _compare(classify: Callable[..., subprocess.CompletedProcess[str]], bundle: Bundle, folder: Path) -> int:
    """Hold the program's classes of some pictures against the package's; return how many there are."""
    rng, count = np.random.default_rng(0), 0
    with ghostzoo.load(bundle.path, engine="onnxruntime", threads=1) as classifier:
        for place in range(6):
            rgb = cv2.resize(rng.integers(0, 256, (4, 5, 3), np.uint8), (90, 70))
            image = folder / f"{place}.ppm"
            image.write_bytes(b"P6 90 70 255\n" + rgb.tobytes())
            expected = classifier(rgb, 5)
            (line,) = classify("--json", bundle.path, image).stdout.splitlines()
            got = json.loads(line)["predictions"]
            assert [item["index"] for item in got] == [item.index for item in expected]
            np.testing.assert_allclose([item["score"] for item in got], [item.score for item in expected], atol=1e-5)
            count += len(got)
    return count


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format_version": 4}, "newer format"),
        ({"format_version": 1.5}, "format_version"),
        ({"calibration": 1}, "temperature"),
        ({"calibration": {"temperature": 0}}, "temperature"),
        ({"calibration": {"temperature": 1e9}}, "temperature"),
        ({"calibration": {"temperature": "1"}}, "temperature"),
        ({"multi_label": 1}, "multi_label"),
        ({"multi_label": True}, "only one of"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    library: ctypes.CDLL, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    bundle = calibrated_copy(tmp_path / "bundle")
    manifest = bundle.path / "ghostzoo.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_bytes()) | change))
    handle = ctypes.c_void_p()
    assert library.ghostzoo_open(str(bundle.path).encode(), None, ctypes.byref(handle)) == BAD_BUNDLE
    assert reason in library.ghostzoo_last_error().decode()


def test_equal_scores_come_in_the_order_of_their_index(library: ctypes.CDLL, tmp_path: Path) -> None:
    """As in Python; all logits of this network are its bias, which is the same for two and two classes."""
    bundled = Bundle.open(BUNDLED)

    def level(model: onnx.ModelProto) -> None:
        (last,) = (node for node in model.graph.node if node.name == "head.logits")
        for tensor in model.graph.initializer:
            if tensor.name in last.input[1:]:
                values = np.zeros(tuple(tensor.dims), np.float32)
                if values.ndim == 1:
                    values[:] = np.arange(len(values)) // 2 % 2
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))

    levelled = graphs.with_graph(bundled, tmp_path / "level", graphs.changed(bundled, level))
    handle = ctypes.c_void_p()
    assert library.ghostzoo_open(str(levelled.path).encode(), None, ctypes.byref(handle)) == OK
    rgb = np.zeros((96, 96, 3), np.uint8)
    for top_k in (1, 2, 3, 5, 10):
        classes, count = (Class * top_k)(), ctypes.c_size_t(top_k)
        found = library.ghostzoo_classify_rgb(
            handle, ctypes.c_void_p(rgb.ctypes.data), 96, 96, classes, ctypes.byref(count)
        )
        assert found == OK
        assert [each.index for each in classes] == [2, 3, 6, 7, 0, 1, 4, 5, 8, 9][:top_k]
    library.ghostzoo_close(handle)


def test_the_program_reports_a_bad_image_and_goes_on(
    classify: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    good = tmp_path / "good.ppm"
    good.write_bytes(b"P6 2 2 255\n" + bytes(12))
    result = classify(BUNDLED, tmp_path / "bad.jpg", tmp_path / "absent.jpg", good)
    assert result.returncode == 1
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith(str(good))
    assert "bad.jpg: The image" in result.stderr
    assert "absent.jpg: The file cannot be read." in result.stderr


@pytest.mark.parametrize("words", [[], ["bundle"], ["--top-k", "0", "a", "b"], ["--nonsense", "a", "b"]])
def test_wrong_usage_ends_with_two(classify: Callable[..., subprocess.CompletedProcess[str]], words: list[str]) -> None:
    assert classify(*words).returncode == 2


def test_a_changed_file_of_a_bundle_is_refused(library: ctypes.CDLL, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json", "onnx/model.onnx"):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(BUNDLED, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        handle = ctypes.c_void_p()
        assert library.ghostzoo_open(str(folder).encode(), None, ctypes.byref(handle)) == BAD_BUNDLE
        assert name in library.ghostzoo_last_error().decode()


def test_what_is_no_bundle_is_refused(library: ctypes.CDLL, tmp_path: Path) -> None:
    handle = ctypes.c_void_p()
    assert library.ghostzoo_open(str(tmp_path).encode(), None, ctypes.byref(handle)) == NOT_FOUND
    assert library.ghostzoo_open(None, None, ctypes.byref(handle)) == BAD_ARGUMENT
    for manifest in (b"", b"[]", b"{}", b'{"format_version": 99}', b"[" * 100_000, b'{"a": 1, "a": 2}'):
        (tmp_path / "ghostzoo.json").write_bytes(manifest)
        assert library.ghostzoo_open(str(tmp_path).encode(), None, ctypes.byref(handle)) == BAD_BUNDLE


@pytest.mark.parametrize("pixels", [b"P6 9999999999 1 255\n", b"P6 5 5 255\n123", b"P6 2 2 65535\n" + bytes(24), b"P6"])
def test_a_damaged_image_is_refused(library: ctypes.CDLL, opened: Any, pixels: bytes) -> None:
    count = ctypes.c_size_t(5)
    classes = (ctypes.c_char * 1024)()
    status = library.ghostzoo_classify(opened, pixels, ctypes.c_size_t(len(pixels)), classes, ctypes.byref(count))
    assert status == BAD_IMAGE
    assert library.ghostzoo_last_error()
