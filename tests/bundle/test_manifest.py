from __future__ import annotations

import contextlib
import json
import math
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostzoo.bundle import manifest as module
from ghostzoo.bundle.manifest import (
    FORMAT_VERSION,
    MAX_BUNDLE_BYTES,
    MAX_FILES,
    FileRecord,
    Manifest,
    check_model_name,
    parse_json_object,
)
from ghostzoo.errors import BundleError, BundleVersionError

SHA256 = "ab" * 32


def content(**changes: Any) -> dict[str, Any]:
    honest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "name": "GhostNet_x1_0",
        "weights": {"file_name": "w.pdparams", "sha256": SHA256, "size": 5},
        "files": {"onnx/model.onnx": {"sha256": SHA256, "size": 7}},
        "created_by": {"ghostzoo": "0.1.0"},
        "validation": {"paddle_comparison": "not run"},
    }
    return {key: value for key, value in (honest | changes).items() if value is not ...}


def parse(**changes: Any) -> Manifest:
    return Manifest.from_json(json.dumps(content(**changes)).encode())


def with_file(name: str, **record: Any) -> Manifest:
    return parse(files={name: {"sha256": SHA256, "size": 7} | record})


def test_what_was_written_is_read() -> None:
    written = Manifest(
        name="GhostNet_x1_0",
        weights={"file_name": "幽灵.pdparams", "sha256": SHA256, "size": 5},
        files={"b": FileRecord(SHA256, 0), "a/ü": FileRecord("0" * 64, 2**20)},
        created_by={"ghostzoo": "0.1.0"},
        validation={"max": 1e-7},
    )
    assert Manifest.from_json(written.to_json()) == written
    assert written.to_json() == written.to_json()
    swapped = Manifest(
        written.name, written.weights, dict(reversed(written.files.items())), written.created_by, written.validation
    )
    assert swapped.to_json() == written.to_json()


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 10**30])
def test_a_newer_format_is_its_own_error(version: int) -> None:
    with pytest.raises(
        BundleVersionError, match=rf"format version {version}, this ghostzoo reads up to {FORMAT_VERSION}; upgrade"
    ):
        parse(format_version=version, files="of another kind")


def test_only_a_multi_label_model_needs_format_2() -> None:
    single, several = (
        json.loads(Manifest("tiny", {}, {}, {}, {}, multi_label=value).to_json()) for value in (False, True)
    )
    assert (single["format_version"], "multi_label" in single) == (1, False)
    assert (several["format_version"], several["multi_label"]) == (2, True)
    assert parse(**several).multi_label
    assert not parse(**single).multi_label


@pytest.mark.parametrize("value", [None, 1, "true", [], {}])
def test_multi_label_is_true_or_false(value: Any) -> None:
    with pytest.raises(BundleError, match="multi_label"):
        parse(multi_label=value)


@pytest.mark.parametrize("version", [..., None, 0, -1, "1", 1.0, True, [1], {}])
def test_no_format_version_is_damage(version: Any) -> None:
    with pytest.raises(BundleError, match="no format_version") as error:
        parse(format_version=version)
    assert not isinstance(error.value, BundleVersionError)


@pytest.mark.parametrize("key", ["name", "weights", "files", "created_by", "validation"])
@pytest.mark.parametrize("value", [..., None, 5, [], True])
def test_missing_and_misshapen_parts_are_named(key: str, value: Any) -> None:
    with pytest.raises(BundleError, match=key):
        parse(**{key: value})


@pytest.mark.parametrize(
    "path",
    [
        "../x", "..", "a/../../x", "a/..", "./a", ".", "a//b", "", "/", "/etc/passwd", "//host/share", "a/", "~/../a",
        "..\\x", "a\\b", "\\\\host\\share\\x", "C:/x", "C:x", "c:\\x", "a:stream", "a\0b", "a\nb", "a\x1b[31m",
        "\ud800",        "a" * 100_000, "/".join("a" * 200),
    ],
)  # fmt: skip
def test_paths_out_of_the_folder_are_refused(path: str) -> None:
    with pytest.raises(BundleError, match="not a path inside the bundle; do not use this bundle") as error:
        with_file(path)
    assert len(str(error.value)) < 1000
    assert str(error.value).isprintable()


