"""EfficientNet-Lite in PyTorch, to tune it to the images of a run before it becomes their teacher."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from exporters.efficientnet_lite import EPSILON, STRIDES


class _Convolution(nn.Module):
    """A convolution padded as TensorFlow's SAME, batch-norm and, unless it is a projection, ReLU6."""

    def __init__(self, weight: NDArray[np.float32], stride: int, *, bounded: bool = True) -> None:
        super().__init__()
        out, inputs, kernel, _ = weight.shape
        groups = out if inputs == 1 else 1
        self.conv = nn.Conv2d(inputs * groups, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=EPSILON, momentum=0.05)
        self._kernel, self._stride, self._bounded = kernel, stride, bounded

    def forward(self, x: Tensor) -> Tensor:
        missing = [
            max(0, (-(-side // self._stride) - 1) * self._stride + self._kernel - side)
            for side in reversed(x.shape[2:])
        ]
        if any(missing):
            x = F.pad(x, [part for each in missing for part in (each // 2, each - each // 2)])
        x = self.norm(self.conv(x))
        return F.relu6(x) if self._bounded else x


class EfficientNetLite(nn.Module):
    """Pixel values (N, 3, H, W) -> logits (N, classes); tensors keep the names of the published state dict."""

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]], num_classes: int) -> None:
        super().__init__()
        self._units: dict[str, _Convolution] = {}  # by the name of the convolution, in the file
        self._norms: dict[str, str] = {}
        self._stem = self._add("_conv_stem", "_bn0", arrays, stride=2)
        self._blocks: list[tuple[list[_Convolution], bool]] = []
        stage, channels, block = -1, 0, 0
        while f"_blocks.{block}._project_conv.weight" in arrays:
            prefix = f"_blocks.{block}."
            out = arrays[f"{prefix}_project_conv.weight"].shape[0]
            is_first = out != channels
            stage += is_first
            units = []
            if f"{prefix}_expand_conv.weight" in arrays:
                units.append(self._add(f"{prefix}_expand_conv", f"{prefix}_bn0", arrays))
            stride = STRIDES[stage] if is_first else 1
            units.append(self._add(f"{prefix}_depthwise_conv", f"{prefix}_bn1", arrays, stride=stride))
            units.append(self._add(f"{prefix}_project_conv", f"{prefix}_bn2", arrays, bounded=False))
            self._blocks.append((units, not is_first))
            channels, block = out, block + 1
        self._last = self._add("_conv_head", "_bn1", arrays)
        self.body = nn.ModuleList(self._units.values())
        self.fc = nn.Linear(arrays["_fc.weight"].shape[1], num_classes)
        nn.init.zeros_(self.fc.weight)

    def _add(
        self, name: str, norm: str, arrays: Mapping[str, NDArray[np.float32]], *, stride: int = 1, bounded: bool = True
    ) -> _Convolution:
        unit = _Convolution(arrays[f"{name}.weight"], stride, bounded=bounded)
        unit.conv.weight.data.copy_(torch.from_numpy(arrays[f"{name}.weight"]))
        for part in ("weight", "bias", "running_mean", "running_var"):
            getattr(unit.norm, part).data.copy_(torch.from_numpy(arrays[f"{norm}.{part}"]))
        self._units[name], self._norms[name] = unit, norm
        return unit

    def feature(self, pixel_values: Tensor) -> Tensor:
        """Return the pooled features (N, 1280)."""
        x = self._stem(pixel_values)
        for units, adds in self._blocks:
            y = x
            for unit in units:
                y = unit(y)
            x = x + y if adds else y
        pooled: Tensor = self._last(x).mean(dim=(2, 3))
        return pooled

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.fc(F.dropout(self.feature(pixel_values), 0.2, self.training))
        return logits

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the tensors under the names of the published state dict."""
        found = {"_fc.weight": self.fc.weight, "_fc.bias": self.fc.bias}
        for name, unit in self._units.items():
            found[f"{name}.weight"] = unit.conv.weight
            for part in ("weight", "bias", "running_mean", "running_var"):
                found[f"{self._norms[name]}.{part}"] = getattr(unit.norm, part)
        return {name: np.array(value.detach().cpu().numpy(), np.float32) for name, value in found.items()}
