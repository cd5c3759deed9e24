"""Losses that need no label: properties that the CAMs of any person should have.

The abstract of "Location-Free Human Pose Estimation" (Xu et al., CVPR 2022) does not say which losses it
uses; these are our reconstruction.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lfpose_edge.train.networks.cam_network import PoseOutput
from lfpose_edge.train.networks.prototypes import Prototypes

SURE = 0.7  # presence above which a joint is taken to be there
_TEMPERATURE = 0.1


def likely_present(output: PoseOutput) -> Tensor:
    """(B, K) float: 1 where the network is confident that the joint is present, without gradient."""
    return (output.presence.detach().float().sigmoid() > SURE).float()


def squared_hellinger(p: Tensor, q: Tensor) -> Tensor:
    """Squared Hellinger distance of two distributions (..., cells): 0 if equal, 1 without a common cell.

    Unlike a squared difference, it does not vanish when both are spread over many cells.
    """
    return 1 - torch.sqrt(p * q + 1e-12).sum(dim=-1)


def agreement_loss(output: PoseOutput, progress: float) -> Tensor:
    """Disagreement of coarse and fine CAMs.

    In the first third of a training the coarse CAMs, which learn sooner, teach the fine ones; after that the
    fine CAMs, which tell joints apart, teach the coarse ones.

    Args:
        output: the network's output for B crops.
        progress: fraction of the training that is done, 0 to 1.
    """
    cams, present = output.cams.float(), likely_present(output)
    fine = cams.flatten(2).softmax(dim=2).view_as(cams)
    total = cams.new_zeros(())
    for coarse in output.coarse_cams:
        own = coarse.float().flatten(2).softmax(dim=2).view_as(coarse)
        seen_coarsely, own = (_pooled(p, min(fine.shape[3], own.shape[3])) for p in (fine, own))
        pupil, tutor = (seen_coarsely, own) if progress < 1 / 3 else (own, seen_coarsely)
        apart = squared_hellinger(pupil, tutor.detach())
        total = total + (apart * present).sum() / present.sum().clamp_min(1)
    return total / max(1, len(output.coarse_cams))


def _pooled(places: Tensor, width: int) -> Tensor:
    """Distributions (B, K, h, w) over coarser cells, ``width`` of them in a row: (B, K, cells)."""
    ratio = places.shape[3] // width
    return (F.avg_pool2d(places, ratio) * ratio**2).flatten(2)


def concentration_loss(output: PoseOutput) -> Tensor:
    """Variance of a CAM's mass, horizontal plus vertical, in units of the map's side squared.

    Averaged over the joints that are likely present.
    """
    cams, present = output.cams.float(), likely_present(output)
    places = cams.flatten(2).softmax(dim=2).view_as(cams)
    variance = cams.new_zeros(cams.shape[:2])
    for axis, rest in ((3, 2), (2, 3)):
        mass = places.sum(dim=rest)  # (B, K, cells of the axis)
        at = torch.linspace(0, 1, cams.shape[axis], device=cams.device)
        mean = (mass * at).sum(dim=2, keepdim=True)
        variance = variance + (mass * (at - mean) ** 2).sum(dim=2)
    return (variance * present).sum() / present.sum().clamp_min(1)


def separation_loss(output: PoseOutput) -> Tensor:
    """Overlap of the maps of two joints (Bhattacharyya coefficient): 0 if disjoint, 1 if equal.

    Averaged over the pairs of joints that are likely present: two joints are seldom in one place.
    """
    amplitudes = (output.cams.float().flatten(2).log_softmax(dim=2) / 2).exp()  # roots of the probabilities
    present = likely_present(output)
    overlaps = (amplitudes @ amplitudes.transpose(1, 2)).triu(1)  # (B, K, K)
    pairs = (present[:, :, None] * present[:, None]).triu(1)
    return (overlaps * pairs).sum() / pairs.sum().clamp_min(1)


def contrast_loss(output: PoseOutput) -> Tensor:
    """Pull the feature at a joint's peak towards its own prototype in the memory, away from the others.

    InfoNCE over the K joints, including the mirror joint, at the cell of the prototypes' map where the CAM
    peaks; averaged over the joints that are likely present and have a prototype in the memory.
    """
    assert isinstance(output.prototypes, Prototypes)
    context, _, memory = output.prototypes
    cams = F.adaptive_max_pool2d(output.cams.detach().float(), context.shape[2:])
    peaks = cams.flatten(2).argmax(dim=2)  # (B, K)
    cells = context.float().flatten(2).transpose(1, 2)  # (B, h * w, D)
    seen = cells.gather(1, peaks[..., None].expand(-1, -1, cells.shape[2]))
    similarity = F.normalize(seen, dim=2) @ F.normalize(memory.float(), dim=1).T / _TEMPERATURE  # (B, K, K)
    known = (memory != 0).any(dim=1)
    similarity = similarity.masked_fill(~known, -torch.inf)
    own = torch.arange(len(memory), device=memory.device).expand(len(seen), -1)
    judged = likely_present(output) * known
    costs = F.cross_entropy(similarity.flatten(0, 1), own.flatten(), reduction="none").view_as(judged)
    return torch.where(judged > 0, costs, 0.0).sum() / judged.sum().clamp_min(1)
