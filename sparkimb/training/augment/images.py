"""Augmentation of images: features [b, channels, height, width] in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sparkimb.errors import SparkimbError
from sparkimb.feed.loader import Batch
from sparkimb.training.augment.base import Augmentation, where_chosen


@dataclass(frozen=True, kw_only=True)
class Flip(Augmentation):
    """Mirror images.

    Parameters
    ----------
    vertical : bool, default=False
        Upside down, instead of left to right.
    probability
        See `Augmentation`; 1 mirrors every image.
    """

    vertical: bool = False

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with the chosen images mirrored."""
        x = _images(batch)
        return Batch(where_chosen(chosen, x.flip(-2 if self.vertical else -1), x), batch.labels, batch.weights)


@dataclass(frozen=True, kw_only=True)
class RandomCrop(Augmentation):
    """Enlarge images at their edges, and cut them to their size again somewhere else.

    Parameters
    ----------
    padding : int in [1, inf), default=4
        Pixels at each edge.
    mode : {"constant", "reflect", "replicate"}, default="constant"
        What stands in the edges: 0, or the image mirrored or its outermost pixels.
    probability
        See `Augmentation`.
    """

    padding: int = 4
    mode: str = "constant"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.padding < 1:
            raise SparkimbError(f"RandomCrop.padding is {self.padding}. It must be 1 or more.")
        if self.mode not in ("constant", "reflect", "replicate"):
            raise SparkimbError(f"RandomCrop.mode is {self.mode!r}. Choose one of: constant, reflect, replicate.")

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with the chosen images shifted."""
        x = _images(batch)
        b, c, height, width = x.shape
        at = torch.randint(2 * self.padding + 1, (2, b), generator=generator, device=x.device)
        top, left = torch.where(chosen, at, self.padding).unsqueeze(2)
        i = torch.arange(b, device=x.device).reshape(-1, 1, 1, 1)
        j = torch.arange(c, device=x.device).reshape(1, -1, 1, 1)
        rows = (top + torch.arange(height, device=x.device)).reshape(b, 1, height, 1)
        columns = (left + torch.arange(width, device=x.device)).reshape(b, 1, 1, width)
        return Batch(F.pad(x, [self.padding] * 4, mode=self.mode)[i, j, rows, columns], batch.labels, batch.weights)


@dataclass(frozen=True, kw_only=True)
class Rotation(Augmentation):
    """Turn images about their centre, by bilinear interpolation; corners that come in are black.

    Parameters
    ----------
    degrees : float in (0, 180], default=15.0
        An angle is drawn for each image, evenly, up to this to either side.
    probability
        See `Augmentation`.
    """

    degrees: float = 15.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.degrees <= 180:
            raise SparkimbError(f"Rotation.degrees is {self.degrees}. It must be in (0, 180].")

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with the chosen images turned."""
        x = _images(batch)
        angle = math.radians(self.degrees) * _between(-1, 1, x, generator)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        ratio = x.shape[2] / x.shape[3]  # coordinates run from -1 to 1 along both sides, whatever their lengths
        turn = torch.stack([torch.stack([cos, -sin * ratio, zero], 1), torch.stack([sin / ratio, cos, zero], 1)], 1)
        grid = F.affine_grid(turn, list(x.shape), align_corners=False)
        turned = F.grid_sample(x, grid.to(x), align_corners=False)
        return Batch(where_chosen(chosen, turned, x), batch.labels, batch.weights)


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Augmentation):
    """Change brightness, contrast, saturation and hue, in this order, each by a factor drawn for each image.

    Needs kornia: pip install kornia.

    Parameters
    ----------
    brightness : float in [0, 1], default=0.2
        Up to this is added or taken away.
    contrast, saturation : float in [0, 1], default=0.2
        Multiplied by 1 ± up to this.
    hue : float in [0, 0.5], default=0.0
        Turned by up to this part of the circle to either side.
    probability
        See `Augmentation`.

    Raises
    ------
    ImportError
        If kornia is not installed.
    SparkimbError
        In the call, for saturation or hue of images of other than 3 channels.
    """

    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, most in (("brightness", 1), ("contrast", 1), ("saturation", 1), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= most:
                raise SparkimbError(f"ColorJitter.{name} is {getattr(self, name)}. It must be in [0, {most}].")
        _kornia()

    def changed(self, batch: Batch, chosen: Tensor, generator: Generator | None) -> Batch:
        """Return the batch with the colours of the chosen images changed."""
        enhance, x = _kornia(), _images(batch)
        if x.shape[1] != 3 and (self.saturation or self.hue):
            raise SparkimbError(
                f"ColorJitter got images of {x.shape[1]} channels. Set saturation and hue to 0 for grey images."
            )
        y = x
        if self.brightness:
            y = enhance.adjust_brightness(y, _between(-self.brightness, self.brightness, x, generator))
        if self.contrast:
            factor = _between(1 - self.contrast, 1 + self.contrast, x, generator)
            y = enhance.adjust_contrast_with_mean_subtraction(y, factor)
        if self.saturation:
            y = enhance.adjust_saturation(y, _between(1 - self.saturation, 1 + self.saturation, x, generator))
        if self.hue:
            y = enhance.adjust_hue(y, 2 * math.pi * _between(-self.hue, self.hue, x, generator))
        return Batch(where_chosen(chosen, y, x), batch.labels, batch.weights)


def _between(low: float, high: float, images: Tensor, generator: Generator | None) -> Tensor:
    """Draw a number for each image, evenly."""
    return low + (high - low) * torch.rand(len(images), generator=generator, device=images.device)


def _images(batch: Batch) -> Tensor:
    if batch.features.dim() != 4:
        raise SparkimbError(
            f"features are of shape {list(batch.features.shape)}. Images are [b, channels, height, width]."
        )
    return batch.features


def _kornia() -> Any:
    try:
        from kornia import enhance
    except ImportError as error:
        raise ImportError("ColorJitter needs kornia: pip install kornia.") from error
    return enhance
