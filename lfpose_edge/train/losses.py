"""Losses of full supervision: where each joint is, and whether it is there."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lfpose_edge.train.data.crops import Sample
from lfpose_edge.train.networks.cam_network import PoseOutput
from lfpose_edge.train.recipe import Loss


class LossTerms(NamedTuple):
    """Scalar losses; ``total`` is the weighted sum."""

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
    output: PoseOutput, sample: Sample, mirror: Tensor, stride: float, weights: Loss
) -> LossTerms:
    """The loss of crops whose joints are located.

    *Location*: cross-entropy between the softmax of a CAM over its cells and the normalised Gaussian; it
    puts the peak in the right place and leaves the level of the map free. It also applies to the coarse CAMs,
    averaged over them.
    *Heatmap*: binary cross-entropy of every cell, summed over the map; it sets that level, so that the
    sigmoid of the peak is a score. *Presence*: binary cross-entropy of the presence logits.

    If the recipe expects some persons to be labelled with left and right exchanged, every target is a mixture
    of the label and the exchanged label, weighted by :func:`swap_posterior`.

    Args:
        output: CAMs (B, K, h, w) and presence (B, K), logits.
        sample: B crops' joints. An unlabelled joint has no location loss; its target map is empty if it is
            known to be absent, and it is ignored if nothing is known.
        mirror: (K,) the index of every joint's mirror joint.
        stride: crop pixels per CAM cell.
        weights: the weights of the terms, and the Gaussian's sigma.
    """
    sigma = weights.sigma_cells * stride  # crop pixels
    joints, labelled = sample.joints, sample.labelled
    cams, presence = output.cams.float(), output.presence.float()
    target = target_maps(joints, labelled, cams, stride, sigma)
    swapped = swap_posterior(cams, target, mirror, weights)

    def believed(label: Tensor) -> Tensor:
        share = swapped.view(-1, *[1] * (label.dim() - 1))
        return torch.lerp(label, label[:, mirror], share)

    count = labelled.sum().clamp_min(1)
    location = location_costs(cams, believed(to_distribution(target))).sum() / count
    coarse = cams.new_zeros(())
    for maps, map_stride in with_strides(output, stride):
        places = believed(to_distribution(target_maps(joints, labelled, maps, map_stride, sigma)))
        coarse = coarse + location_costs(maps, places).sum() / count / len(output.coarse_cams)
    heatmap = F.binary_cross_entropy_with_logits(cams, believed(target), reduction="none")
    known = sample.known
    if weights.swap_rate:  # a joint may hold its mirror joint's label: both must be known to judge either
        known = known & known[:, mirror]
    known = known.float()
    judged = known.sum().clamp_min(1)
    heatmap = (heatmap.sum(dim=(2, 3)) * known).sum() / judged
    tags = F.binary_cross_entropy_with_logits(presence, believed(labelled.float()), reduction="none")
    tags = (tags * known).sum() / judged
    total = (
        weights.location * location
        + weights.coarse * coarse
        + weights.heatmap * heatmap
        + weights.presence * tags
    )
    return LossTerms(total, location, heatmap, tags)


def with_strides(output: PoseOutput, stride: float) -> list[tuple[Tensor, float]]:
    """The coarse CAMs in float32, each with its crop pixels per cell; ``stride`` is that of the fine ones."""
    return [(maps.float(), stride * output.cams.shape[3] / maps.shape[3]) for maps in output.coarse_cams]


def target_maps(joints: Tensor, labelled: Tensor, cams: Tensor, stride: float, sigma: float) -> Tensor:
    """Gaussians (B, K, h, w) in the cells of ``cams``; empty where a joint is unlabelled."""
    maps = gaussian_maps(joints, (cams.shape[2], cams.shape[3]), stride, sigma / stride)
    return maps * labelled[..., None, None]


def to_distribution(maps: Tensor) -> Tensor:
    """Maps (B, K, h, w) scaled to sum to 1; empty ones stay empty."""
    return maps / maps.sum(dim=(2, 3), keepdim=True).clamp_min(1e-6)


def location_costs(cams: Tensor, distribution: Tensor) -> Tensor:
    """Cross-entropy (B, K) of the softmax of CAM logits over their cells against a distribution."""
    return -(distribution.flatten(2) * cams.flatten(2).log_softmax(dim=2)).sum(dim=2)


@torch.no_grad()
def swap_posterior(cams: Tensor, target: Tensor, mirror: Tensor, weights: Loss) -> Tensor:
    """The probability that each person's label has left and right exchanged, given the current output.

    Crowd workers occasionally exchange the sides of a whole person (reported for this data set by Johnson and
    Everingham, CVPR 2011), and a network that is forced to memorise those persons unlearns the others. With
    ``swap_rate`` as the prior and the two labels' location costs as evidence, this is the E-step of a
    two-component mixture; ``swap_trust`` tempers the evidence, as a person's joints are not independent.

    Returns:
        (B,) probabilities; 0 everywhere when ``swap_rate`` is 0.
    """
    if weights.swap_rate == 0:
        return cams.new_zeros(len(cams))
    labelled = (target.amax(dim=(2, 3)) > 0).sum(dim=1).clamp_min(1)
    places = to_distribution(target)
    gain = location_costs(cams, places - places[:, mirror])  # (B, K) nats that the exchange would save
    prior = math.log(weights.swap_rate / (1 - weights.swap_rate))
    return torch.sigmoid(prior + weights.swap_trust * gain.sum(dim=1) / labelled)