@pytest.mark.parametrize("path", ["a", "a/b/c.txt", "...a", "a..b/..c", "onnx/model q.onnx", "模型/ü.bin", "~"])
def test_paths_inside_are_accepted(path: str) -> None:
    assert with_file(path).files == {path: FileRecord(SHA256, 7)}


@pytest.mark.parametrize("sha256", [None, 5, "", "ab", SHA256 + "a", SHA256.upper(), SHA256 + "\n", "zz" * 32])
def test_no_sha256_is_refused(sha256: Any) -> None:
    with pytest.raises(BundleError, match=r"no SHA-256 for a\.bin"):
        with_file("a.bin", sha256=sha256)


@pytest.mark.parametrize(
    "size", [-1, 1.5, "7", True, None, MAX_BUNDLE_BYTES + 1, 10**3000], ids=lambda size: str(size)[:10]
)
def test_impossible_sizes_are_refused(size: Any) -> None:
    with pytest.raises(BundleError, match=r"a\.bin the impossible size") as error:
        with_file("a.bin", size=size)
    assert len(str(error.value)) < 1000


def test_files_together_are_limited() -> None:
    record = {"sha256": SHA256, "size": MAX_BUNDLE_BYTES // 2}
    assert len(parse(files={"a": record, "b": record}).files) == 2
    with pytest.raises(BundleError, match="at most"):
        parse(files={"a": record, "b": record, "c": {"sha256": SHA256, "size": 1}})
    tiny = {"sha256": SHA256, "size": 0}
    assert len(parse(files={str(index): tiny for index in range(MAX_FILES)}).files) == MAX_FILES
    with pytest.raises(BundleError, match=f"at most {MAX_FILES}"):
        parse(files={str(index): tiny for index in range(MAX_FILES + 1)})


@pytest.mark.parametrize("record", [None, 5, [], "x", [SHA256, 7], {}])
def test_misshapen_records_are_refused(record: Any) -> None:
    with pytest.raises(BundleError, match=r"a\.bin"):
        parse(files={"a.bin": record})


@pytest.mark.parametrize("name", ["a", "GhostNet_x1_0", "0.b-c_d", "x" * 96])
def test_names_that_can_name_a_model(name: str) -> None:
    check_model_name(name)
    assert parse(name=name).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a b", "a/b", "a\\b", "ü", "a\n", "x" * 97, "x" * 10**6, "\x1b"])
def test_names_that_cannot(name: str) -> None:
    for attempt in (check_model_name, lambda name: parse(name=name)):
        with pytest.raises(BundleError, match="cannot name a model") as error:
            attempt(name)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"5", b"null", b'"text"', b"\xff\xfe\xfd", b"{}{}", b"{'a': 1}", b'{"a": 1,}', b"\x80\x04}.",
        b'{"a": NaN}', b'{"a": [Infinity]}', b'{"a": -Infinity}', b'{"a": 1, "a": 1}', b'{"b": {"a": 1, "a": 2}}',
        b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", b'{"a": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001,
        b'{"a": ' + b"9" * 10_000 + b"}", b'{"a": "\x00"}',
    ],
    ids=lambda data: repr(data[:20]),
)  # fmt: skip
def test_what_is_no_json_object_is_named(data: bytes) -> None:
    with pytest.raises(BundleError, match=r"name\.json") as error:
        parse_json_object(data, "name.json")
    assert len(str(error.value)) < 500


def test_json_is_bounded_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'{"a": [' + b"[]," * 10**6 + b"[]]}"
    monkeypatch.setattr(module, "MAX_JSON_BYTES", len(data) - 1)
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match="bytes"):
            parse_json_object(data, "name.json")
        assert tracemalloc.get_traced_memory()[1] < 2**16
    finally:
        tracemalloc.stop()


def test_numbers_that_json_lacks_are_not_written_unnoticed() -> None:
    written = Manifest("a", {}, {}, {}, {"difference": math.nan}).to_json()
    with pytest.raises(BundleError, match="NaN"):
        Manifest.from_json(written)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(content())), JSON), st.dictionaries(st.text(max_size=8), JSON, max_size=2)
)
def test_any_json_is_a_manifest_or_refused(changes: dict[str, Any], files: dict[str, Any]) -> None:
    for attempt in (changes, {"files": files}):
        with contextlib.suppress(BundleError):
            parse(**attempt)
