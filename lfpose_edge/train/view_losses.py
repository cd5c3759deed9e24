"""Losses between two views of a person without a location: a hard (augmented) one and an easy (plain) one.

Both views come with the affine from their crop to the image, so what is found in one can be located in the
other. The easy view is never mirrored; in a mirrored hard view left and right are exchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.losses import gaussian_maps, location_costs, to_distribution
from lfpose_edge.train.map_losses import SURE, squared_hellinger
from lfpose_edge.train.networks.cam_network import PoseOutput
from lfpose_edge.train.recipe import Loss
from lfpose_edge.train.tag_losses import (
    FINER,
    answer_evidence,
    evidence_in_cells,
    judged_answers,
    region_masks,
)

_COMMON = 0.8  # least part of a CAM's mass in the area that both views show
_TELLING = 0.2  # nats of mutual information; a teacher with less has collapsed
_PART_OF_A_CELL = -math.log(FINER**2) - 1e-3  # evidence of a cell in which a single sub-cell agrees
_AROUND = 2.0  # radius of a peak, in standard deviations of the target's Gaussian


def equivariance_loss(hard: PoseOutput, easy: PoseOutput, sample: TagSample, mirror: Tensor) -> Tensor:
    """Distance between the CAMs of the hard view and those of the easy view, warped as the picture was.

    It needs neither locations nor answers: any map that follows the image content is equivariant.

    Args:
        hard, easy: the network's outputs for B persons' views; gradients flow to both.
        sample: the persons.
        mirror: (K,) the index of every joint's mirror joint.
    """
    p, q = (o.cams.float().flatten(2).softmax(dim=2).view_as(o.cams) for o in (hard, easy))
    q = named_alike(q, sample.affine, mirror)
    grid = _sampling_grid(sample.affine, sample.easy_affine, sample.crop.shape[2:], p.shape[2:])
    moved = F.grid_sample(q, grid, align_corners=False)
    common = (grid.abs() <= 1).all(dim=3)[:, None]  # part of the hard view that the easy one shows too
    p = p * common
    inside = p.flatten(2).sum(dim=2)
    shown = moved.flatten(2).sum(dim=2) * _cells_of_easy(sample)[:, None]
    judged = (inside.detach() > _COMMON) & (shown.detach() > _COMMON)
    apart = squared_hellinger(to_distribution(p).flatten(2), to_distribution(moved).flatten(2))
    return (apart * judged).sum() / judged.sum().clamp_min(1)


def teacher_loss(
    hard: PoseOutput, easy: PoseOutput, sample: TagSample, mirror: Tensor, stride: float, weights: Loss
) -> Tensor:
    """The location term, with what a teacher finds in the easy view as the target.

    Args:
        hard: the network's output for B persons' hard views.
        easy: the teacher's output for the easy views.
        sample: the persons, and what was answered about them.
        mirror: (K,) the index of every joint's mirror joint.
        stride: crop pixels per CAM cell.
        weights: whether the teacher's places (:func:`teacher_places`) or its maps (:func:`teacher_maps`) are
            learned, and how.
    """
    cams = hard.cams.float()
    taught = teacher_maps if weights.teacher_maps else _maps_of_places
    target, trust = taught(easy, sample, mirror, stride, weights)
    return (location_costs(cams, target) * trust).mean()


@torch.no_grad()
def _maps_of_places(
    easy: PoseOutput, sample: TagSample, mirror: Tensor, stride: float, weights: Loss
) -> tuple[Tensor, Tensor]:
    """Gaussians (B, K, h, w) at the teacher's places in the hard view, and (B, K) trust."""
    places, trust = teacher_places(easy, sample, mirror, stride, weights)
    linear, offset = sample.affine[:, None, :, :2].float(), sample.affine[:, None, :, 2].float()
    joints = torch.linalg.solve(linear, (places - offset)[..., None])[..., 0]  # (B, K, 2) hard crop pixels
    extent = torch.tensor(sample.crop.shape[:1:-1], device=joints.device)
    inside = ((joints >= 0) & (joints < extent)).all(dim=2)
    shape = (easy.cams.shape[2], easy.cams.shape[3])
    return to_distribution(gaussian_maps(joints, shape, stride, weights.sigma_cells)), trust * inside


