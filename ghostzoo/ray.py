"""Pictures of a Ray dataset, and a deployment for Ray Serve; needs ``pip install "ghostzoo[ray]"``.

>>> dataset = ray.data.read_binary_files("s3://bucket/pictures", include_paths=True)  # doctest: +SKIP
>>> ghostzoo.ray.classify(dataset, "GhostNet_x1_0").write_parquet("results")  # doctest: +SKIP

What is scheduled, retried and scaled is Ray's affair.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bulk.columns import BATCH_SIZE, Row, Task, column_of
from .bulk.sources import place_item, read_ahead
from .errors import InputError, OptionError
from .predictions import Prediction

_ROWS_OF_BLOCK = 1000
"""At least, where there are many: Ray keeps books on each block."""
_READERS = 8
"""Pictures that an actor fetches at the same time."""


class ClassifyImages:
    """A callable class for ``ray.data.Dataset.map_batches(..., batch_format="numpy")``.

    An actor holds one classifier, with one thread for each CPU that Ray gave it. The columns ``index``, ``label``,
    ``score``, ``indices``, ``labels``, ``scores`` and ``error`` are added, and ``embedding`` with
    ``embeddings=True``. A picture that cannot be read has index -1, score NaN, empty lists and its error.
    """

    def __init__(
        self,
        model: str | PathLike[str] | None = None,
        *,
        column: str = "bytes",
        keep_column: bool = False,
        embeddings: bool = False,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> None:
        """Load the model; one that cannot be loaded fails here, before the first picture.

        Args:
            model: as for ``ghostzoo.load``.
            column: the column with the pictures: bytes, paths or URLs, or uint8 arrays (H, W, 3).
            keep_column: whether the results have it too.
            embeddings: add a list of 1280 floats for each picture.
            batch_size: images a call of the engine.
            options: ``top_k``, ``min_score``, ``calibrated``, ``coverage``, ``unknown_below`` and ``group`` as for
                ``Classifier.predict``, and further ones of ``ghostzoo.load``; ``threads`` is by default what Ray gave
                this actor.
        """
        options.setdefault("threads", _cpus_of_this_actor())
        self.column, self.keep_column = column, keep_column
        self.task = Task.of(model, embeddings=embeddings, batch_size=batch_size, **options)
        self.task.classifier.warmup()

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Return the columns of one batch, a numpy array each."""
        if self.column not in batch:
            raise InputError(f"The dataset has no column {self.column!r}, but {', '.join(batch)}; name one of them.")
        rows = list(self.task.rows(batch[self.column], workers=1))
        columns = column_of(rows)
        found: dict[str, Any] = {
            name: values for name, values in batch.items() if name != self.column or self.keep_column
        }
        found["index"] = np.array([-1 if value is None else value for value in columns["index"]], np.int32)
        found["score"] = np.array([np.nan if value is None else value for value in columns["score"]], np.float32)
        for name in ("label", "indices", "labels", "scores", "error"):
            found[name] = _objects(columns[name])
        if self.task.embeddings:
            # Lists in every block: Ray cannot join a block of tensors with one where some are missing.
            found["embedding"] = _objects([[] if row.embedding is None else row.embedding.tolist() for row in rows])
        return found


def classify(
    dataset: Any,
    model: str | PathLike[str] | None = None,
    *,
    actors: int | tuple[int, int] = (1, 4),
    rows_per_batch: int = 64,
    num_cpus: float = 1,
    num_gpus: float = 0,
    **options: Any,
) -> Any:
    """Return the dataset with the classes of its pictures; lazy, as Ray's datasets are.

    Args:
        dataset: a ``ray.data.Dataset``.
        model: as for ``ghostzoo.load``.
        options: further ones of ``ClassifyImages``.
        actors: how many, or from how many to how many. Leave CPUs free for the tasks that read: actors on all of them
            stop the dataset for good.
        rows_per_batch: rows that an actor takes at once.
        num_cpus: CPUs of each actor.
        num_gpus: GPUs of each actor.

    Raises:
        OptionError: Ray is not installed.
    """
    try:
        from ray.data import ActorPoolStrategy
    except ModuleNotFoundError:
        raise OptionError("Ray is not installed; pip install 'ghostzoo[ray]'.") from None
    low, high = (actors, actors) if isinstance(actors, int) else actors
    return dataset.map_batches(
        ClassifyImages,
        fn_constructor_kwargs={"model": model, **options},
        batch_size=rows_per_batch,
        batch_format="numpy",
        compute=ActorPoolStrategy(min_size=low, max_size=high),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        udf_modifying_row_count=False,
    )


