"""The supervised loss, against what it is said to be."""

from __future__ import annotations

import math

import pytest
import torch

from lfpose_edge.train.losses import gaussian_maps, supervised_loss
from lfpose_edge.train.networks import PoseOutput
from lfpose_edge.train.recipe import Loss


def test_the_gaussian_peaks_at_the_joint_with_height_one() -> None:
    # Cell (row 2, column 5) of stride 4 is centred at pixel (22, 10).
    maps = gaussian_maps(torch.tensor([[[22.0, 10.0]]]), (8, 12), 4.0, 1.5)
    assert maps.shape == (1, 1, 8, 12)
    assert maps[0, 0, 2, 5] == pytest.approx(1.0)
    assert maps[0, 0, 2, 6] == pytest.approx(math.exp(-1 / (2 * 1.5**2)))


def _loss(cams: torch.Tensor, joints: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    presence = torch.zeros(cams.shape[:2])
    return supervised_loss(
        PoseOutput(cams, presence), joints, labelled, 4.0, Loss(heatmap=0, presence=0)
    ).total


def test_location_loss_is_the_entropy_of_the_target_when_the_map_is_right() -> None:
    joints = torch.tensor([[[20.0, 20.0]]])
    target = gaussian_maps(joints, (12, 12), 4.0, 1.5)
    probability = target / target.sum()
    entropy = -(probability * probability.clamp_min(1e-30).log()).sum()
    right = _loss(target.clamp_min(1e-30).log(), joints, torch.ones(1, 1, dtype=torch.bool))
    assert right.item() == pytest.approx(entropy.item(), rel=1e-4)
    flat = _loss(torch.zeros(1, 1, 12, 12), joints, torch.ones(1, 1, dtype=torch.bool))
    assert flat.item() == pytest.approx(math.log(144), rel=1e-4)


def test_an_unlabelled_joint_has_no_location_loss_but_wants_an_empty_map() -> None:
    cams = torch.randn(1, 1, 6, 6, requires_grad=True)
    unlabelled = torch.zeros(1, 1, dtype=torch.bool)
    terms = supervised_loss(
        PoseOutput(cams, torch.zeros(1, 1)), torch.zeros(1, 1, 2), unlabelled, 4.0, Loss()
    )
    assert terms.location == 0
    terms.heatmap.backward()
    assert (cams.grad > 0).all()  # every logit is pushed down


def test_a_batch_without_any_label_is_finite() -> None:
    terms = supervised_loss(
        PoseOutput(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)),
        torch.zeros(2, 3, 2),
        torch.zeros(2, 3, dtype=torch.bool),
        4.0,
        Loss(),
    )
    assert torch.isfinite(terms.total)
    assert terms.presence.item() == pytest.approx(math.log(2), rel=1e-5)
