"""Random views of small images, made in batches on the device that trains: what the teacher and the student see."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_ASPECT = math.log(4 / 3)
_MODES = ("bilinear", "bilinear", "bicubic", "bicubic", "nearest")
_GREY_SHARE = 0.05
_DEGRADED_SHARE = 0.5
"""How many images are sharpened or blurred; half as many get another texture, or noise."""
_TILES = 3


@dataclass(frozen=True)
class Strengths:
    """How far views differ from the images."""

    smallest: float = 0.35
    """Share of the area in the tightest crop."""
    largest: float = 1.2
    """The same in the widest, which goes beyond the image; what is there is reflected."""
    degrees: float = 12.0
    """Of rotation, for a third of the images."""
    colour: float = 0.35
    """Of brightness, contrast and saturation, and a tenth of it of hue."""
    sharpen: float = 1.5
    """Largest sharpening, as a multiple of the detail; as often, images are blurred."""
    texture: float = 0.8
    """Largest share of another mosaic's fine detail that is laid over an image."""
    noise: float = 0.08
    """Largest standard deviation of noise; pixels are from 0 to 1."""


class Views:
    """Draws views; all randomness comes from its own generator.

    Args:
        pixels: (N, 3, H, W) uint8, the images that textures are taken from.
        strengths: how far views differ.
        seed: of the generator.
    """

    def __init__(self, pixels: Tensor, strengths: Strengths, seed: int) -> None:
        self._pixels, self._strengths = pixels, strengths
        self._random = torch.Generator(pixels.device).manual_seed(seed)
        self._host = torch.Generator().manual_seed(seed)  # what decides for a whole batch, without waiting

    def draw(self, images: Tensor, *sizes: int) -> list[Tensor]:
        """Show the same crops, in the same colours, at several sizes.

        Args:
            images: (N, 3, H, W) uint8.
            sizes: sides of the square views in pixels.

        Returns:
            (N, 3, size, size) float32 for each size, from 0 to 1.
        """
        x = self._colours(images.float() / 255)
        count, _, rows, columns = x.shape
        theta = self._crops(count, rows, columns)
        mode = _MODES[self._integer(len(_MODES))]
        views = []
        for size in sizes:
            grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
            view = F.grid_sample(x, grid, mode=mode, padding_mode="reflection", align_corners=False)
            views.append(view.clamp(0, 1))
        return views

    def degrade(self, x: Tensor) -> Tensor:
        """Change what photographs and enlarged thumbnails differ in: sharpness, fine texture and noise.

        Args:
            x: (N, 3, size, size), from 0 to 1.
        """
        s = self._strengths
        detail = x - blur(x, self._between(0.5, 2.0))
        amount = self._rand(len(x)) * (1 + s.sharpen) - 1
        y = x + self._some(_DEGRADED_SHARE, amount) * detail
        tiles = self._mosaic(len(x), x.shape[-1])
        tiles = tiles - blur(tiles, self._between(0.7, 2.5))
        y = y + self._some(_DEGRADED_SHARE / 2, self._rand(len(x)) * s.texture) * tiles
        noise = torch.randn(x.shape, device=x.device, generator=self._random)
        y = y + self._some(_DEGRADED_SHARE / 2, self._rand(len(x)) * s.noise) * noise
        return y.clamp(0, 1)

    def mix(self, targets: Tensor, *views: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mix views and targets (N, classes) with those of other images: a third of the batches each by mixup, by
        cutmix, and not at all."""
        kind = self._integer(3)
        if kind == 0:
            return targets, list(views)
        others = torch.randperm(len(targets), device=targets.device, generator=self._random)
        share = self._rand(len(targets))
        if kind == 1:
            share = 1 - share / 2
            mixed = [x.lerp(x[others], 1 - _column(share, 4)) for x in views]
        else:
            side = (1 - share * 0.6 - 0.4).sqrt() / 2  # half of the pasted square's
            centre = self._rand(len(targets), 2)
            masks = [_squares(centre, side, x.shape[-1]) for x in views]
            share = 1 - masks[0].mean(dim=(1, 2, 3))
            mixed = [torch.where(mask > 0, x[others], x) for x, mask in zip(views, masks, strict=True)]
        return targets.lerp(targets[others], 1 - _column(share, 2)), mixed

    def _crops(self, count: int, rows: int, columns: int) -> Tensor:
        """Affine maps (N, 2, 3) from a view to its image, both from -1 to 1; areas are shares of the central square."""
        s = self._strengths
        area = s.smallest + self._rand(count) * (s.largest - s.smallest)
        aspect = ((2 * self._rand(count) - 1) * _ASPECT).exp()
        short = min(rows, columns)
        width, height = (area * aspect).sqrt() * (short / columns), (area / aspect).sqrt() * (short / rows)
        left, top = ((2 * self._rand(count) - 1) * (1 - side).abs() for side in (width, height))
        angle = self._some(1 / 3, (2 * self._rand(count) - 1) * math.radians(s.degrees)).flatten()
        flipped = torch.where(self._rand(count) < 0.5, -1.0, 1.0)
        cos, sin = angle.cos(), angle.sin()
        entries = [cos * width * flipped, -sin * height, left, sin * width * flipped, cos * height, top]
        return torch.stack(entries, dim=1).view(count, 2, 3)

    def _colours(self, x: Tensor) -> Tensor:
        strength, count = self._strengths.colour, len(x)
        brightness, contrast, saturation = (_column(1 + (2 * self._rand(count) - 1) * strength, 4) for _ in range(3))
        grey = _grey(x)
        saturation = torch.where(_column(self._rand(count), 4) < _GREY_SHARE, 0.0, saturation)
        x = grey + (x - grey) * saturation
        mean = grey.mean(dim=(1, 2, 3), keepdim=True)
        tint = 1 + (2 * self._rand(count, 3) - 1)[:, :, None, None] * (strength / 3)
        return ((mean + (x - mean) * contrast) * brightness * tint).clamp(0, 1)

    def _mosaic(self, count: int, size: int) -> Tensor:
        """Pictures of 3 x 3 images each, whose detail is as fine as a photograph's."""
        chosen = torch.randint(
            len(self._pixels), (count * _TILES**2,), device=self._pixels.device, generator=self._random
        )
        tiles = self._pixels[chosen].float() / 255
        _, channels, height, width = tiles.shape
        tiles = tiles.view(count, _TILES, _TILES, channels, height, width).permute(0, 3, 1, 4, 2, 5)
        tiles = tiles.reshape(count, channels, _TILES * height, _TILES * width)
        if tiles.shape[-1] != size or tiles.shape[-2] != size:
            tiles = F.interpolate(tiles, (size, size), mode="bilinear", align_corners=False)
        return tiles

    def _some(self, share: float, amount: Tensor) -> Tensor:
        """Keep an amount for some of the images, and 0 for the others; (N, 1, 1, 1)."""
        return _column(torch.where(self._rand(len(amount)) < share, amount, 0.0), 4)

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self._pixels.device, generator=self._random)

    def _integer(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self._host))

    def _between(self, low: float, high: float) -> float:
        return low + float(torch.rand((), generator=self._host)) * (high - low)


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur (N, C, H, W) by a Gaussian of ``sigma`` pixels."""
    radius = math.ceil(2.5 * sigma)
    steps = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = x.reshape(-1, 1, *x.shape[2:])
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="reflect"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="reflect"), kernel.transpose(2, 3))
    return flat.view(x.shape)


def _grey(x: Tensor) -> Tensor:
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def _squares(centre: Tensor, half: Tensor, size: int) -> Tensor:
    """Masks (N, 1, size, size) of squares, 1 inside; positions and sides are shares of the image's."""
    steps = (torch.arange(size, device=centre.device) + 0.5) / size
    rows, columns = ((steps - centre[:, axis, None]).abs() < half[:, None] for axis in (0, 1))
    return (rows[:, :, None] & columns[:, None, :]).float()[:, None]


def _column(values: Tensor, dimensions: int) -> Tensor:
    return values.view(-1, *[1] * (dimensions - 1))
