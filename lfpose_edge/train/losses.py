"""Losses of full supervision: where each joint is, and whether it is there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lfpose_edge.train.networks.cam_network import PoseOutput
from lfpose_edge.train.recipe import Loss


class LossTerms(NamedTuple):
    """Scalar losses; ``total`` is the weighted sum that is minimised."""

    total: Tensor
    location: Tensor
    heatmap: Tensor
    presence: Tensor


def gaussian_maps(joints: Tensor, shape: tuple[int, int], stride: float, sigma: float) -> Tensor:
    """Gaussian bumps of height 1 at the joints.

    Args:
        joints: (B, K, 2) crop pixels.
        shape: map height and width, in cells.
        stride: crop pixels per cell; cell ``i`` is centred at ``(i + 0.5) * stride``.
        sigma: standard deviation in cells.

    Returns:
        (B, K, h, w) float32.
    """
    cells = joints / stride - 0.5
    axes = [torch.arange(n, device=joints.device, dtype=torch.float32) for n in (shape[1], shape[0])]
    x, y = (torch.exp(-((axis - cells[..., i, None]) ** 2) / (2 * sigma**2)) for i, axis in enumerate(axes))
    return y[..., :, None] * x[..., None, :]


def supervised_loss(
    output: PoseOutput, joints: Tensor, labelled: Tensor, stride: float, weights: Loss
) -> LossTerms:
    """The loss of crops whose joints are located.

    *Location*: cross-entropy between the softmax of a CAM over its cells and the normalised Gaussian; it
    puts the peak in the right place and leaves the level of the map free. *Heatmap*: binary cross-entropy
    of every cell, summed over the map; it sets that level, so that the sigmoid of the peak is a score.
    *Presence*: binary cross-entropy of the presence logits.

    Args:
        output: CAMs (B, K, h, w) and presence (B, K), logits.
        joints: (B, K, 2) crop pixels.
        labelled: (B, K) bool; an unlabelled joint has an empty target map and no location.
        stride: crop pixels per CAM cell.
        weights: the weights of the terms, and the Gaussian's sigma.
    """
    cams, presence = output.cams.float(), output.presence.float()
    target = gaussian_maps(joints, (cams.shape[2], cams.shape[3]), stride, weights.sigma_cells)
    target = target * labelled[..., None, None]  # (B, K, h, w)

    mass = target.sum(dim=(2, 3)).clamp_min(1e-6)  # (B, K)
    log_probability = cams.flatten(2).log_softmax(dim=2)
    cross_entropy = -(target.flatten(2) * log_probability).sum(dim=2) / mass
    location = (cross_entropy * labelled).sum() / labelled.sum().clamp_min(1)

    heatmap = F.binary_cross_entropy_with_logits(cams, target, reduction="none").sum(dim=(2, 3)).mean()
    tags = F.binary_cross_entropy_with_logits(presence, labelled.float())
    total = weights.location * location + weights.heatmap * heatmap + weights.presence * tags
    return LossTerms(total, location, heatmap, tags)