def run(task: Task, places: list[str], max_bytes: int, address: str) -> Iterator[tuple[str, Row]]:
    """Classify the pictures of paths and URLs on the cluster at ``address``; yield each name and row, in any order.

    Raises:
        OptionError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ModuleNotFoundError:
        raise OptionError("Ray is not installed; pip install 'ghostzoo[ray]'.") from None
    try:
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split()).rstrip(".")
        raise OptionError(f"No Ray cluster answers at {address!r}: {reason}; check the address.") from error
    ray.data.DataContext.get_current().enable_progress_bars = False  # the command has its own
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    blocks = min(len(places), max(8 * cpus, len(places) // _ROWS_OF_BLOCK))
    choice = {"top_k": task.top_k, "min_score": task.min_score, **dict(task.ranking)}
    of_task = {"model": task.model, "embeddings": task.embeddings, "batch_size": task.batch_size}
    found = ray.data.from_items([{"path": place} for place in places], override_num_blocks=blocks).map_batches(
        _ClassifyPlaces,
        fn_constructor_args=(max_bytes,),
        fn_constructor_kwargs={**of_task, **choice, **dict(task.load)},
        batch_size=64,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=cpus),  # nothing else has to run: the names are there
        num_cpus=1,
    )
    for values in found.iter_rows():
        predictions = [
            Prediction(*each) for each in zip(values["indices"], values["labels"], values["scores"], strict=True)
        ]
        embedding = np.asarray(values.get("embedding", ()), np.float32)
        yield values["path"], Row(predictions, embedding if len(embedding) else None, values["error"])


class _ClassifyPlaces(ClassifyImages):
    """The same for a column of paths and of URLs of any storage, which each actor fetches by itself."""

    def __init__(self, max_bytes: int, **options: Any) -> None:
        super().__init__(column="image", **options)
        self.max_bytes = max_bytes

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        items = read_ahead((place_item(place, self.max_bytes) for place in batch["path"]), _READERS)
        return super().__call__({"path": batch["path"], "image": _objects([item.image for item in items])})


def app(
    model: str | PathLike[str] | None = None,
    *,
    top_k: int = 5,
    max_batch: int = 8,
    batch_wait_seconds: float = 0.005,
    max_body_mb: int = 32,
    **options: Any,
) -> Any:
    """Return an application for ``ray.serve.run``: ``POST`` an encoded picture, get its classes as JSON.

    Batches are made, and replicas added and removed, by Ray Serve.

    Args:
        model: as for ``ghostzoo.load``.
        top_k: classes of a picture.
        max_batch: pictures that a replica takes in one call.
        batch_wait_seconds: how long the first of them waits for others.
        max_body_mb: the largest picture, in units of 2**20 bytes.
        options: of the deployment, such as ``autoscaling_config`` and ``ray_actor_options``.

    Raises:
        OptionError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ModuleNotFoundError:
        raise OptionError("Ray Serve is not installed; pip install 'ghostzoo[ray]'.") from None
    from starlette.requests import Request
    from starlette.responses import JSONResponse

    class Classify:
        """One replica."""

        def __init__(self) -> None:
            self.task = Task(model, top_k, batch_size=max_batch, load=(("threads", _cpus_of_this_actor()),))
            self.task.classifier.warmup()

        @serve.batch(max_batch_size=max_batch, batch_wait_timeout_s=batch_wait_seconds)  # type: ignore[untyped-decorator]
        async def rows(self, images: list[bytes]) -> list[dict[str, Any]]:
            return [row.to_dict() for row in self.task.rows(images, workers=1)]

        async def __call__(self, request: Request) -> JSONResponse:
            image = bytearray()
            async for part in request.stream():
                image += part
                if len(image) > max_body_mb * 2**20:
                    return JSONResponse({"error": f"The picture has more than {max_body_mb} MB."}, 413)
            row = await self.rows(bytes(image))
            return JSONResponse(row | self.task.facts, 422 if row["error"] else 200)

    settings = {"autoscaling_config": {"min_replicas": 1, "max_replicas": 4}} | options
    return serve.deployment(Classify, name="ghostzoo", **settings).bind()


def _cpus_of_this_actor() -> int:
    from ray import get_runtime_context, is_initialized

    if not is_initialized() or get_runtime_context().get_actor_id() is None:
        return 1  # in a driver, which has no share of the CPUs
    return max(1, int(get_runtime_context().get_assigned_resources().get("CPU", 1)))


def _objects(values: list[Any]) -> NDArray[np.object_]:
    """An array of any values, lists among them, which numpy would make further axes of."""
    array = np.empty(len(values), object)
    array[:] = values
    return array


__all__ = ["ClassifyImages", "app", "classify"]
