"""The supervised loss, compared with its definition."""

from __future__ import annotations

import math

import pytest
import torch

from lfpose_edge.train.data.crops import Sample
from lfpose_edge.train.losses import (
    gaussian_maps,
    location_costs,
    supervised_loss,
    swap_posterior,
    target_maps,
    to_distribution,
)
from lfpose_edge.train.networks import PoseOutput
from lfpose_edge.train.recipe import Loss

ONE_JOINT = torch.tensor([0])
NOSE_AND_HANDS = torch.tensor([0, 2, 1])  # the mirror of: nose, left hand, right hand


def test_the_gaussian_peaks_at_the_joint_with_height_one() -> None:
    # Cell (row 2, column 5) of stride 4 is centred at pixel (22, 10).
    maps = gaussian_maps(torch.tensor([[[22.0, 10.0]]]), (8, 12), 4.0, 1.5)
    assert maps.shape == (1, 1, 8, 12)
    assert maps[0, 0, 2, 5] == pytest.approx(1.0)
    assert maps[0, 0, 2, 6] == pytest.approx(math.exp(-1 / (2 * 1.5**2)))


def _sample(joints: torch.Tensor, labelled: torch.Tensor, known: torch.Tensor | None = None) -> Sample:
    crops = torch.zeros(len(joints), 3, 48, 48, dtype=torch.uint8)
    return Sample(crops, joints, labelled, torch.ones_like(labelled) if known is None else known)


def _loss(cams: torch.Tensor, joints: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    output = PoseOutput(cams, torch.zeros(cams.shape[:2]))
    weights = Loss(sigma_cells=1.5, heatmap=0, presence=0)
    return supervised_loss(output, _sample(joints, labelled), ONE_JOINT, 4.0, weights).total


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
    absent = _sample(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.bool))
    terms = supervised_loss(PoseOutput(cams, torch.zeros(1, 1)), absent, ONE_JOINT, 4.0, Loss())
    assert terms.location == 0
    terms.heatmap.backward()
    assert (cams.grad > 0).all()  # every logit is pushed down


@pytest.mark.parametrize("swap_rate", [0.0, 0.07])
@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_a_joint_of_which_nothing_is_known_teaches_nothing(unknown: int, swap_rate: float) -> None:
    labelled = torch.ones(1, 3, dtype=torch.bool)
    labelled[0, unknown] = False
    cams = torch.randn(1, 3, 12, 12, requires_grad=True)
    presence = torch.zeros(1, 3, requires_grad=True)
    output = PoseOutput(cams, presence)
    sample = _sample(JOINTS, labelled, labelled)
    weights = Loss(sigma_cells=1.5, swap_rate=swap_rate)
    supervised_loss(output, sample, NOSE_AND_HANDS, 4.0, weights).total.backward()
    if not swap_rate:  # else a label may be the mirror joint's, and teach it
        taught = cams.grad.abs().sum(dim=(2, 3))[0] > 0
        assert taught.tolist() == labelled[0].tolist()
    # Where labels may be exchanged, one could be the mirror joint's: a pair is judged together.
    witnesses = [[k, int(NOSE_AND_HANDS[k])] if swap_rate else [k] for k in range(3)]
    judged = [bool(labelled[0, joints].all()) for joints in witnesses]
    assert (presence.grad[0] != 0).tolist() == judged


def test_a_batch_without_any_label_is_finite() -> None:
    terms = supervised_loss(
        PoseOutput(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)),
        _sample(torch.zeros(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool)),
        NOSE_AND_HANDS,
        4.0,
        Loss(swap_rate=0.1),
    )
    assert torch.isfinite(terms.total)
    assert terms.presence.item() == pytest.approx(math.log(2), rel=1e-5)


def _sure(joints: torch.Tensor, sharpness: float = 8.0) -> torch.Tensor:
    """CAMs (B, K, 12, 12) of a network that is sure of these joints."""
    return sharpness * gaussian_maps(joints, (12, 12), 4.0, 1.5)


JOINTS = torch.tensor([[[24.0, 8.0], [8.0, 24.0], [40.0, 24.0]]])
LABELLED = torch.ones(1, 3, dtype=torch.bool)
DOUBTFUL = Loss(sigma_cells=1.5, swap_rate=0.1, heatmap=0, presence=0)


@pytest.mark.parametrize(
    ("seen", "low", "high"),
    [
        pytest.param(_sure(JOINTS), 0.0, 0.01, id="the network agrees with the label"),
        pytest.param(_sure(JOINTS[:, NOSE_AND_HANDS]), 0.9, 1.0, id="the network sees it mirrored"),
        pytest.param(torch.zeros(1, 3, 12, 12), 0.0999, 0.1001, id="no evidence leaves the prior"),
    ],
)
def test_the_label_is_doubted_when_the_network_is_sure_of_the_opposite(
    seen: torch.Tensor, low: float, high: float
) -> None:
    target = target_maps(JOINTS, LABELLED, seen, 4.0, 6.0)
    posterior = swap_posterior(seen, target, NOSE_AND_HANDS, DOUBTFUL)
    assert posterior.shape == (1,)
    assert low <= posterior.item() <= high
    assert swap_posterior(seen, target, NOSE_AND_HANDS, Loss()).tolist() == [0.0]


@pytest.mark.parametrize("trust", [1.0, 4.0])
def test_the_evidence_is_a_mean_over_labelled_joints_times_the_trust(trust: float) -> None:
    labelled = torch.tensor([[False, True, True]])
    seen = 0.5 * _sure(JOINTS[:, NOSE_AND_HANDS], 1.0)
    target = target_maps(JOINTS, labelled, seen, 4.0, 6.0)
    places = to_distribution(target)
    gain = location_costs(seen, places - places[:, NOSE_AND_HANDS]).sum() / 2
    weights = Loss(sigma_cells=1.5, swap_rate=0.1, swap_trust=trust)
    posterior = swap_posterior(seen, target, NOSE_AND_HANDS, weights)
    torch.testing.assert_close(posterior[0], torch.sigmoid(math.log(1 / 9) + trust * gain))


