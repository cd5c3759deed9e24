"""Answers about regions: which cells they speak of in a turned crop, and what they ask of the maps there."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from lfpose_edge.errors import SourceError
from lfpose_edge.geometry import crop_affines
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data.crops import CropView
from lfpose_edge.train.data.tagged_crops import TaggedCrops, TagSample
from lfpose_edge.train.data.tags import NO, OPEN, YES, Tags
from lfpose_edge.train.networks import PoseOutput
from lfpose_edge.train.recipe import Augment, Loss
from lfpose_edge.train.tag_losses import (
    answer_evidence,
    class_balance,
    evidence_in_cells,
    judged_answers,
    parts_in_cells,
    place_costs,
    presence_costs,
    region_masks,
    tag_loss,
)

BOX = np.array([[20.0, 30.0, 84.0, 94.0]])


@pytest.mark.parametrize("rotation", [0.0, 33.0, 180.0])
@pytest.mark.parametrize("flip", [False, True])
def test_masks_are_the_cells_whose_centres_lie_in_the_region(rotation: float, flip: bool) -> None:
    affine = crop_affines(BOX, (32, 48), padding=1.25, rotation_deg=rotation, flip=flip)
    region = np.array([30.0, 40.0, 60.0, 90.0])
    masks, covered = region_masks(
        torch.tensor(region).view(1, 1, 4), torch.from_numpy(affine), (8, 12), stride=4.0
    )
    for i in range(8):
        for j in range(12):
            x, y = affine[0] @ ((j + 0.5) * 4, (i + 0.5) * 4, 1)
            assert masks[0, 0, i, j] == (region[0] <= x < region[2] and region[1] <= y < region[3])
    assert covered.item() == 1


def test_a_region_that_the_crop_cuts_can_only_be_denied() -> None:
    affine = torch.from_numpy(crop_affines(BOX, (32, 32), padding=1.0))
    whole, half, away = BOX[0], [52.0, 30.0, 116.0, 94.0], [200.0, 0.0, 240.0, 40.0]
    regions = torch.tensor(np.array([[whole, half, away]]))
    masks, covered = region_masks(regions, affine, (8, 8), stride=4.0)
    np.testing.assert_allclose(covered[0], [1.0, 0.5, 0.0], atol=1e-6)
    answers = torch.tensor([[[YES, NO, OPEN]] * 3], dtype=torch.int8).view(1, 3, 3)
    yes, no = judged_answers(answers, masks, covered)
    assert yes[0].tolist() == [[True, False, False], [False] * 3, [False] * 3]
    assert no[0].tolist() == [[False, True, False], [False, True, False], [False] * 3]


def test_a_yes_counts_of_a_region_that_lost_next_to_nothing_to_the_crop() -> None:
    covered = torch.tensor([[1.0, 0.91, 0.89, 0.8, 0.0]])
    masks = torch.ones(1, 5, 2, 2, dtype=torch.bool)
    yes, no = judged_answers(torch.full((1, 5, 1), YES, dtype=torch.int8), masks, covered)
    assert yes.flatten().tolist() == [True, True, False, False, False]
    assert not no.any()


def _case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    cams = torch.randn(2, 3, 4, 5, generator=generator)
    masks = torch.rand(2, 6, 4, 5, generator=generator) < 0.4
    masks[:, 5] = False
    yes = torch.rand(2, 6, 3, generator=generator) < 0.5
    yes[:, 5] = False
    return cams, masks, yes, ~yes & (torch.arange(6) < 5).view(1, 6, 1)


def test_evidence_counts_contradictions() -> None:
    _, masks, yes, no = _case()
    evidence = answer_evidence(masks, yes, no, 0.1)
    for b, k in np.ndindex(2, 3):
        for y, x in np.ndindex(4, 5):
            wrong = sum(
                bool((yes[b, r, k] and not masks[b, r, y, x]) or (no[b, r, k] and masks[b, r, y, x]))
                for r in range(6)
            )
            assert evidence[b, k, y, x].item() == pytest.approx(-wrong * np.log(9), abs=1e-5)


def test_the_cost_of_a_place_is_the_likelihood_of_the_answers() -> None:
    cams, masks, yes, no = _case()
    costs = place_costs(cams, answer_evidence(masks, yes, no, 1e-9))
    places = cams.flatten(2).softmax(dim=2).view_as(cams)
    judged = 0
    for b, k in np.ndindex(2, 3):
        left = torch.ones(4, 5, dtype=torch.bool)
        for r in range(6):
            left &= torch.where(yes[b, r, k], masks[b, r], True) & torch.where(
                no[b, r, k], ~masks[b, r], True
            )
        if left.any():
            judged += 1
            assert costs[b, k].item() == pytest.approx(-places[b, k][left].sum().log().item(), abs=1e-3)
    assert judged
    nothing = torch.zeros_like(yes)
    assert place_costs(cams, answer_evidence(masks, nothing, nothing, 0.02)).abs().max() < 1e-5


def test_a_wrong_answer_is_outvoted_and_costs_what_a_mistake_costs() -> None:
    cams = torch.full((1, 1, 4, 4), -50.0)
    cams[0, 0, 1, 1] = 0.0
    masks = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    masks[0, :2, :2, :2] = True
    masks[0, 2, 3, 3] = True
    yes = torch.tensor([True, True, True]).view(1, 3, 1)  # two regions hold the peak, the third does not
    evidence = answer_evidence(masks, yes, ~yes, 0.02)
    assert place_costs(cams, evidence).item() == pytest.approx(np.log(0.98 / 0.02), abs=1e-4)


def test_presence_is_the_log_mean_exp_over_the_region() -> None:
    cams, masks, yes, no = _case()
    costs = presence_costs(cams, masks.float(), yes, no, sharpness=3.0)
    assert torch.isfinite(costs).all()
    for b, r, k in np.ndindex(2, 5, 3):
        pooled = (3 * cams[b, k][masks[b, r]]).exp().mean().log() / 3
        expected = torch.nn.functional.softplus(-pooled if yes[b, r, k] else pooled)
        assert costs[b, r, k].item() == pytest.approx(expected.item(), abs=1e-5)
    assert (costs[:, 5] == 0).all()  # an empty region has no answers


def test_answers_about_tiles_alone_put_the_peak_where_the_joint_is() -> None:
    """The maps themselves are learned, for a joint at (10, 50) of 64 x 64, from 40 answers about tiles."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (40, 2))
    regions = np.concatenate([corner, corner + rng.uniform(10, 24, (40, 2))], axis=1)
    inside = ((regions[:, :2] <= (10, 50)) & (regions[:, 2:] > (10, 50))).all(axis=1)
    assert 1 <= inside.sum() < 20
    affine = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    masks, covered = region_masks(torch.tensor(regions)[None].float(), affine, (16, 16), stride=4.0)
    answers = torch.from_numpy(np.where(inside, YES, NO).astype(np.int8)).view(1, 40, 1)
    yes, no = judged_answers(answers, masks, covered)
    cams = torch.zeros(1, 1, 16, 16, requires_grad=True)
    optimizer = torch.optim.Adam([cams], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        place_costs(cams, answer_evidence(masks, yes, no, 0.02)).sum().backward()
        optimizer.step()
    mass = cams.detach().flatten().softmax(dim=0).view(16, 16)
    y, x = np.indices((16, 16)) * 4 + 2
    assert float((mass * torch.from_numpy(x)).sum()) == pytest.approx(10, abs=5)
    assert float((mass * torch.from_numpy(y)).sum()) == pytest.approx(50, abs=5)


def test_coarse_cells_know_what_their_parts_do() -> None:
    """A tile between the centres of coarse cells: by centres it would be nowhere, and every cell wrong."""
    affine = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    region = torch.tensor([[[17.0, 17.0, 47.0, 31.0]]])
    masks, covered = region_masks(region, affine, (16, 16), stride=4.0)
    yes = torch.ones(1, 1, 1, dtype=torch.bool)
    fine = answer_evidence(masks, yes, ~yes, 0.02)
    coarse = evidence_in_cells(fine, torch.Size((2, 2)))
    likelihood = fine.exp().view(2, 8, 2, 8).mean(dim=(1, 3))
    torch.testing.assert_close(coarse[0, 0].exp(), likelihood)
    assert (coarse[0, 0, 0] > coarse[0, 0, 1] + 2).all()  # the tile is in the upper half
    parts = parts_in_cells(masks, torch.Size((2, 2)))
    torch.testing.assert_close(parts[0, 0], masks[0, 0].float().view(2, 8, 2, 8).mean(dim=(1, 3)))
    assert covered.item() == 1


def test_a_part_of_a_cell_counts_as_such_in_the_level() -> None:
    cams = torch.tensor([2.0, -1.0]).view(1, 1, 1, 2)
    parts = torch.tensor([0.25, 1.0]).view(1, 1, 1, 2)
    yes = torch.ones(1, 1, 1, dtype=torch.bool)
    pooled = np.log((0.25 * np.exp(3 * 2.0) + np.exp(3 * -1.0)) / 1.25) / 3
    costs = presence_costs(cams, parts, yes, ~yes, sharpness=3.0)
    assert costs.item() == pytest.approx(np.log1p(np.exp(-pooled)), abs=1e-5)


def test_the_rarer_answer_counts_as_much_as_the_other() -> None:
    yes = torch.tensor([True, False, False, False]).view(1, 4, 1)
    no = torch.tensor([False, True, True, False]).view(1, 4, 1)
    balance = class_balance(torch.tensor([[0.2]]), yes, no)
    np.testing.assert_allclose(balance.flatten(), [1.6, 0.4, 0.4, 0])
    assert class_balance(torch.tensor([[0.0]]), yes, no)[0, 0, 0] == pytest.approx(1.9)  # never by all


def _told(answers: list[list[int]], whole: list[bool]) -> TagSample:
    """One person of 64 x 64 pixels with three joints; the second region is its left half."""
    regions = torch.tensor([[[0.0, 0.0, 64.0, 64.0], [0.0, 0.0, 32.0, 64.0]]])
    affine = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    return TagSample(
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        affine,
        regions,
        torch.tensor([whole]),
        torch.tensor([answers], dtype=torch.int8),
        torch.full((1, 3), 0.5),
        torch.zeros(1, 0),
        affine,
    )


def test_the_loss_of_answers_term_by_term() -> None:
    sample = _told([[YES, YES, NO], [YES, NO, OPEN]], [True, False])
    mirror, weights = torch.arange(3), Loss(presence=0.5, tag_location=2, tag_level=0, coarse=0.4)
    presence = torch.tensor([[0.0, 2.0, 1.0]])
    cams, coarse = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 2, 2)
    terms = tag_loss(PoseOutput(cams, presence, (coarse,)), sample, mirror, 4.0, weights)
    half = -np.log(0.5 + 0.5 * 0.02 / 0.98)  # of the mass is where one answer is contradicted
    assert terms.location.item() == pytest.approx(half, abs=1e-4)  # of the first two; the third is not there
    told = np.log1p(np.exp([-0.0, -2.0, 1.0])).mean()  # the third was denied in the whole box
    assert terms.presence.item() == pytest.approx(told, abs=1e-5)
    assert terms.total.item() == pytest.approx(2 * (half + 0.4 * half) + 0.5 * told, abs=1e-4)

    part = tag_loss(
        PoseOutput(cams, presence), sample._replace(whole=torch.zeros(1, 2) > 0), mirror, 4.0, weights
    )
    two = np.log1p(np.exp([-0.0, -2.0])).mean()  # that a part lacks a joint does not say that the person does
    assert part.presence.item() == pytest.approx(two, abs=1e-5)

    level = Loss(presence=0, tag_location=0, tag_level=1, coarse=0.5)
    terms = tag_loss(PoseOutput(cams, presence, (coarse, coarse)), sample, mirror, 4.0, level)
    assert terms.heatmap.item() == pytest.approx(np.log(2), abs=1e-5)
    assert terms.total.item() == pytest.approx(1.5 * np.log(2), abs=1e-5)


