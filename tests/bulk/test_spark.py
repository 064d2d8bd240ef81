"""A real Spark cluster on this machine: two executors, each a Java process with Python workers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ghostzoo
from ghostzoo.bundle.folder import Bundle
from ghostzoo.errors import OptionError
from tests.bulk.test_batch import encode
from tests.fixtures.clusters import spark_cluster

pytest.importorskip("pyspark", reason="PySpark is not installed here; 'make test-all' runs this with it")
if shutil.which("java") is None:
    pytest.skip(
        "Java, which Spark needs, is not in PATH: apt-get install openjdk-17-jre-headless", allow_module_level=True
    )
from ghostzoo.spark import classify_udf

pytestmark = pytest.mark.slow
COUNT = 120
BROKEN = {7, 100}


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    settings = {"spark.task.maxFailures": "8", "spark.sql.execution.arrow.maxRecordsPerBatch": "16"}
    with spark_cluster(**settings) as session:
        yield session


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for place in range(COUNT):
        (folder / f"{place:03}.png").write_bytes(b"no picture" if place in BROKEN else encode(place % 8))
    return folder


def check(rows: list[Any], bundle: Bundle) -> None:
    assert sorted(Path(row.path).name for row in rows) == [f"{place:03}.png" for place in range(COUNT)]
    with ghostzoo.load(bundle.path, engine="onnxruntime") as classifier:
        expected = [classifier(encode(seed))[0] for seed in range(8)]
    for row in rows:
        place, found = int(Path(row.path).stem), row.found
        if place in BROKEN:
            assert found.error
            assert (found["index"], found.label, found.indices) == (None, None, [])
        else:
            assert found.error is None
            assert (found["index"], found.label) == (expected[place % 8].index, expected[place % 8].label)
            assert found.score == pytest.approx(expected[place % 8].score, abs=1e-5)
            assert len(found.scores) == 5


def frame(spark: Any, pictures: Path) -> Any:
    reader = spark.read.format("binaryFile").option("pathGlobFilter", "*.png")
    return reader.load(str(pictures)).select("path", "content").repartition(8)


def test_a_column_gets_classes(spark: Any, pictures: Path, tiny_bundle: Bundle) -> None:
    classes = classify_udf(str(tiny_bundle.path), engine="onnxruntime")
    check(frame(spark, pictures).select("path", classes("content").alias("found")).collect(), tiny_bundle)


def test_a_killed_python_worker_loses_nothing(spark: Any, pictures: Path, tiny_bundle: Bundle) -> None:
    killed: list[int] = []

    def kill() -> None:
        for _ in range(600):
            listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout  # noqa: S607
            found = [
                line.split() for line in listing.splitlines() if "pyspark.daemon" in line and sys.executable in line
            ]
            daemons = {words[0] for words in found}
            workers = [words[0] for words in found if words[1] in daemons]
            if workers:
                os.kill(int(workers[-1]), signal.SIGKILL)
                killed.append(int(workers[-1]))
                return
            time.sleep(0.05)

    classes = classify_udf(str(tiny_bundle.path), engine="onnxruntime", top_k=5)
    threading.Thread(target=kill, daemon=True).start()
    check(frame(spark, pictures).select("path", classes("content").alias("found")).collect(), tiny_bundle)
    assert killed


def test_embeddings_are_a_column_too(spark: Any, pictures: Path, tiny_bundle: Bundle) -> None:
    classes = classify_udf(str(tiny_bundle.path), engine="onnxruntime", embeddings=True)
    rows = frame(spark, pictures).filter("path like '%00_.png'").select("path", classes("content").alias("found"))
    sizes = {Path(row.path).stem: row.found.embedding and len(row.found.embedding) for row in rows.collect()}
    assert sizes.pop("007") is None
    assert set(sizes.values()) == {1280}


def test_classes_are_ranked_as_a_call_does(spark: Any, pictures: Path) -> None:
    options: dict[str, Any] = {"group": "animal,vehicle", "calibrated": False, "top_k": 2}
    classes = classify_udf("GhostNet_x0_5_cifar10", engine="onnxruntime", **options)
    rows = frame(spark, pictures).filter("path like '%00_.png'").select("path", classes("content").alias("found"))
    found = {int(Path(row.path).stem): row.found for row in rows.collect()}
    with ghostzoo.load("GhostNet_x0_5_cifar10", engine="onnxruntime") as classifier:
        expected = {place: classifier(encode(place % 8), **options) for place in found if place not in BROKEN}
    assert {place: list(found[place].labels) for place in expected} == {
        place: [each.label for each in top] for place, top in expected.items()
    }
    assert "animal" in {each.label for top in expected.values() for each in top}


def test_options_are_checked_on_the_driver(tiny_bundle: Bundle) -> None:
    with pytest.raises(OptionError, match="top_k must be a whole number"):
        classify_udf(str(tiny_bundle.path), top_k=0)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PATH": "/nowhere", "JAVA_HOME": ""}, r"^Spark needs Java, and there is none in PATH; install a JDK"),
        ({"JAVA_HOME": "/nowhere"}, r"^Spark needs Java, and JAVA_HOME, which is /nowhere, has no bin/java; set it"),
        ({}, r"^Spark has no session in which to make the function: .*; call SparkSession.builder.getOrCreate\(\)"),
    ],
    ids=["no Java", "a wrong JAVA_HOME", "no session"],
)
def test_what_spark_lacks_is_told(variables: dict[str, str], message: str) -> None:
    code = """
import ghostzoo.spark
from ghostzoo.errors import OptionError
try:
    ghostzoo.spark.classify_udf()
except OptionError as error:
    print(error, end="")
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True)
    assert re.search(message, done.stdout), done.stdout + done.stderr
    assert "\n" not in done.stdout
