"""Two views of a person: what one shows is found in the other, and a teacher is believed only with reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch

from lfpose_edge.geometry import apply_affine, crop_affines, invert_affine
from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.data.tags import NO, OPEN, YES
from lfpose_edge.train.losses import gaussian_maps
from lfpose_edge.train.networks import PoseOutput, build_network
from lfpose_edge.train.objective import Objective
from lfpose_edge.train.recipe import Loss, Recipe
from lfpose_edge.train.view_losses import (
    equivariance_loss,
    seen_mirrored_too,
    surest_turn,
    teacher_loss,
    teacher_maps,
    teacher_places,
)

MIRROR = torch.tensor([0, 2, 1])  # nose, left hand, right hand
BOX = np.array([[20.0, 30.0, 84.0, 94.0]])
WEIGHTS = Loss(sigma_cells=1.5, teacher_sure=0.5, tag_mistakes=1e-6)
MAPS = WEIGHTS.model_copy(update={"teacher_maps": 0.6})
TAUGHT = pytest.mark.parametrize("weights", [WEIGHTS, MAPS], ids=["places", "maps"])
SIZE, STRIDE, PERSONS = (64, 64), 4, 8
VIEWS = [
    pytest.param({}, id="same"),
    pytest.param({"rotation_deg": 40.0, "padding": 1.4}, id="turned and smaller"),
    pytest.param({"flip": True}, id="mirrored"),
    pytest.param({"flip": True, "rotation_deg": -25.0}, id="mirrored and turned"),
]


def _persons(hard: dict[str, object]) -> tuple[TagSample, np.ndarray]:
    """Eight persons of one box with joints at places of their own (8, 3, 2), and nothing answered."""
    hard_affine = torch.from_numpy(crop_affines(BOX, SIZE, **{"padding": 1.25, **hard})).float()
    easy_affine = torch.from_numpy(crop_affines(BOX, SIZE, padding=1.25)).float()
    joints = np.random.default_rng(0).uniform([36, 46], [58, 72], (PERSONS, 3, 2))
    sample = TagSample(
        crop=torch.zeros(PERSONS, 3, *SIZE, dtype=torch.uint8),
        affine=hard_affine.expand(PERSONS, -1, -1),
        regions=torch.zeros(PERSONS, 2, 4),
        whole=torch.zeros(PERSONS, 2, dtype=torch.bool),
        answers=torch.full((PERSONS, 2, 3), OPEN, dtype=torch.int8),
        rates=torch.full((PERSONS, 3), 0.5),
        easy=torch.zeros(PERSONS, 3, *SIZE, dtype=torch.uint8),
        easy_affine=easy_affine.expand(PERSONS, -1, -1),
    )
    return sample, joints


def _sees(joints: np.ndarray, affine: torch.Tensor, lift: float = 0.0) -> PoseOutput:
    """The output of a network that finds image points (8, 3, 2) in a view and is sure of their presence."""
    crop = np.stack(
        [apply_affine(invert_affine(a), p) for a, p in zip(affine.double().numpy(), joints, strict=True)]
    )
    cells = (SIZE[0] // STRIDE, SIZE[1] // STRIDE)
    cams = gaussian_maps(torch.from_numpy(crop).float(), cells, STRIDE, 1.5).clamp_min(1e-8).log() + lift
    return PoseOutput(cams.requires_grad_(), torch.full((PERSONS, 3), 5.0))


def _named_in_hard_view(joints: np.ndarray, sample: TagSample) -> np.ndarray:
    mirrored = torch.linalg.det(sample.affine[0, :, :2]) < 0
    return joints[:, MIRROR.numpy()] if mirrored else joints


@pytest.mark.parametrize("view", VIEWS)
def test_maps_that_follow_the_picture_are_equivariant_and_others_are_not(view: dict[str, object]) -> None:
    sample, joints = _persons(view)
    easy = _sees(joints, sample.easy_affine)
    follows = equivariance_loss(
        _sees(_named_in_hard_view(joints, sample), sample.affine), easy, sample, MIRROR
    ).item()
    elsewhere = equivariance_loss(
        _sees(_named_in_hard_view(joints, sample) + 20, sample.affine), easy, sample, MIRROR
    ).item()
    assert follows < 0.06
    assert elsewhere > 0.5


def test_oblong_crops_are_measured_along_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SIZE", (64, 96))
    sample, joints = _persons({"flip": True, "rotation_deg": -25.0})
    joints[..., 0] += 20  # out where only an oblong crop reaches
    expected = _named_in_hard_view(joints, sample)
    easy, hard = _sees(joints, sample.easy_affine), _sees(expected, sample.affine)
    assert equivariance_loss(hard, easy, sample, MIRROR).item() < 0.06
    assert equivariance_loss(_sees(expected + 20, sample.affine), easy, sample, MIRROR).item() > 0.3
    places, trust = teacher_places(easy, sample, MIRROR, STRIDE, WEIGHTS)
    np.testing.assert_allclose(places, expected, atol=1.0)
    assert (trust > 0.8).all()
    assert teacher_loss(hard, easy, sample, MIRROR, STRIDE, WEIGHTS).item() > 0.5  # nobody is left out


def test_a_hard_view_that_shows_more_is_judged() -> None:
    sample, joints = _persons({"padding": 2.0})
    easy = _sees(joints, sample.easy_affine)
    assert equivariance_loss(_sees(joints + 20, sample.affine), easy, sample, MIRROR).item() > 0.5


def test_a_joint_that_the_easy_view_cuts_off_is_not_judged() -> None:
    sample, joints = _persons({"padding": 2.5})
    outside = np.broadcast_to([112.0, 62.0], joints.shape)  # the easy view ends at 92
    hard, easy = _sees(outside, sample.affine), _sees(joints, sample.easy_affine)
    assert equivariance_loss(hard, easy, sample, MIRROR).item() == 0


@TAUGHT
def test_a_place_outside_of_the_hard_view_is_not_learned(weights: Loss) -> None:
    sample, joints = _persons({"padding": 0.5})
    outside = joints.copy()
    outside[..., 0] = 74.0 + np.arange(PERSONS)[:, None]  # the hard view ends at 68
    taught = _sees(outside, sample.easy_affine)
    assert (teacher_places(taught, sample, MIRROR, STRIDE, WEIGHTS)[1] > 0.5).all()
    hard = _sees(joints, sample.affine)
    assert teacher_loss(hard, taught, sample, MIRROR, STRIDE, weights).item() == 0


def test_equivariance_moves_both_views_towards_each_other() -> None:
    sample, joints = _persons({"rotation_deg": 20.0})
    hard, easy = _sees(joints + 4, sample.affine), _sees(joints, sample.easy_affine)
    equivariance_loss(hard, easy, sample, MIRROR).backward()
    assert hard.cams.grad.abs().max() > 0
    assert easy.cams.grad.abs().max() > 0


def test_nothing_is_asked_of_a_view_that_shows_another_part() -> None:
    sample, joints = _persons({})
    away = sample.easy_affine.clone()
    away[:, :, 2] += 500
    hard, easy = _sees(joints, sample.affine), _sees(joints, sample.easy_affine)
    assert equivariance_loss(hard, easy, sample._replace(easy_affine=away), MIRROR).item() == 0


def test_a_joint_that_the_hard_view_cuts_off_is_not_judged() -> None:
    sample, joints = _persons({"padding": 0.5})
    outside = joints.copy()
    outside[:] = [84.0, 52.0]  # on the box's edge; the hard view ends 16 pixels before it
    hard, easy = _sees(joints, sample.affine), _sees(outside, sample.easy_affine)
    assert equivariance_loss(hard, easy, sample, MIRROR).item() == 0


def test_presence_goes_by_the_hard_views_names() -> None:
    sample, joints = _persons({"flip": True})
    taught = _sees(joints, sample.easy_affine)
    presence = torch.tensor([5.0, 5.0, -5.0]).repeat(PERSONS, 1)  # the right hand is not there
    trust = teacher_places(taught._replace(presence=presence), sample, MIRROR, STRIDE, WEIGHTS)[1]
    assert (trust[:, [0, 2]] > 0.8).all()
    assert (trust[:, 1] == 0).all()  # in the mirrored view it is called the left


@TAUGHT
@pytest.mark.parametrize("view", VIEWS)
def test_what_the_teacher_finds_is_learned_in_the_hard_view(view: dict[str, object], weights: Loss) -> None:
    sample, joints = _persons(view)
    taught = _sees(joints, sample.easy_affine)
    places, trust = teacher_places(taught, sample, MIRROR, STRIDE, WEIGHTS)
    expected = _named_in_hard_view(joints, sample)
    np.testing.assert_allclose(places, expected, atol=1.0)
    assert (trust > 0.8).all()
    right = teacher_loss(_sees(expected, sample.affine), taught, sample, MIRROR, STRIDE, weights)
    wrong = teacher_loss(_sees(expected + 20, sample.affine), taught, sample, MIRROR, STRIDE, weights)
    assert right.item() < 0.5 * wrong.item()


def test_an_unsure_map_is_learned_as_unsure_as_it_is() -> None:
    sample, joints = _persons({})
    taught, _ = _two_peaks(sample, joints)
    assert (teacher_places(taught, sample, MIRROR, STRIDE, WEIGHTS)[1] < 0.9).all()
    warm, cold = (WEIGHTS.model_copy(update={"teacher_maps": t}) for t in (1.0, 0.5))
    target, trust = teacher_maps(taught, sample, MIRROR, STRIDE, warm)
    mass = taught.cams.flatten(2).softmax(dim=2).view_as(target)
    torch.testing.assert_close(target, mass)  # of the same view
    assert (trust == 1).all()
    sharper, _ = teacher_maps(taught, sample, MIRROR, STRIDE, cold)
    assert (sharper.amax(dim=(2, 3)) > 1.1 * target.amax(dim=(2, 3))).all()
    # What is learned in the end is the target.
    hard = taught._replace(cams=torch.zeros_like(taught.cams, requires_grad=True))
    teacher_loss(hard, taught, sample, MIRROR, STRIDE, cold).backward()
    flat = 1 / target[0, 0].numel()
    torch.testing.assert_close(hard.cams.grad, (flat - sharper) / trust.numel())


def _two_peaks(sample: TagSample, joints: np.ndarray) -> tuple[PoseOutput, np.ndarray]:
    """A teacher that sees every joint at its place, and more clearly 20 pixels further right."""
    decoy = joints + [20, 0]
    low, high = _sees(joints, sample.easy_affine), _sees(decoy, sample.easy_affine, 1.5)
    return high._replace(cams=torch.maximum(low.cams, high.cams)), decoy


def test_a_teacher_is_heard_from_the_sureness_on_that_the_recipe_asks_for() -> None:
    sample, joints = _persons({})
    taught, _ = _two_peaks(sample, joints)
    found = {}
    for sure in (0.0, 0.5):
        weights = WEIGHTS.model_copy(update={"teacher_sure": sure})
        found[sure] = teacher_places(taught, sample, MIRROR, STRIDE, weights)[1]
    median = found[0.0].median()
    assert found[0.0].min() < median < found[0.0].max()
    weights = WEIGHTS.model_copy(update={"teacher_sure": median.item()})
    _, trust = teacher_places(taught, sample, MIRROR, STRIDE, weights)
    assert torch.equal(trust, torch.where(found[0.0] >= median, found[0.0], 0.0))


def test_answers_strike_out_places() -> None:
    sample, joints = _persons({"flip": True})
    taught, decoy = _two_peaks(sample, joints)
    places, _ = teacher_places(taught, sample, MIRROR, STRIDE, WEIGHTS)
    np.testing.assert_allclose(places, _named_in_hard_view(decoy, sample), atol=1.5)

    # The first region holds the nose itself and not its decoy, the second the right hand's decoy only.
    regions = np.stack([joints[:, 0], decoy[:, 2]], axis=1)
    half = np.array([[5.5], [14.0]])
    regions = np.concatenate([regions - half, regions + half], axis=2)
    answers = sample.answers.clone()
    answers[:, 0, 0] = YES
    answers[:, 1, 1] = NO  # in the mirrored view the right hand is called the left
    told = sample._replace(regions=torch.from_numpy(regions).float(), answers=answers)
    places, trust = teacher_places(taught, told, MIRROR, STRIDE, WEIGHTS)
    np.testing.assert_allclose(places[:, 0], joints[:, 0], atol=2.5)  # half a cell
    np.testing.assert_allclose(places[:, 1], joints[:, 2], atol=2.5)
    np.testing.assert_allclose(places[:, 2], decoy[:, 1], atol=1.5)
    assert (trust > 0.5).all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("flat", "its mass is everywhere"),
        ("absent", "the teacher does not see it"),
        ("denied", "the whole box was asked about, and the answer was no"),
        ("contradicted", "every cell contradicts an answer"),
        ("collapsed", "it is at the same place in everybody"),
        ("collapsed, half mirrored", "left and right are at one place each, whatever they are called"),
    ],
)
def test_a_teacher_is_not_trusted_when(change: str, why: str) -> None:
    sample, joints = _persons({})
    taught = _sees(joints, sample.easy_affine)
    box = torch.from_numpy(BOX).float().expand(PERSONS, 1, 4)
    answers = sample.answers.clone()
    if change == "flat":
        taught = taught._replace(cams=taught.cams * 0.05)
    elif change == "absent":
        taught = taught._replace(presence=-taught.presence)
    elif change == "denied":
        answers[:, 0] = NO
        whole = torch.tensor([[True, False]]).expand(PERSONS, 2)
        sample = sample._replace(regions=torch.cat([box, box], dim=1), whole=whole, answers=answers)
    elif change == "contradicted":
        answers[:, 0], answers[:, 1] = YES, NO
        sample = sample._replace(regions=torch.cat([box, box], dim=1), answers=answers)
    elif change == "collapsed":
        same = np.broadcast_to(joints[:1], joints.shape)
        taught = _sees(same, sample.easy_affine)
    else:
        same = np.broadcast_to(joints[:1], joints.shape)
        taught = _sees(same, sample.easy_affine)
        mirrored = _persons({"flip": True})[0].affine
        sample = sample._replace(affine=torch.cat([sample.affine[:4], mirrored[4:]]))
    trust = teacher_places(taught, sample, MIRROR, STRIDE, WEIGHTS)[1]
    assert (trust == 0).all(), why
    hard = _sees(joints, sample.affine)
    for weights in (WEIGHTS, MAPS):
        assert teacher_loss(hard, taught, sample, MIRROR, STRIDE, weights).item() == 0


def test_an_answer_outweighs_the_teachers_doubt_that_a_joint_is_there() -> None:
    sample, joints = _persons({})
    taught = _sees(joints, sample.easy_affine)
    taught = taught._replace(presence=-taught.presence)
    regions = torch.from_numpy(BOX).float().expand(PERSONS, 2, 4)
    answers = sample.answers.clone()
    answers[:, 0, 1] = YES
    trust = teacher_places(
        taught, sample._replace(regions=regions, answers=answers), MIRROR, STRIDE, WEIGHTS
    )[1]
    assert (trust[:, 1] > 0.8).all()
    assert (trust[:, [0, 2]] == 0).all()


def test_what_a_teacher_gets_wrong_on_one_side_the_mirrored_view_makes_good() -> None:
    """Its maps are the crop's channels, named by the side that the sun is on; and lean to the right."""
    crops = torch.zeros(2, 3, 8, 8)
    crops[:, :, 4, 2], crops[1, 1, 4, 2], crops[1, 1, 5, 7] = 5, 0, 5
    crops[:, :, 0, 0] = 1  # the sun
    lean = torch.arange(8.0).expand(8, 8)

    def teacher(crops: torch.Tensor) -> PoseOutput:
        named = crops if crops[0, 0, 0, 0] else crops[:, MIRROR]
        return PoseOutput(named + lean, named.amax(dim=(2, 3)) + torch.tensor([0.0, 1.0, 3.0]))

    found = seen_mirrored_too(teacher, crops, MIRROR)
    torch.testing.assert_close(found.cams, crops + 3.5)
    torch.testing.assert_close(found.presence, crops.amax(dim=(2, 3)) + torch.tensor([0.0, 2.0, 2.0]))


