"""Golden vectors come back exactly; archives that lie, explode or are damaged are one kind of error."""

from __future__ import annotations

import hashlib
import io
import pickle
import tracemalloc
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostzoo.bundle.golden import MAX_IMAGES, Golden, synthetic_images
from ghostzoo.errors import BundleError, EngineError

SIZE, CLASSES = 8, 3
PICTURES_SHA256 = "9177ea76e62aa2d7e9cbad33daf4a64afae562720fccd58006ad70880d1d4a8a"


def golden(count: int = 2) -> Golden:
    rng = np.random.default_rng(count)
    shapes = ((count, 3, SIZE, SIZE), (count, CLASSES), (count, 1280))
    return Golden(*(rng.normal(size=shape).astype(np.float32) for shape in shapes))


def read(data: bytes, num_classes: int = CLASSES, image_size: int = SIZE) -> Golden:
    return Golden.from_bytes(data, num_classes=num_classes, image_size=image_size)


def archive(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """A zip of raw members; those that are not given are honest."""
    honest = zipfile.ZipFile(io.BytesIO(golden().to_bytes()))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name in ("pixel_values", "logits", "embedding"):
            file.writestr(f"{name}.npy", members.get(name, honest.read(f"{name}.npy")))
    return buffer.getvalue()


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def header(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode("latin-1") + body


def assert_refused(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=r"golden\.npz is damaged.*download") as error:
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data) + 2**22
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


@pytest.mark.parametrize("count", [1, 2, MAX_IMAGES])
def test_what_was_written_is_read(count: int) -> None:
    written = golden(count)
    loaded = read(written.to_bytes())
    for name in ("pixel_values", "logits", "embedding"):
        assert getattr(loaded, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(loaded, name), getattr(written, name))
    assert loaded.to_bytes() == written.to_bytes() == golden(count).to_bytes()


def test_it_is_an_ordinary_npz() -> None:
    with np.load(io.BytesIO(golden().to_bytes()), allow_pickle=False) as content:
        assert content.files == ["pixel_values", "logits", "embedding"]


def test_a_check_runs_the_inputs_and_compares() -> None:
    vectors = golden()
    assert vectors.check(lambda pixels: vectors.logits if pixels is vectors.pixel_values else pixels).within(0)
    assert not vectors.check(lambda pixels: vectors.logits + 1).within(1e-4)


@pytest.mark.parametrize(("num_classes", "image_size"), [(CLASSES + 1, SIZE), (CLASSES, SIZE + 1), (CLASSES, SIZE - 1)])
def test_vectors_of_another_model_are_refused(num_classes: int, image_size: int) -> None:
    with pytest.raises(BundleError, match="is damaged"):
        read(golden().to_bytes(), num_classes, image_size)


@pytest.mark.parametrize("name", ["pixel_values", "logits", "embedding"])
def test_a_missing_array_is_refused(name: str) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value for key, value in vars(golden()).items() if key != name})
    assert_refused(buffer.getvalue())


HOSTILE_LOGITS = {
    "pickled": npy(np.array([[1, None]], object), allow_pickle=True),
    "a bare pickle": pickle.dumps(np.zeros((2, CLASSES), np.float32)),
    "double": npy(np.zeros((2, CLASSES))),
    "half": npy(np.zeros((2, CLASSES), np.float16)),
    "integer": npy(np.zeros((2, CLASSES), np.int32)),
    "big endian": npy(np.zeros((2, CLASSES), ">f4")),
    "structured": npy(np.zeros(2, [("a", "<f4", (CLASSES,))])),
    "fortran": npy(np.asfortranarray(np.ones((2, CLASSES), np.float32))),
    "other classes": npy(np.zeros((2, CLASSES + 1), np.float32)),
    "other count": npy(np.zeros((3, CLASSES), np.float32)),
    "none": npy(np.zeros((0, CLASSES), np.float32)),
    "scalar": npy(np.float32(1)),
    "vector": npy(np.zeros(CLASSES, np.float32)),
    "too many": npy(np.zeros((100_000, CLASSES), np.float32)),
    "empty": b"",
    "no magic": b"x" * 100,
    "short": npy(np.zeros((2, CLASSES), np.float32))[:-1],
    "long": npy(np.zeros((2, CLASSES), np.float32)) + b"\0",
    "version 3": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", bytes(24), b"\x03\x00"),
    "huge": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 3)}", bytes(24)),
    "negative": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3)}", bytes(24)),
    "overflow": header("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387906, 3)}", bytes(24)),
    "bool": header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}", bytes(12)),
    "object": header("{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}", bytes(48)),
    "object in a field": header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (2, 3)}", bytes(48)),
    "nested": header("(" * 3000 + ")" * 900),
    "lists": header("{'descr': " + "[" * 1500 + "]" * 1500 + ", 'fortran_order': False, 'shape': (2, 3)}"),
    "empty tuple": header("{'descr': (), 'fortran_order': False, 'shape': (2, 3)}", bytes(24)),
    "code": header("__import__('os').system('false')"),
    "unclosed": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3"),
    "unclosed text": header("{'descr': '''<f4"),
    "indented": header("  \n {'descr'\n   : 1L"),
    "NUL": header("\0"),
    "long header": header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}" + " " * 60_000, bytes(24)),
}


