"""Pictures in a column of a Spark data frame; needs ``pip install "ghostzoo[spark]"`` on the driver and the executors.

>>> pictures = spark.read.format("binaryFile").option("pathGlobFilter", "*.jpg").load("s3a://bucket/pictures")
... # doctest: +SKIP
>>> pictures.select("path", ghostzoo.spark.classify_udf("GhostNet_x1_0")("content").alias("found")) # doctest: +SKIP

What is scheduled and retried is Spark's affair.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bulk.columns import BATCH_SIZE, Task
from .errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

TYPE = (
    "struct<index: int, label: string, score: float, indices: array<int>, labels: array<string>, scores: array<float>, "
    "error: string{embedding}>"
)
"""Of a row; ``index``, ``label`` and ``score`` are the best class's, and null where there is an error."""

_tasks: dict[bytes, Task] = {}


def classify_udf(
    model: str | PathLike[str] | None = None,
    *,
    embeddings: bool = False,
    batch_size: int = BATCH_SIZE,
    **options: Any,
) -> Any:
    """Return a pandas UDF over a column of bytes, paths or URLs, which gives a struct (``TYPE``) for each picture.

    Each Python worker of an executor loads the model once and uses one thread, as Spark runs a task for each core.

    Args:
        model: as for ``ghostzoo.load``; a folder has to be there on every executor.
        embeddings: add ``embedding``, an array of 1280 floats.
        batch_size: images a call of the engine.
        options: ``top_k``, ``min_score``, ``calibrated``, ``coverage``, ``unknown_below`` and ``group`` as for
            ``Classifier.predict``, and further ones of ``ghostzoo.load``.

    Raises:
        OptionError: PySpark or Java is not installed, there is no session, or an option has an impossible value.
    """
    try:
        from pyspark.sql.functions import pandas_udf
    except ModuleNotFoundError as error:
        library = (error.name or "pyspark").partition(".")[0]
        raise OptionError(f"{library} is not installed; pip install 'ghostzoo[spark]'.") from None
    task = Task.of(model, embeddings=embeddings, batch_size=batch_size, **{"threads": 1, **options})

    def classify(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        loaded = _loaded(task)
        for batch in batches:
            yield _frame(loaded, batch)

    # Spark reads the function's kind from its annotations, which 'from __future__ import annotations' left as text.
    import pandas as pd

    classify.__annotations__ = {"batches": Iterator[pd.Series], "return": Iterator[pd.DataFrame]}
    try:
        return pandas_udf(classify, TYPE.format(embedding=", embedding: array<float>" if embeddings else ""))
    except Exception as error:  # of many kinds, by the version of Spark
        raise OptionError(_reason_without_session(error)) from error


def _reason_without_session(error: Exception) -> str:
    home = os.environ.get("JAVA_HOME")
    if home and shutil.which("java", path=Path(home, "bin")) is None:
        return f"Spark needs Java, and JAVA_HOME, which is {home}, has no bin/java; set it to a JDK, 17 or later."
    if not home and shutil.which("java") is None:
        return "Spark needs Java, and there is none in PATH; install a JDK, 17 or later, or set JAVA_HOME."
    text = " ".join(str(error).split()).rstrip(".")
    return f"Spark has no session in which to make the function: {text}; call SparkSession.builder.getOrCreate() first."


def _loaded(task: Task) -> Task:
    """The model stays with the Python worker, which Spark keeps; the function it unpickles for every task."""
    return _tasks.setdefault(pickle.dumps(task), task)


def _frame(task: Task, images: pd.Series) -> pd.DataFrame:
    import pandas as pd

    from .bulk.columns import column_of

    rows = list(task.rows(images, workers=1))
    columns = column_of(rows)
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    frame["index"] = frame["index"].astype("Int32")
    frame["score"] = frame["score"].astype("Float32")
    if task.embeddings:
        frame["embedding"] = pd.Series([row.embedding for row in rows], dtype=object)
    return frame.set_index(images.index)