@pytest.fixture
def sheet(tmp_path: Path) -> Tags:
    rng = np.random.default_rng(1)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (100, 120, 3), np.uint8))
    persons = np.array([7, 7, 3])
    answers = rng.integers(-1, 2, (3, len(LSP14))).astype(np.int8)
    regions = np.array([[20, 30, 84, 94], [30, 40, 60, 70], [10, 10, 90, 90.0]])
    return Tags(persons, ["a.png", "a.png", "b.png"], regions[[0, 0, 2]], regions, answers, LSP14)


def test_a_tagged_crop_brings_its_regions_and_answers(sheet: Tags, tmp_path: Path) -> None:
    crops = TaggedCrops(sheet, tmp_path, CropView((32, 32), 1.25))
    assert len(crops) == 2
    first, second = crops[0], crops[1]
    assert first.crop.shape == (3, 32, 32)
    assert first.answers.tolist() == sheet.answers[:2].tolist()
    np.testing.assert_allclose(first.regions, sheet.regions[:2])
    assert second.answers[1].tolist() == [OPEN] * len(LSP14)  # filled up to the most that a person has
    masks, _ = region_masks(second.regions[None], second.affine[None], (8, 8), 4.0)
    assert not masks[0, 1].any()


def test_a_mirrored_crop_exchanges_left_and_right(sheet: Tags, tmp_path: Path) -> None:
    crops = TaggedCrops(sheet, tmp_path, CropView((32, 32), 1.25, Augment(flip=1.0)))
    assert crops[0].answers.tolist() == sheet.answers[:2][:, LSP14.flip_permutation].tolist()
    assert (crops[0].affine[0, 0] * crops[0].affine[1, 1]).item() < 0
    again, other = crops[0].crop, crops.with_view(seed=(1,))[0].crop
    assert torch.equal(crops[0].crop, again)
    assert not torch.equal(crops[0].crop, other)


