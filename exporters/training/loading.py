"""From samples to batches: decoding, a bounded cache of decoded images, and augmentation ahead of the training step.

A batch depends on (seed, epoch, step) alone, whatever the number of threads and wherever a run was resumed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from exporters.training.augment import Image, flip, rand_augment, random_resized_crop
from exporters.training.recipe import Recipe
from ghostzoo.errors import ImageError, OptionError
from ghostzoo.evaluation.datasets import ImageDataset, Sample
from ghostzoo.images.decode import read_image
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess

Labels = NDArray[np.int64]
"""(N,), class indices or ``UNLABELLED``."""

_AHEAD = 3  # batches that are prepared while a step runs
# Streams of random numbers, each independent of the others.
_ORDER, _AUGMENT = 1, 2


class ImageStore:
    """Decodes samples, and keeps decoded images as long as they fit ``cache_bytes`` together."""

    def __init__(self, cache_bytes: int) -> None:
        self._free = cache_bytes
        self._cache: dict[tuple[object, int], Image] = {}

    def __call__(self, sample: Sample) -> Image:
        """Return the image as RGB.

        Raises:
            ImageError: the image cannot be read.
        """
        key = (sample.path, sample.offset)
        image = self._cache.get(key)
        if image is None:
            image = _decode(sample)
            # Two threads may both store the same image, and the count be off by one image: harmless.
            if image.nbytes <= self._free:
                self._free -= image.nbytes
                self._cache[key] = image
        return image


def _decode(sample: Sample) -> Image:
    try:
        return read_image(sample.read())
    except ImageError as error:
        raise ImageError(sample.name, error.reason) from error


def find_unreadable(
    store: ImageStore, samples: Sequence[Sample], workers: int, advance: Callable[[], None] = lambda: None
) -> list[ImageError]:
    """Decode every image once (filling the store's cache) and return what went wrong, in the samples' order."""

    def attempt(sample: Sample) -> ImageError | None:
        try:
            store(sample)
        except ImageError as error:
            return error
        finally:
            advance()
        return None

    with ThreadPoolExecutor(workers) as pool:
        return [error for error in pool.map(attempt, samples) if error is not None]


class TrainingLoader:
    """The training batches of one process."""

    def __init__(
        self, dataset: ImageDataset, store: ImageStore, recipe: Recipe, *, workers: int, rank: int, world: int
    ) -> None:
        if recipe.batch_size % world:
            raise OptionError(f"batch-size {recipe.batch_size} cannot be shared by {world} processes; use a multiple.")
        if recipe.batch_size < 2 * world:
            raise OptionError(
                f"batch-size {recipe.batch_size} leaves a process less than the 2 images of a batch-norm."
            )
        self.steps = len(dataset.samples) // recipe.batch_size
        if not self.steps:
            raise OptionError(
                f"{len(dataset.samples)} training images are fewer than one batch of {recipe.batch_size}; "
                "pass a smaller --batch-size."
            )
        self._samples = dataset.samples
        self._store, self._recipe, self._workers = store, recipe, workers
        self._rank, self._world = rank, world

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
        """Yield this process's share of each step of ``epoch``, from step ``start``: RGB (N, H, W, 3) and labels (N).

        The images that do not fill a last batch are left out; which ones these are changes with the epoch.
        """
        order = np.random.default_rng((self._recipe.seed, _ORDER, epoch)).permutation(len(self._samples))
        total = self._recipe.batch_size
        with ThreadPoolExecutor(self._workers) as pool:
            pending: deque[list[Future[Image]]] = deque()
            chosen: deque[NDArray[np.int64]] = deque()
            for step in range(start, self.steps + _AHEAD):
                if step < self.steps:
                    indices = order[step * total + self._rank : (step + 1) * total : self._world]
                    chosen.append(indices)
                    pending.append([pool.submit(self._prepare, epoch, int(index)) for index in indices])
                if step >= start + _AHEAD - 1 and pending:
                    yield self._collect(pending.popleft(), chosen.popleft())

    def _collect(self, futures: list[Future[Image]], indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], Labels]:
        images = np.stack([future.result() for future in futures])
        return images, np.array([self._samples[index].label for index in indices], np.int64)

    def _prepare(self, epoch: int, index: int) -> Image:
        recipe = self._recipe
        rng = np.random.default_rng((recipe.seed, _AUGMENT, epoch, index))
        image = self._store(self._samples[index])
        image = random_resized_crop(
            rng,
            image,
            recipe.image_size_at(epoch),
            recipe.crop_scale,
            any_interpolation=recipe.interpolation == "random",
        )
        if recipe.flip:
            image = flip(rng, image)
        if recipe.rand_augment is not None:
            image = rand_augment(rng, np.ascontiguousarray(image), *recipe.rand_augment)
        return image


def evaluation_batches(
    dataset: ImageDataset, store: ImageStore, preprocessing: Preprocessing, batch_size: int, rank: int, world: int
) -> Iterator[tuple[NDArray[np.float32], Labels]]:
    """Yield every image of this process's share once, in order, as the runtime sees it: pixel values (N, 3, H, W)."""
    samples = dataset.samples[rank::world]
    for start in range(0, len(samples), batch_size):
        chunk = samples[start : start + batch_size]
        pixel_values = np.stack([preprocess(store(sample), preprocessing) for sample in chunk])
        yield pixel_values, np.array([sample.label for sample in chunk], np.int64)
