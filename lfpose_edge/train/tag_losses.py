"""Losses of tags: supervise maps by yes/no answers about regions, without any location."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.data.tags import NO, YES
from lfpose_edge.train.losses import LossTerms
from lfpose_edge.train.networks.cam_network import PoseOutput
from lfpose_edge.train.recipe import Loss

_COVERED = 0.9  # least part of a region in the crop: with less, a joint seen there may have been cut off
_RAREST = 0.05  # rates of yes and of no are raised to this
FINER = 2  # sub-cells along each side of a cell, at which answers are evaluated
_POINTS = 8  # sampled along each side of a region


def tag_loss(output: PoseOutput, sample: TagSample, _: Tensor, stride: float, weights: Loss) -> LossTerms:
    """The loss of crops of which only answers are known.

    *Location* is :func:`place_costs` of the joints that were seen somewhere in the crop. *Heatmap* is
    :func:`presence_costs`, which sets the maps' level. Both also apply to the coarse CAMs, averaged over
    them. *Presence* is the binary cross-entropy of the presence logits, for joints that were seen in a part
    of the box or were answered "no" for the whole box; it is not balanced, so that the logits remain those
    of a probability.

    Args:
        output: CAMs (B, K, h, w) and presence (B, K), logits.
        sample: B crops' answers.
        stride: crop pixels per CAM cell.
        weights: the weights of the terms.
    """
    cams, presence = output.cams.float(), output.presence.float()
    maps = [cams, *(coarse.float() for coarse in output.coarse_cams)]
    height, width = max((m.shape[2:] for m in maps), key=tuple)
    shape = (FINER * height, FINER * width)
    masks, covered = region_masks(
        sample.regions, sample.affine, shape, stride * cams.shape[3] / width / FINER
    )
    yes, no = judged_answers(sample.answers, masks, covered)
    seen = yes.any(dim=1)  # (B, K)
    judged = (yes | no).sum().clamp_min(1)
    balance = class_balance(sample.rates, yes, no) if weights.tag_balance else (yes | no).float()
    evidence = answer_evidence(masks, yes, no, weights.tag_mistakes)
    places, levels = [], []
    for m in maps:
        place = place_costs(m, evidence_in_cells(evidence, m.shape[2:]))
        places.append((place * seen).sum() / seen.sum().clamp_min(1))
        costs = presence_costs(m, parts_in_cells(masks, m.shape[2:]), yes, no, weights.tag_sharpness)
        levels.append((costs * balance).sum() / judged)
    shares = [1.0, *(weights.coarse / len(output.coarse_cams) for _ in output.coarse_cams)]
    total = cams.new_zeros(())
    for share, place, level in zip(shares, places, levels, strict=True):
        total = total + share * (weights.tag_location * place + weights.tag_level * level)
    absent = (no & sample.whole[..., None]).any(dim=1)
    known = seen | absent
    tags = F.binary_cross_entropy_with_logits(presence, seen.float(), reduction="none")
    tags = (tags * known).sum() / known.sum().clamp_min(1)
    return LossTerms(total + weights.presence * tags, places[0], levels[0], tags)


def class_balance(rates: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Weights (B, R, K) that make both answers about a joint count equally; 0 where there is no answer.

    Args:
        rates: (B, K) the rate at which the answer about a joint is yes.
        yes, no: (B, R, K).
    """
    rate = rates.clamp(_RAREST, 1 - _RAREST)[:, None]
    return 2 * ((1 - rate) * yes + rate * no)


def region_masks(
    regions: Tensor, affines: Tensor, shape: tuple[int, int], stride: float
) -> tuple[Tensor, Tensor]:
    """Which cells of a map lie in each region, and how much of each region lies in the crop.

    Args:
        regions: (B, R, 4) x1, y1, x2, y2, image pixels.
        affines: (B, 2, 3), crop to image pixels.
        shape: map height and width, in cells.
        stride: crop pixels per cell.

    Returns:
        (B, R, h, w) bool, whether the cell's centre is in the region; (B, R) float, the part of the region
        that is in the crop.
    """
    x, y = ((torch.arange(n, device=affines.device, dtype=affines.dtype) + 0.5) * stride for n in shape[::-1])
    centres = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones_like(x[None] + y[:, None])])
    places = torch.einsum("bij,jhw->bihw", affines, centres)[:, None]  # (B, 1, 2, h, w) image pixels
    low, high = regions[..., :2, None, None], regions[..., 2:, None, None]
    masks = ((places >= low) & (places < high)).all(dim=2)
    # Sample points of the region rather than cells of the map, of which a small region has too few.
    part = (torch.arange(_POINTS, device=affines.device) + 0.5) / _POINTS
    parts = torch.stack(torch.meshgrid(part, part, indexing="xy"), dim=2).flatten(0, 1).to(regions.dtype)
    points = regions[..., None, :2] + parts * (regions[..., None, 2:] - regions[..., None, :2])
    inverse = torch.linalg.inv(affines[:, :, :2]).to(regions.dtype)
    offset = affines[:, None, None, :, 2].to(regions.dtype)
    crop = torch.einsum("bij,brpj->brpi", inverse, points - offset)
    extent = torch.tensor(shape[::-1], device=affines.device) * stride
    return masks, ((crop >= 0) & (crop <= extent)).all(dim=3).to(regions.dtype).mean(dim=2)