@torch.no_grad()
def teacher_maps(
    easy: PoseOutput, sample: TagSample, mirror: Tensor, stride: float, weights: Loss
) -> tuple[Tensor, Tensor]:
    """A teacher's maps, combined with the answers and warped to the hard view.

    A peak commits to left or right; the map also says how sure the teacher is, so no joint is too uncertain
    to be learned. ``teacher_sure`` is therefore not applied, but the other conditions of
    :func:`teacher_places` are; and the hard view must show most of a joint's mass.

    Args:
        easy: the teacher's output for B easy views.
        sample, mirror, stride, weights: see :func:`teacher_loss`.

    Returns:
        (B, K, h, w) distributions over the hard view's cells, and (B, K) 1 where they are to be learned.
    """
    told = _told(easy, sample, mirror, stride, weights)
    mass = (told.logits / weights.teacher_maps + told.evidence).softmax(dim=2)
    shape = easy.cams.shape[2:]
    grid = _sampling_grid(sample.affine, sample.easy_affine, sample.crop.shape[2:], shape)
    moved = F.grid_sample(mass.unflatten(2, shape), grid, align_corners=False)
    shown = moved.flatten(2).sum(dim=2) * _cells_of_easy(sample)[:, None] > _COMMON
    return to_distribution(moved), (shown & told.heard(mass)).float()


@torch.no_grad()
def seen_mirrored_too(teacher: Callable[[Tensor], PoseOutput], crops: Tensor, mirror: Tensor) -> PoseOutput:
    """A teacher's logits, averaged over crops (B, 3, H, W) and their mirror images."""
    plain, mirrored = teacher(crops), teacher(crops.flip(3))
    return PoseOutput(
        (plain.cams + mirrored.cams[:, mirror].flip(3)) / 2,
        (plain.presence + mirrored.presence[:, mirror]) / 2,
    )


@torch.no_grad()
def surest_turn(teacher: Callable[[Tensor], PoseOutput], crops: Tensor, sigma_cells: float) -> PoseOutput:
    """A teacher's output for square crops (B, 3, S, S), for each person in its most confident quarter turn.

    That is the turn with the most CAM mass around the peaks, averaged over the joints.
    """
    cams, presence, sure = [], [], []
    for quarters in range(4):
        output = teacher(crops.rot90(quarters, (2, 3)))
        mass = output.cams.float().flatten(2).softmax(dim=2)
        sure.append(mass_around_peak(mass, output.cams.shape[2:], sigma_cells).sum(dim=2).mean(dim=1))
        cams.append(output.cams.rot90(-quarters, (2, 3)))
        presence.append(output.presence)
    best, persons = torch.stack(sure).argmax(dim=0), torch.arange(len(crops), device=crops.device)
    return PoseOutput(torch.stack(cams)[best, persons], torch.stack(presence)[best, persons])


@torch.no_grad()
def teacher_places(
    easy: PoseOutput, sample: TagSample, mirror: Tensor, stride: float, weights: Loss
) -> tuple[Tensor, Tensor]:
    """Where a teacher finds the joints, given the image and the answers.

    The softmax of a CAM is read as the probability of the joint's place, and multiplied by the likelihood of
    the given answers (:func:`answer_evidence`). The trust in a joint is the part of that mass that lies
    within two standard deviations of the peak. It is zero

    - if it is below ``teacher_sure``,
    - if the peak contradicts an answer,
    - if an answer or, without one, the teacher says that the joint is absent,
    - if the teacher has collapsed: the mutual information of persons and places in the batch,
      H(mean map) - mean H(map), is below 0.2 nats, as for a map that is the same for everyone.

    Args:
        easy: the teacher's output for B easy views.
        sample, mirror, stride, weights: see :func:`teacher_loss`.

    Returns:
        (B, K, 2) image pixels, with left and right as in the hard view, and (B, K) trust, 0 to 1.
    """
    told = _told(easy, sample, mirror, stride, weights)
    mass = (told.logits + told.evidence).softmax(dim=2)
    around = mass_around_peak(mass, easy.cams.shape[2:], weights.sigma_cells)
    trust = around.sum(dim=2)
    at = _cells(easy.cams.shape[2:], mass.device)
    cell = torch.einsum("bkc,cd->bkd", around, at) / trust.clamp_min(1e-6)[..., None]
    crop = (cell + 0.5) * stride
    places = torch.einsum("bij,bkj->bki", sample.easy_affine[:, :, :2].float(), crop)
    places = places + sample.easy_affine[:, None, :, 2].float()
    return places, trust * (trust >= weights.teacher_sure) * told.heard(mass)


