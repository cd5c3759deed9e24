"""Losses that need no label."""

from __future__ import annotations

import pytest
import torch

from lfpose_edge.train.losses import gaussian_maps
from lfpose_edge.train.map_losses import (
    agreement_loss,
    concentration_loss,
    contrast_loss,
    separation_loss,
    squared_hellinger,
)
from lfpose_edge.train.networks import PoseOutput
from lfpose_edge.train.networks.prototypes import Prototypes

HERE = torch.full((1, 2), 5.0)
JOINTS = torch.tensor([[[10.0, 10.0], [42.0, 22.0]]])


def _peaks(joints: torch.Tensor, cells: int, sigma: float = 1.5) -> torch.Tensor:
    return 12 * gaussian_maps(joints, (cells, cells), 64 / cells, sigma)


def test_the_hellinger_distance_is_0_for_equals_and_1_without_overlap() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert squared_hellinger(p, p).item() == pytest.approx(0, abs=1e-4)
    assert squared_hellinger(p, q).item() == pytest.approx(1, abs=1e-4)


def test_coarse_and_fine_maps_agree_when_they_say_the_same() -> None:
    fine = _peaks(JOINTS, 16)
    probabilities = fine.flatten(2).softmax(dim=2).view_as(fine)
    same = torch.nn.functional.avg_pool2d(probabilities, 4).log()
    other = same.roll(2, dims=3)
    assert agreement_loss(PoseOutput(fine, HERE, (same,)), 0.5).item() == pytest.approx(0, abs=1e-4)
    half = agreement_loss(PoseOutput(fine, HERE, (same, other)), 0.5).item()
    assert half == pytest.approx(agreement_loss(PoseOutput(fine, HERE, (other,)), 0.5).item() / 2)
    assert half > 0.2


def test_agreement_is_asked_of_joints_that_are_there() -> None:
    fine, coarse = _peaks(JOINTS, 16), _peaks(JOINTS, 4)
    coarse[:, 1] = coarse[:, 1].roll(2, dims=2)  # only the second disagrees
    both = agreement_loss(PoseOutput(fine, HERE, (coarse,)), 0.5)
    first = agreement_loss(PoseOutput(fine, torch.tensor([[5.0, -5.0]]), (coarse,)), 0.5)
    assert first < 0.6 * both


@pytest.mark.parametrize(
    ("progress", "pupil"), [(0.0, "fine"), (0.3, "fine"), (0.34, "coarse"), (1.0, "coarse")]
)
def test_the_coarse_maps_teach_first_and_then_the_fine_ones(progress: float, pupil: str) -> None:
    maps = {"fine": _peaks(JOINTS, 16).requires_grad_(), "coarse": _peaks(JOINTS + 8, 4).requires_grad_()}
    agreement_loss(PoseOutput(maps["fine"], HERE, (maps["coarse"],)), progress).backward()
    assert [name for name, cams in maps.items() if cams.grad is not None] == [pupil]


def test_concentration_is_the_variance_of_the_mass() -> None:
    cams = torch.full((1, 2, 11, 11), -100.0)
    cams[0, 0, 5, 5] = 0.0  # one cell
    cams[0, 1, 2, [0, 10]] = 0.0  # two cells, one side of the map apart
    assert concentration_loss(PoseOutput(cams, HERE)).item() == pytest.approx((0 + 0.25) / 2, abs=1e-6)
    first_only = torch.tensor([[5.0, -5.0]])
    assert concentration_loss(PoseOutput(cams, first_only)).item() == pytest.approx(0, abs=1e-6)


def test_concentration_counts_what_is_above_as_what_is_beside() -> None:
    cams = torch.full((1, 2, 11, 11), -100.0)
    cams[0, :, [0, 10], 2] = 0.0
    assert concentration_loss(PoseOutput(cams, HERE)).item() == pytest.approx(0.25, abs=1e-6)


def test_separation_is_the_overlap_of_pairs_that_are_there() -> None:
    cams = torch.full((2, 3, 8, 8), -100.0)
    cams[:, 0, 2, 2] = cams[:, 1, 2, [2, 3]] = cams[:, 2, 6, 6] = 0.0
    everybody = torch.full((2, 3), 5.0)
    overlap = 0.5**0.5  # of the first two: all of one, half of the other; the third is apart
    assert separation_loss(PoseOutput(cams, everybody)).item() == pytest.approx(overlap / 3, abs=1e-6)
    everybody[0, 2] = everybody[1, 0] = -5.0  # one pair is left in each person
    assert separation_loss(PoseOutput(cams, everybody)).item() == pytest.approx(overlap / 2, abs=1e-6)
    nobody = PoseOutput(cams.requires_grad_(), torch.full((2, 3), -5.0))
    separation_loss(nobody).backward()
    assert not cams.grad.any()


def _contrast(memory: torch.Tensor, swapped: bool = False, presence: torch.Tensor = HERE) -> torch.Tensor:
    """A context whose cells at the two joints' peaks are (1, 0) and (0, 1)."""
    context = torch.zeros(1, 2, 8, 8)
    context[0, :, 1, 1], context[0, :, 2, 5] = torch.eye(2)
    cams = _peaks(JOINTS.flip(1) if swapped else JOINTS, 16)
    prototypes = Prototypes(context, torch.zeros(1, 2, 2), memory)
    return contrast_loss(PoseOutput(cams, presence, (), prototypes))


def test_contrast_tells_prototypes_apart() -> None:
    assert _contrast(torch.eye(2)).item() == pytest.approx(0, abs=1e-3)
    assert _contrast(torch.eye(2), swapped=True).item() == pytest.approx(10, abs=1e-3)  # 1 / temperature


def test_contrast_asks_nothing_of_joints_that_the_memory_or_the_person_lacks() -> None:
    empty = torch.zeros(2, 2)
    assert _contrast(empty, swapped=True).item() == 0
    first = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert _contrast(first, swapped=True).item() == pytest.approx(0)  # nothing to be mistaken for
    assert _contrast(torch.eye(2), swapped=True, presence=-HERE).item() == 0