def judged_answers(answers: Tensor, masks: Tensor, covered: Tensor) -> tuple[Tensor, Tensor]:
    """Which answers are valid for the crop: (B, R, K) bool yes, and bool no.

    "No" holds for any part of a region; "yes" only if the crop shows nearly all of the region.
    """
    yes = (answers == YES) & (covered >= _COVERED)[..., None]
    no = (answers == NO) & masks.any(dim=(2, 3))[..., None]
    return yes, no


def answer_evidence(masks: Tensor, yes: Tensor, no: Tensor, mistakes: float) -> Tensor:
    """Log-likelihood of the answers about a joint if it is in a cell, in nats; 0 if all of them agree.

    Answers are wrong independently with a small probability: each one that contradicts the cell lowers the
    likelihood by the same factor.

    Args:
        masks: (B, R, h, w) bool.
        yes, no: (B, R, K).
        mistakes: the probability that an answer is wrong.

    Returns:
        (B, K, h, w), not positive.
    """
    cells = masks.float()
    against = torch.einsum("brk,brhw->bkhw", yes.float(), 1 - cells)
    against = against + torch.einsum("brk,brhw->bkhw", no.float(), cells)
    return against * -math.log((1 - mistakes) / mistakes)


def evidence_in_cells(evidence: Tensor, shape: torch.Size) -> Tensor:
    """Pool the evidence (B, K, H, W) of a finer grid to a map's cells (B, K, h, w) by the mean likelihood.

    A region may be as small as a coarse cell, which its border then cuts: the cell's centre alone would
    misrepresent the cell.
    """
    ratio = evidence.shape[3] // shape[1]
    blocks = evidence.unflatten(3, (shape[1], ratio)).unflatten(2, (shape[0], ratio))
    return blocks.logsumexp(dim=(3, 5)) - 2 * math.log(ratio)


def parts_in_cells(masks: Tensor, shape: torch.Size) -> Tensor:
    """Pool masks (B, R, H, W) of a finer grid to the part of each of a map's cells (B, R, h, w) inside."""
    return F.avg_pool2d(masks.float(), masks.shape[3] // shape[1])


def place_costs(cams: Tensor, evidence: Tensor) -> Tensor:
    """Negative log-likelihood of all answers about a joint if its place is drawn from its map's softmax.

    The model is that of the fully supervised location term, which knows the cell; here only the part of the
    crop that is compatible with the answers is known.

    Args:
        cams: (B, K, h, w) logits.
        evidence: (B, K, h, w), see :func:`answer_evidence`.

    Returns:
        (B, K) nats; 0 where there is no answer.
    """
    return -(cams.flatten(2).log_softmax(dim=2) + evidence.flatten(2)).logsumexp(dim=2)


def presence_costs(cams: Tensor, parts: Tensor, yes: Tensor, no: Tensor, sharpness: float) -> Tensor:
    """Binary cross-entropy between the answers and the log-mean-exp of a map's logits over the region.

    Args:
        cams: (B, K, h, w) logits.
        parts: (B, R, h, w) the part of each cell that is in the region, 0 to 1.
        yes, no: (B, R, K).
        sharpness: r of log-mean-exp; towards 0 it is the mean, which spreads, towards infinity the maximum,
            which covers too little.

    Returns:
        (B, R, K); 0 where there is no answer.
    """
    weights = parts.flatten(2)[:, :, None]  # (B, R, 1, cells)
    empty = (
        weights.sum(dim=3, keepdim=True) == 0
    )  # a region thinner than the grid: its log(0) would have no gradient
    weights = torch.where(empty, torch.ones_like(weights), weights)
    logits = (sharpness * cams.flatten(2))[:, None] + weights.log()
    pooled = (logits.logsumexp(dim=3) - weights.sum(dim=3).log()) / sharpness
    pooled = torch.where(empty[..., 0], torch.zeros_like(pooled), pooled)
    costs = F.binary_cross_entropy_with_logits(pooled, yes.to(pooled.dtype), reduction="none")
    return costs * (yes | no)
