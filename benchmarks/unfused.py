"""Crop and decode as people write them in torch: one operator after the other, every map in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def crop(
    frame: Tensor, affines: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Sample crops with ``grid_sample``, reverse the channels, normalise.

    Args:
        frame: (H, W, 3) uint8.
        affines: (N, 2, 3) float32, crop to image coordinates.
        size: crop height and width.
        mean, std: in the order of the output.

    Returns:
        (N, 3, height, width) float32.
    """
    rows, columns = frame.shape[:2]
    height, width = size
    half_crop = torch.tensor([width / 2, height / 2], device=frame.device)
    half_image = torch.tensor([columns / 2, rows / 2], device=frame.device)
    linear, offset = affines[:, :, :2], affines[:, :, 2]
    theta = torch.cat(
        [
            linear * half_crop / half_image[:, None],
            ((linear @ half_crop + offset) / half_image - 1)[..., None],
        ],
        dim=2,
    )
    grid = F.affine_grid(theta, [len(affines), 3, height, width], align_corners=False)
    picture = frame.permute(2, 0, 1).float()[None].expand(len(affines), -1, -1, -1)
    crops = F.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    shape = (1, 3, 1, 1)
    levels = [torch.tensor(values, device=frame.device).view(shape) for values in (mean, std)]
    return (crops.flip(1) - levels[0]) / levels[1]


def decode(
    cams: Tensor, presence: Tensor, affines: Tensor, factor: int, sigma: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Upsample to crop resolution, argmax, DARK on the blurred map, inverse affine.

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