def _location(cams: torch.Tensor, labelled: torch.Tensor, weights: Loss) -> torch.Tensor:
    output = PoseOutput(cams, torch.zeros(1, 3))
    return supervised_loss(output, _sample(JOINTS, labelled), NOSE_AND_HANDS, 4.0, weights).location


def test_a_doubted_label_costs_little_and_a_trusted_one_what_it_did() -> None:
    trusting = Loss(sigma_cells=1.5, heatmap=0, presence=0)
    mirrored = _sure(JOINTS[:, NOSE_AND_HANDS])
    assert _location(mirrored, LABELLED, DOUBTFUL) < 0.65 * _location(mirrored, LABELLED, trusting)
    agreeing = _sure(JOINTS)
    ours, theirs = (_location(agreeing, LABELLED, w).item() for w in (DOUBTFUL, trusting))
    assert ours == pytest.approx(theirs, rel=0.01)


def test_a_joint_whose_mirror_is_unlabelled_is_moved_only_as_far_as_the_label_is_doubted() -> None:
    # Only the left hand is labelled: the right hand's map may learn from it with the weight of the doubt.
    labelled = torch.tensor([[False, True, False]])
    cams = torch.zeros(1, 3, 12, 12, requires_grad=True)
    _location(cams, labelled, DOUBTFUL).backward()
    nose, left, right = cams.grad.abs().sum(dim=(2, 3))[0].tolist()
    assert nose == 0
    assert right == pytest.approx(left / 9, rel=1e-3)  # 0.1 against 0.9


def test_coarse_cams_are_trained_too() -> None:
    coarse = torch.zeros(1, 3, 3, 3, requires_grad=True)
    output = PoseOutput(torch.zeros(1, 3, 12, 12), torch.zeros(1, 3), (coarse,))
    weights = Loss(sigma_cells=1.5, coarse=0.5, heatmap=0, presence=0)
    terms = supervised_loss(output, _sample(JOINTS, LABELLED), NOSE_AND_HANDS, 4.0, weights)
    assert terms.total.item() == pytest.approx(terms.location.item() + 0.5 * math.log(9), rel=1e-4)
    terms.total.backward()
    # The nose is at (24, 8), in the top row's middle cell: that logit is pushed up most.
    assert coarse.grad[0, 0].argmin() == 1


def test_several_coarse_maps_count_on_average_at_their_own_stride_with_the_labels_doubt() -> None:
    weights = Loss(sigma_cells=1.5, coarse=0.5, location=0, heatmap=0, presence=0, swap_rate=0.3)
    generator = torch.Generator().manual_seed(0)
    cams = _sure(JOINTS[:, NOSE_AND_HANDS])
    coarse = {16.0: torch.randn(1, 3, 3, 3, generator=generator)}
    coarse[8.0] = torch.randn(1, 3, 6, 6, generator=generator)
    output = PoseOutput(cams, torch.zeros(1, 3), tuple(coarse.values()))
    total = supervised_loss(output, _sample(JOINTS, LABELLED), NOSE_AND_HANDS, 4.0, weights).total
    doubt = swap_posterior(cams, target_maps(JOINTS, LABELLED, cams, 4.0, 6.0), NOSE_AND_HANDS, weights)
    expected = torch.zeros(())
    for stride, maps in coarse.items():
        places = to_distribution(target_maps(JOINTS, LABELLED, maps, stride, 6.0))  # as wide in pixels
        believed = torch.lerp(places, places[:, NOSE_AND_HANDS], doubt)
        expected = expected + location_costs(maps, believed).mean() / 2
    torch.testing.assert_close(total, 0.5 * expected)


def test_the_terms_are_means_over_the_joints_that_they_judge() -> None:
    labelled = torch.tensor([[True, True, False]])
    output = PoseOutput(torch.zeros(1, 3, 12, 12), torch.zeros(1, 3))
    weights = Loss(sigma_cells=1.5, heatmap=1, presence=0)
    terms = supervised_loss(output, _sample(JOINTS, labelled), NOSE_AND_HANDS, 4.0, weights)
    assert terms.location.item() == pytest.approx(math.log(144), rel=1e-4)  # of two labelled joints
    assert terms.heatmap.item() == pytest.approx(144 * math.log(2), rel=1e-4)  # of three known ones


def test_the_labels_doubt_reaches_presence_and_the_maps_level() -> None:
    labelled = torch.tensor([[True, True, False]])  # the right hand is not: or it is the left that is not
    cams = torch.zeros(1, 3, 12, 12, requires_grad=True)
    presence = torch.zeros(1, 3, requires_grad=True)
    weights = Loss(sigma_cells=1.5, swap_rate=0.1, location=0, heatmap=1, presence=1)
    sample = _sample(JOINTS, labelled)
    supervised_loss(PoseOutput(cams, presence), sample, NOSE_AND_HANDS, 4.0, weights).total.backward()
    torch.testing.assert_close(3 * presence.grad[0], 0.5 - torch.tensor([1.0, 0.9, 0.1]))
    at = gaussian_maps(JOINTS[:, 1:2], (12, 12), 4.0, 1.5)[0, 0]  # the label of the left hand
    torch.testing.assert_close(3 * cams.grad[0, 1], 0.5 - 0.9 * at)
    torch.testing.assert_close(3 * cams.grad[0, 2], 0.5 - 0.1 * at)