def test_a_teacher_that_knows_the_upright_is_heard_of_the_others() -> None:
    """Its maps follow the first channel if the second shows the crop upright; otherwise they are flat."""
    upright = torch.zeros(4, 3, 32, 32)
    rows, columns = torch.tensor([5, 9, 20, 26]), torch.tensor([14, 3, 30, 8])
    upright[torch.arange(4), 0, rows, columns] = 1
    upright[:, 1, 0] = 1  # the sky
    turned = torch.stack([crop.rot90(quarters, (1, 2)) for quarters, crop in enumerate(upright)])

    def teacher(crops: torch.Tensor) -> PoseOutput:
        knows = crops[:, 1, 0].mean(dim=1) > 0.9
        cams = 20 * torch.nn.functional.max_pool2d(crops[:, :1], 4) * knows[:, None, None, None]
        return PoseOutput(cams, 10.0 * knows[:, None])

    found = surest_turn(teacher, turned, 1.5)
    assert (found.presence == 10).all()
    expected = torch.nn.functional.max_pool2d(turned[:, 0], 4)
    torch.testing.assert_close(found.cams[:, 0], 20 * expected)


@pytest.mark.parametrize(("switches", "looks"), [((), 1), (("mirrors",), 2), (("mirrors", "turns"), 8)])
def test_a_teacher_looks_as_often_as_the_recipe_says(
    make_recipe: Callable[..., Recipe], switches: tuple[str, ...], looks: int
) -> None:
    teaching = {"teacher": 1.0, **{f"teacher_{switch}": True for switch in switches}}
    network = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16]}
    people = {"annotations": "people.json", "images": "."}
    data = {"train": people, "target": people, "val": people}
    recipe = make_recipe(loss=teaching, network=network, data=data)
    student = build_network(recipe.network, recipe.joints)
    teacher = copy.deepcopy(student).eval()
    seen = []
    teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    mirror = torch.from_numpy(recipe.joints.flip_permutation)
    sample = _persons({})[0]
    open_answers = sample.answers[:, :, :1].expand(-1, -1, len(recipe.joints))
    rates = torch.full((PERSONS, len(recipe.joints)), 0.5)
    easy = torch.randint(256, sample.easy.shape, dtype=torch.uint8)
    sample = sample._replace(answers=open_answers, rates=rates, easy=easy)
    terms = Objective(recipe, student, mirror)(student, teacher, sample, 0.5)
    assert torch.isfinite(terms.total)
    assert len(seen) == looks
    assert len({view.numpy().tobytes() for view in seen}) == looks
