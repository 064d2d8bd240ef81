"""A real cluster of two Ray nodes on this machine; a worker and a node that are killed lose and repeat no row."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import GhostZooError, InputError
from tests.bulk.test_batch import encode, read_rows
from tests.fixtures.clusters import RayCluster, free_port, ray_cluster

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed here; the extra batch has it")
ray = pytest.importorskip("ray", reason="Ray is not installed here; 'make test-all' runs this with it")
pytest.importorskip("ray.data", reason="Ray Data is not installed here; 'make test-all' runs this with it")
from ghostzoo.ray import ClassifyImages, app, classify  # noqa: E402

pytestmark = pytest.mark.slow
COUNT = 240
BROKEN = {7, 100}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster([2, 2]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for place in range(COUNT):
        (folder / f"{place:03}.png").write_bytes(b"no picture" if place in BROKEN else encode(place % 8))
    return folder


def check(rows: list[dict[str, Any]], bundle: Bundle, pictures: Path) -> None:
    assert sorted(Path(row["path"]).name for row in rows) == [f"{place:03}.png" for place in range(COUNT)]
    with ghostzoo.load(bundle.path, engine="onnxruntime") as classifier:
        expected = [classifier(encode(seed))[0] for seed in range(8)]
    for row in rows:
        place = int(Path(row["path"]).stem)
        if place in BROKEN:
            assert row["error"]
            assert (row["index"], len(row["scores"])) == (-1, 0)
        else:
            assert row["error"] is None
            assert row["index"] == expected[place % 8].index
            assert row["score"] == pytest.approx(expected[place % 8].score, abs=1e-5)


def dataset(pictures: Path) -> Any:
    return ray.data.read_binary_files(str(pictures), include_paths=True).repartition(24)


def test_a_dataset_gets_classes_on_two_nodes(cluster: RayCluster, pictures: Path, tiny_bundle: Bundle) -> None:
    found = classify(dataset(pictures), tiny_bundle.path, engine="onnxruntime", actors=2, rows_per_batch=16)
    check(found.take_all(), tiny_bundle, pictures)


def test_a_killed_worker_loses_nothing(cluster: RayCluster, pictures: Path, tiny_bundle: Bundle) -> None:
    killed = False
    rows: list[dict[str, Any]] = []
    found = classify(dataset(pictures), tiny_bundle.path, engine="onnxruntime", actors=2, rows_per_batch=8)
    for row in found.iter_rows():
        rows.append(row)
        killed = killed or (len(rows) >= 20 and cluster.kill_worker())
    assert killed
    check(rows, tiny_bundle, pictures)


def test_arrays_paths_and_embeddings(tiny_bundle: Bundle, pictures: Path, cluster: RayCluster) -> None:
    function = ClassifyImages(tiny_bundle.path, column="path", embeddings=True, engine="onnxruntime", keep_column=True)
    found = function({"path": np.array([str(pictures / "000.png"), str(pictures / "007.png")], object)})
    with ghostzoo.load(tiny_bundle.path, engine="onnxruntime") as classifier:
        np.testing.assert_allclose(found["embedding"][0], classifier.embed([pictures / "000.png"])[0], atol=1e-5)
    assert found["embedding"][1] == []
    assert found["path"][1].endswith("007.png")
    with pytest.raises(GhostZooError, match="has no column 'path', but image"):
        function({"image": np.zeros((1, 2, 2, 3), np.uint8)})


def test_the_batch_command_runs_on_the_cluster(
    cluster: RayCluster, pictures: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    options: dict[str, Any] = {"model": tiny_bundle.path, "engine": "onnxruntime", "top_k": 3, "embeddings": True}
    ghostzoo.batch([pictures / "000.png", pictures / "001.png"], there, **options)
    done = ghostzoo.batch(pictures, there, ray=cluster.address, resume=True, **options)
    assert (done.pictures, done.unreadable, done.done_before) == (COUNT, len(BROKEN), 2)
    ghostzoo.batch(pictures, here, **options)
    for found, expected in zip(
        *(sorted(read_rows(place), key=lambda row: row["path"]) for place in (there, here)), strict=True
    ):
        assert (found["path"], found["indices"]) == (expected["path"], expected["indices"])
        assert (found["embedding"] is None) == (expected["embedding"] is None)
    with pytest.raises(InputError, match="is inside another file"):
        ghostzoo.batch(pa.table({"bytes": [encode(0)]}), tmp_path / "x.parquet", ray=cluster.address, **options)


def test_the_cluster_ranks_classes_as_this_process_does(
    cluster: RayCluster, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several datasets, one after the other, where there are very many names."""
    monkeypatch.setattr("ghostzoo.bulk.run.NAMES_AT_ONCE", 100)
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    options: dict[str, Any] = {"model": "GhostNet_x0_5_cifar10", "engine": "onnxruntime"}
    options |= {"group": "animal,vehicle", "calibrated": False, "top_k": 2}
    ghostzoo.batch(pictures, here, **options)
    done = ghostzoo.batch(pictures, there, ray=cluster.address, **options)
    assert (done.pictures, done.unreadable) == (COUNT, len(BROKEN))
    for found, expected in zip(
        *(sorted(read_rows(place), key=lambda row: row["path"]) for place in (there, here)), strict=True
    ):
        assert (found["path"], found["labels"]) == (expected["path"], expected["labels"])
        assert found["scores"] == pytest.approx(expected["scores"], abs=1e-5)
    assert "animal" in {label for row in read_rows(there) for label in row["labels"]}


def test_ray_serve_answers(cluster: RayCluster, tiny_bundle: Bundle) -> None:
    from ray import serve

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app(tiny_bundle.path, top_k=3, max_body_mb=1, ray_actor_options={"num_cpus": 1}), route_prefix="/")
    try:
        answers = {}
        for name, data in {"good": encode(0), "bad": b"no picture", "large": bytes(2**20 + 1)}.items():
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", data, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                    answers[name] = answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                answers[name] = error.code, error.read().decode()
    finally:
        serve.shutdown()
    assert answers["good"][0] == 200
    assert '"labels":["class-' in answers["good"][1]
    assert answers["bad"][0] == 422
    assert answers["large"] == (413, '{"error":"The picture has more than 1 MB."}')


def test_a_killed_node_loses_nothing(cluster: RayCluster, pictures: Path, tiny_bundle: Bundle) -> None:
    rows: list[dict[str, Any]] = []
    found = classify(dataset(pictures), tiny_bundle.path, engine="onnxruntime", actors=2, rows_per_batch=8)
    for row in found.iter_rows():
        rows.append(row)
        if len(rows) == 20:
            cluster.kill_node()
    check(rows, tiny_bundle, pictures)
