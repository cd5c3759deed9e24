"""Crop and decode as usually written in torch: one operator after the other, every map in memory."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class CropConstants(NamedTuple):
    """What every crop of frames of one size needs, placed on the device beforehand.

    Attributes:
        scale: (2, 3), converts an affine from crop to image coordinates to torch's convention, in which
            coordinates run from -1 to 1 between the edges.
        mean, std: (1, 3, 1, 1), in the order of the output.
    """

    scale: Tensor
    mean: Tensor
    std: Tensor


@cache
def crop_constants(
    frame_size: tuple[int, int],
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: str,
) -> CropConstants:
    """The constants for frames and crops of these sizes, (height, width) each."""
    (rows, columns), (height, width) = frame_size, size
    scale = [[width / columns, height / columns, 2 / columns], [width / rows, height / rows, 2 / rows]]
    levels = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (mean, std))
    return CropConstants(torch.tensor(scale, device=device), *levels)


def crop(frame: Tensor, affines: Tensor, size: tuple[int, int], constants: CropConstants) -> Tensor:
    """Sample crops with ``grid_sample``, reverse the channels, normalise.

    Args:
        frame: (H, W, 3) uint8.
        affines: (N, 2, 3) float32, crop to image coordinates.
        size: crop height and width.
        constants: for frames and crops of these sizes.

    Returns:
        (N, 3, height, width) float32.
    """
    height, width = size
    scaled = affines * constants.scale
    theta = torch.cat([scaled[:, :, :2], scaled.sum(dim=2, keepdim=True) - 1], dim=2)
    grid = F.affine_grid(theta, [len(affines), 3, height, width], align_corners=False)
    picture = frame.permute(2, 0, 1).float()[None].expand(len(affines), -1, -1, -1)
    crops = F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (crops.flip(1) - constants.mean) / constants.std


def decode(
    cams: Tensor, presence: Tensor, affines: Tensor, factor: int, sigma: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Upsample to crop resolution, argmax, DARK on the blurred map, then the affine to image coordinates.

    Args:
        cams: (N, K, h, w) logits.
        presence: (N, K) logits.
        affines: (N, 2, 3) float32, crop to image coordinates.
        factor: crop pixels per cell.
        sigma: of the blur, in cells.

    Returns:
        Keypoints (N, K, 2), scores and presence (N, K).
    """
    maps = F.interpolate(cams.float(), scale_factor=float(factor), mode="bilinear", align_corners=False)
    n, k, height, width = maps.shape
    peak, index = maps.flatten(2).max(dim=2)
    y, x = index // width, index % width

    reach = round(2.5 * sigma * factor)
    steps = torch.arange(-reach, reach + 1, device=cams.device, dtype=torch.float32)
    bump = torch.exp(-(steps**2) / (2 * (sigma * factor) ** 2))
    bump = (bump / bump.sum()).view(1, 1, 1, -1)
    blurred = F.pad(maps.sigmoid().reshape(n * k, 1, height, width), [reach] * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(blurred, bump), bump.transpose(2, 3))
    log = blurred.clamp_min(1e-10).log().view(n, k, height * width)

    def at(dy: int, dx: int) -> Tensor:
        rows, columns = (y + dy).clamp(0, height - 1), (x + dx).clamp(0, width - 1)
        return log.gather(2, (rows * width + columns)[..., None])[..., 0]

    f = factor
    gx, gy = (at(0, f) - at(0, -f)) / 2, (at(f, 0) - at(-f, 0)) / 2
    xx, yy = at(0, f) - 2 * at(0, 0) + at(0, -f), at(f, 0) - 2 * at(0, 0) + at(-f, 0)
    xy = (at(f, f) - at(f, -f) - at(-f, f) + at(-f, -f)) / 4
    determinant = xx * yy - xy * xy
    inside = (x >= f) & (x < width - f) & (y >= f) & (y < height - f) & (determinant > 1e-8)
    safe = torch.where(inside, determinant, torch.ones_like(determinant))
    step = torch.stack([(xy * gy - yy * gx) / safe, (xy * gx - xx * gy) / safe], dim=2).clamp(-1, 1) * f
    places = torch.stack([x, y], dim=2) + 0.5 + torch.where(inside[..., None], step, torch.zeros_like(step))
    keypoints = places @ affines[:, :, :2].transpose(1, 2) + affines[:, None, :, 2]
    return keypoints, peak.sigmoid(), presence.sigmoid()
