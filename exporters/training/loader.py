"""Batches: of training images, drawn from their sources and augmented, and of images to measure on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from exporters.training.augmentation import Image, flip, rand_augment, random_resized_crop, sharpen
from exporters.training.data import Groups, ImageCache
from exporters.training.recipe import Recipe
from ghostzoo.errors import OptionError
from ghostzoo.evaluation.datasets import ImageDataset
from ghostzoo.images.preprocessing import Preprocessing
from ghostzoo.images.transform import preprocess

_PREFETCHED_BATCHES = 3
# Independent streams of random numbers; data.py and the trainer have others.
_ORDER_STREAM, _AUGMENT_STREAM = 1, 2

Labels = NDArray[np.int64]
"""(N,), class indices or ``UNLABELLED``."""


class TrainingLoader:
    """One process's share of the training batches, augmented ahead of time in threads.

    A batch depends on (seed, epoch, step) alone: not on the number of threads, nor on where a run was resumed.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        images: ImageCache,
        recipe: Recipe,
        *,
        workers: int,
        rank: int,
        world_size: int,
        groups: Groups = (),
    ) -> None:
        if recipe.batch_size % world_size:
            raise OptionError(
                f"batch-size {recipe.batch_size} cannot be shared by {world_size} processes; use a multiple."
            )
        if recipe.batch_size < 2 * world_size:
            raise OptionError(
                f"batch-size {recipe.batch_size} leaves a process fewer than the 2 images that batch-norm needs."
            )
        self._groups = groups or ((len(dataset.samples), 1.0),)
        shown = sum(round(count * share) for count, share in self._groups)
        self.steps = shown // recipe.batch_size
        if not self.steps:
            raise OptionError(
                f"{shown} training images are fewer than one batch of {recipe.batch_size}; pass a smaller --batch-size."
            )
        self._samples, self._images, self._recipe = dataset.samples, images, recipe
        self._order: tuple[int, NDArray[np.int64]] = -1, np.empty(0, np.int64)
        self._workers, self._rank, self._world_size = workers, rank, world_size

    def indices(self, epoch: int, step: int) -> NDArray[np.int64]:
        """Return which images (N,) this process's share of a batch holds."""
        if self._order[0] != epoch:
            self._order = epoch, self._draw(epoch)
        size = self._recipe.batch_size
        return self._order[1][step * size + self._rank : (step + 1) * size : self._world_size]

    def _draw(self, epoch: int) -> NDArray[np.int64]:
        """Return the images of an epoch in random order."""
        rng = np.random.default_rng((self._recipe.seed, _ORDER_STREAM, epoch))
        shown: list[NDArray[np.int64]] = []
        start = 0
        for count, share in self._groups:
            whole, rest = divmod(round(count * share), max(count, 1))
            shown.append(np.tile(np.arange(start, start + count), whole))
            if rest:
                shown.append(start + rng.permutation(count)[:rest])
            start += count
        return rng.permutation(np.concatenate(shown))

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
        """Yield RGB images (N, H, W, 3) and labels (N,) for each step of ``epoch`` from ``start``.

        The incomplete last batch is dropped; the order, and so what is dropped, changes with the epoch.
        """
        pending: deque[tuple[NDArray[np.int64], list[Future[Image]]]] = deque()
        with ThreadPoolExecutor(self._workers) as pool:
            for step in range(start, self.steps):
                indices = self.indices(epoch, step)
                pending.append((indices, [pool.submit(self._augmented, epoch, int(index)) for index in indices]))
                if len(pending) == _PREFETCHED_BATCHES:
                    yield self._collect(*pending.popleft())
            while pending:
                yield self._collect(*pending.popleft())

    def _collect(self, indices: NDArray[np.int64], futures: list[Future[Image]]) -> tuple[NDArray[np.uint8], Labels]:
        images = np.stack([future.result() for future in futures])
        return images, np.array([self._samples[index].label for index in indices], np.int64)

    def _augmented(self, epoch: int, index: int) -> Image:
        recipe = self._recipe
        rng = np.random.default_rng((recipe.seed, _AUGMENT_STREAM, epoch, index))
        image = random_resized_crop(
            rng,
            self._images.read(self._samples[index]),
            recipe.image_size_at(epoch),
            recipe.crop_scale,
            any_interpolation=recipe.interpolation == "random",
        )
        if recipe.sharpen:
            image = sharpen(rng, image, recipe.sharpen)
        if recipe.flip:
            image = flip(rng, image)
        if recipe.rand_augment is not None:
            image = rand_augment(rng, np.ascontiguousarray(image), *recipe.rand_augment)
        return image


def evaluation_batches(
    dataset: ImageDataset, images: ImageCache, preprocessing: Preprocessing, batch_size: int, rank: int, world_size: int
) -> Iterator[tuple[NDArray[np.float32], Labels]]:
    """Yield one process's share in order, preprocessed as for inference: pixel values (N, 3, H, W) and labels (N,)."""
    samples = dataset.samples[rank::world_size]
    for start in range(0, len(samples), batch_size):
        batch = samples[start : start + batch_size]
        pixel_values = np.stack([preprocess(images.read(sample), preprocessing) for sample in batch])
        yield pixel_values, np.array([sample.label for sample in batch], np.int64)