@pytest.mark.parametrize("kind", HOSTILE_LOGITS)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::SyntaxWarning")
def test_hostile_arrays_are_refused(kind: str) -> None:
    assert_refused(archive(logits=HOSTILE_LOGITS[kind]))


def test_vectors_of_no_image_prove_nothing_and_are_refused() -> None:
    assert_refused(golden(0).to_bytes())


def test_too_many_images_are_called_so() -> None:
    with pytest.raises(BundleError, match=f"logits is larger than {MAX_IMAGES} images need"):
        read(archive(logits=HOSTILE_LOGITS["too many"]))


def test_honest_raw_members_are_read() -> None:
    assert read(archive()).logits.shape == (2, CLASSES)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused_unexpanded(compression: int) -> None:
    assert_refused(archive(compression))
    assert_refused(archive(compression, pixel_values=npy(np.zeros((2, 3, SIZE, SIZE), np.float32)) + bytes(50 * 2**20)))


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + bytes(18), b"not a zip", b"PK\x03\x04" + bytes(100)])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    assert_refused(data)


def test_truncation_anywhere_is_refused() -> None:
    data = golden().to_bytes()
    for length in [*range(0, len(data), 97), *range(len(data) - 40, len(data))]:
        with pytest.raises(BundleError):
            read(data[:length])


@settings(max_examples=300, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_are_read_or_refused(data: st.DataObject) -> None:
    content = bytearray(golden(1).to_bytes())
    # Headers of members and the directory at the end are where the structure is.
    structure = [*range(250), *(content.find(b"PK\x03\x04", 900) + i for i in range(250)), *range(-350, 0)]
    for place in data.draw(st.lists(st.sampled_from(structure), min_size=1, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    try:
        vectors = read(bytes(content))
    except BundleError:
        return
    assert vectors.logits.shape == (1, CLASSES)


def test_synthetic_images_are_the_same_everywhere() -> None:
    pictures = synthetic_images(2, 64)
    assert (pictures.shape, pictures.dtype) == ((2, 64, 64, 3), np.uint8)
    assert hashlib.sha256(pictures.tobytes()).hexdigest() == PICTURES_SHA256
    np.testing.assert_array_equal(synthetic_images(1, 64)[0], pictures[0])


def test_synthetic_images_have_contrast_and_differ() -> None:
    for size in (1, 7, 64, 256):
        synthetic_images(3, size)
    one, two = synthetic_images(2, 256)
    for picture in (one, two):
        for channel in range(3):
            assert picture[..., channel].std() > 40
        assert not np.array_equal(picture[..., 0], picture[..., 1])
    assert np.abs(one.astype(int) - two).mean() > 30


@pytest.mark.parametrize(("precision", "accepted"), [("fp32", 1e-4), ("fp16", 3e-2), ("int8", 0.5)])
def test_an_engine_may_differ_so_much_and_no_more(precision: str, accepted: float) -> None:
    honest = golden()
    scale = float(np.abs(honest.logits).max())

    def off_by(part: float) -> Any:
        return lambda _: honest.logits + np.float32(part * scale)

    assert honest.require(off_by(0.9 * accepted), precision, "engine").relative < accepted
    with pytest.raises(EngineError, match=f"engine fails the golden check: .* at most {accepted:g} is accepted"):
        honest.require(off_by(1.1 * accepted), precision, "engine")