def test_the_easy_view_is_the_plain_crop(sheet: Tags, tmp_path: Path) -> None:
    plain = TaggedCrops(sheet, tmp_path, CropView((32, 48), 1.25))[0]
    view = CropView((32, 48), 1.25, Augment(flip=1.0))
    sample = TaggedCrops(sheet, tmp_path, view, two_views=True)[0]
    assert torch.equal(sample.easy, plain.crop)
    torch.testing.assert_close(sample.easy_affine, plain.affine)
    assert not torch.equal(sample.crop, plain.crop)
    assert sample.whole.tolist() == [True, False]
    torch.testing.assert_close(sample.rates, plain.rates[LSP14.flip_permutation])


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [("tag_balance", True, False), ("tag_mistakes", 0.02, 0.2), ("tag_sharpness", 1.0, 6.0)],
)
def test_every_constant_of_the_tag_loss_counts(key: str, one: float, other: float) -> None:
    sample = _told([[YES, YES, NO], [YES, NO, OPEN]], [True, False])
    sample = sample._replace(rates=torch.full((1, 3), 0.2))
    cams = torch.linspace(-2, 2, 256).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    output = PoseOutput(cams, torch.zeros(1, 3))
    found = [
        tag_loss(output, sample, torch.arange(3), 4.0, Loss(presence=0, **{key: value})).total.item()
        for value in (one, other)
    ]
    assert found[0] != pytest.approx(found[1], abs=1e-4)


def test_a_missing_or_damaged_image_is_named(sheet: Tags, tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(SourceError, match=r"b\.png is damaged, or not an image"):
        TaggedCrops(sheet, tmp_path, CropView((32, 32), 1.25))[1]
    (tmp_path / "b.png").unlink()
    with pytest.raises(SourceError, match=r"not there: .*b\.png"):
        TaggedCrops(sheet, tmp_path, CropView((32, 32), 1.25))


def test_a_region_thinner_than_the_grid_costs_nothing_and_has_a_gradient() -> None:
    """As of a box at the frame's edge: one NaN would end a training."""
    cams = torch.randn(2, 3, 8, 8, requires_grad=True)
    parts = torch.zeros(2, 2, 8, 8)
    parts[:, 1, 2:5, 2:5] = 1
    yes = torch.ones(2, 2, 3, dtype=torch.bool)
    costs = presence_costs(cams, parts, yes, ~yes, 3.0)
    costs[:, 1].sum().backward()
    assert torch.isfinite(cams.grad).all()
    assert cams.grad.abs().max() > 0
    before = cams.grad.clone()
    presence_costs(cams, parts, yes, ~yes, 3.0).sum().backward()
    torch.testing.assert_close(cams.grad, 2 * before)  # nothing from the thin one