class _Told(NamedTuple):
    """What a teacher and the answers say about B persons, with left and right as in the hard view.

    Attributes:
        logits: (B, K, h w) the teacher's CAMs.
        evidence: (B, K, h w) nats, log-likelihood of the answers if the joint is in a cell.
        there: (B, K) whether an answer or, without one, the teacher says that the joint is present.
        telling: (B, K) whether the teacher's maps differ between persons, i.e. it has not collapsed.
    """

    logits: Tensor
    evidence: Tensor
    there: Tensor
    telling: Tensor

    def heard(self, mass: Tensor) -> Tensor:
        """(B, K) whether a joint is learned at all, given its mass (B, K, h w)."""
        at_peak = self.evidence.gather(2, mass.argmax(dim=2, keepdim=True))[..., 0]
        return self.there & self.telling & (at_peak > _PART_OF_A_CELL)


def _told(easy: PoseOutput, sample: TagSample, mirror: Tensor, stride: float, weights: Loss) -> _Told:
    logits = named_alike(easy.cams.float(), sample.affine, mirror)
    seen = named_alike(easy.presence.float(), sample.affine, mirror).sigmoid() > SURE
    # Before exchanging left and right: a collapsed teacher would seem to vary in a half mirrored batch.
    telling = _mutual_information(easy.cams.float().flatten(2).softmax(dim=2)) > _TELLING
    telling = named_alike(telling.expand(len(logits), -1), sample.affine, mirror)
    shape = (FINER * logits.shape[2], FINER * logits.shape[3])
    masks, covered = region_masks(sample.regions, sample.easy_affine, shape, stride / FINER)
    yes, no = judged_answers(sample.answers, masks, covered)
    evidence = answer_evidence(masks, yes, no, weights.tag_mistakes)
    evidence = evidence_in_cells(evidence, logits.shape[2:]).flatten(2)
    told_yes, told_no = yes.any(dim=1), (no & sample.whole[..., None]).any(dim=1)
    return _Told(logits.flatten(2), evidence, told_yes | (seen & ~told_no), telling)


def mass_around_peak(mass: Tensor, shape: torch.Size, sigma_cells: float) -> Tensor:
    """The maps' mass (B, K, h w), set to 0 beyond two standard deviations from the peak."""
    at = _cells(shape, mass.device)
    peak = at[mass.argmax(dim=2)]  # (B, K, 2)
    near = ((at - peak[:, :, None]) ** 2).sum(dim=3) <= (_AROUND * sigma_cells) ** 2
    return mass * near


def _cells(shape: torch.Size, device: torch.device) -> Tensor:
    """(h w, 2) column and row of every cell of a map (h, w)."""
    y, x = torch.meshgrid(*(torch.arange(n, device=device) for n in shape), indexing="ij")
    return torch.stack([x, y], dim=2).flatten(0, 1).float()


def named_alike(values: Tensor, affine: Tensor, mirror: Tensor) -> Tensor:
    """The easy view's values (B, K, ...), with left and right exchanged where the hard view is mirrored."""
    mirrored = torch.linalg.det(affine[:, :, :2].float()) < 0
    return torch.where(mirrored.view(-1, *[1] * (values.dim() - 1)), values[:, mirror], values)


def _mutual_information(places: Tensor) -> Tensor:
    """(K,) nats, mutual information of the person and the joint's place; places (B, K, cells) sum to 1."""
    return _entropy(places.mean(dim=0)) - _entropy(places).mean(dim=0)


def _entropy(p: Tensor) -> Tensor:
    return -(p * p.clamp_min(1e-12).log()).sum(dim=-1)


def _cells_of_easy(sample: TagSample) -> Tensor:
    """(B,) area of one of the hard view's cells, in cells of the easy view."""
    ours, theirs = (
        torch.linalg.det(affine[:, :, :2].float()).abs() for affine in (sample.affine, sample.easy_affine)
    )
    return ours / theirs


def _sampling_grid(to: Tensor, from_: Tensor, size: torch.Size, shape: torch.Size) -> Tensor:
    """Where the cells of one view's map are in another view, for grid_sample: (B, h, w, 2), -1 to 1 inside.

    Args:
        to, from_: (B, 2, 3) crop to image pixels, of the view that is filled and of the one that is sampled.
        size: crop height and width of both.
        shape: map height and width of both.
    """
    x, y = (
        (torch.arange(n, device=to.device) + 0.5) * (extent / n)
        for n, extent in zip(shape[::-1], size[::-1], strict=True)
    )
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)  # (h, w, 2) crop pixels
    image = torch.einsum("bij,hwj->bhwi", to[:, :, :2].float(), centres) + to[:, None, None, :, 2].float()
    inverse = torch.linalg.inv(from_[:, :, :2].float())
    other = torch.einsum("bij,bhwj->bhwi", inverse, image - from_[:, None, None, :, 2].float())
    return other / torch.tensor(size[::-1], device=to.device) * 2 - 1
