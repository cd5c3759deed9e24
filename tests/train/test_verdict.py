"""The verdict on an adaptation: what it compares, of which people, and what it makes of it."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from lfpose_edge.cli.adapting import verdict_table
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.persons import joined
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.adapt import (
    SelfAgreement,
    Verdict,
    judge,
    self_agreement,
    with_statistics_of,
)
from lfpose_edge.train.data.crops import CropView, PersonCrops
from lfpose_edge.train.evaluate import evaluate_network, predict_persons
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import Network

SMALL = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16]}
GOOD = SelfAgreement(0.6, 0.3, 0.25, 0.5)


def test_statistics_are_of_the_persons_and_the_network_is_left_as_it_was(figures: Path) -> None:
    persons = read_coco_keypoints(figures / "val" / "annotations.json", figures / "val" / "images", LSP14)
    torch.manual_seed(0)
    network = build_network(Network.model_validate({**SMALL, "freeze_stages": 1}), LSP14)
    before = {name: values.clone() for name, values in network.state_dict().items()}
    again = with_statistics_of(network, persons, (64, 64), 1.25)
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())
    changed = [name for name, values in again.state_dict().items() if not torch.equal(values, before[name])]
    norms = {n: m for n, m in network.train().named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {norm.training for norm in norms.values()} == {True, False}  # of the frozen stages
    assert {name.rpartition(".")[0] for name in changed} == {n for n, m in norms.items() if m.training}
    assert not any(name.endswith(("weight", "bias")) for name in changed)
    # One batch: in it they are what BatchNorm sees in training.
    crops = torch.stack([s.crop for s in PersonCrops(persons, CropView((64, 64), 1.25))])
    with torch.no_grad():
        ours, theirs = again(again.normalize(crops)).cams, network.train()(network.normalize(crops)).cams
    torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.05)


def test_statistics_are_of_every_person_alike_whatever_the_batches(figures: Path) -> None:
    """33 people, one more than a batch holds, in crops that one alone could not give a variance of."""
    parts = [
        read_coco_keypoints(figures / part / "annotations.json", figures / part / "images", LSP14)
        for part in ("train", "val")
    ]
    persons = joined([*parts, parts[0].first(1)])
    torch.manual_seed(0)
    network = build_network(Network.model_validate(SMALL), LSP14)
    crops = torch.stack([s.crop for s in PersonCrops(persons, CropView((32, 32), 1.25))])
    convolution, _ = network.backbone.stem[0]
    with torch.no_grad():
        expected = convolution(network.normalize(crops)).mean(dim=(0, 2, 3))
    _, norm = with_statistics_of(network, persons, (32, 32), 1.25).backbone.stem[0]
    torch.testing.assert_close(norm.running_mean, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("after", "source_after", "words"),
    [
        (SelfAgreement(0.7, 0.3, 0.24, 0.6), 0.78, None),
        (SelfAgreement(0.5, 0.3, 0.25, 0.6), 0.80, "agrees with itself in 0.500"),
        (SelfAgreement(0.9, 0.27, 0.25, 0.9), 0.80, "turned by quarters it agrees with itself in 0.270"),
        (SelfAgreement(0.9, 0.3, 0.10, 0.9), 0.80, "closer together"),
        (SelfAgreement(0.7, 0.3, 0.25, 0.6), 0.70, "on the source it finds 0.700"),
        (SelfAgreement(float("nan"), 0.3, 0.25, 0.6), 0.80, "agrees with itself in nan"),
        (SelfAgreement(0.7, 0.3, float("nan"), 0.6), 0.80, "closer together: nan"),
        (SelfAgreement(0.7, 0.3, 0.25, 0.6), float("nan"), "on the source it finds nan"),
    ],
    ids=[
        "better",
        "unsteady",
        "surer of what is wrong",
        "collapsed",
        "forgetful",
        "no agreement",
        "no spread",
        "no source",
    ],
)
def test_the_verdict(after: SelfAgreement, source_after: float, words: str | None) -> None:
    faults = Verdict(GOOD, after, 0.8, source_after, 0.1).faults()
    assert len(faults) == (words is not None)
    assert words is None or words in faults[0]


@pytest.mark.parametrize(
    ("field", "least"), [("agreement", 0.595), ("turned", 0.28), ("spread", 0.2), ("source", 0.77)]
)
def test_the_verdict_turns_at_its_bounds(field: str, least: float) -> None:
    for change, faults in ((1e-4, 0), (-1e-4, 1)):
        after = GOOD if field == "source" else replace(GOOD, **{field: least + change})
        source_after = least + change if field == "source" else 0.8
        assert len(Verdict(GOOD, after, 0.8, source_after, 0.1).faults()) == faults


@pytest.mark.parametrize(
    ("people", "gained", "by_chance"),
    [(10, 1, True), (400, 1, False), (10, 3, False), (10, -1, True)],
    ids=["a little, of few", "a little, of many", "much, of few", "lost a little, of few"],
)
def test_a_verdict_that_other_people_could_turn_is_one_of_chance(
    people: int, gained: int, by_chance: bool
) -> None:
    """Everybody has 36 joints; gains vary by up to 3 joints around the mean gain, unless that is 3."""
    rng = np.random.default_rng(0)
    before = rng.integers(15, 18, people)
    spread = np.resize([-3, 3, -2, 2, 0], people) * (gained < 3)
    after = before + gained + spread

    def agreement(joints: Any) -> SelfAgreement:
        counts = [(int(found), 36) for found in joints]
        value = float(joints.mean() / 36)
        return replace(GOOD, agreement=value, turned=value, persons=counts, persons_turned=counts)

    verdict = Verdict(agreement(before), agreement(after), 0.8, 0.8, 0.8)
    assert verdict.is_by_chance() is by_chance
    shown = io.StringIO()
    Console(file=shown, width=200).print(verdict_table(verdict, people))
    assert ("are few to judge by" in shown.getvalue()) is by_chance
    assert shown.getvalue().count(f" {100 * gained / 36:+.1f} [") == 2
    for gain, least in verdict.gains().values():
        assert gain.value == pytest.approx(gained / 36)
        assert gain.low <= gain.value <= gain.high
        assert least < 0
    assert bool(verdict.faults()) is (gained < 0)  # by the people that there are


class Finder(torch.nn.Module):
    """A network of 16 x 16 cells whose maps are what ``look`` makes of crops (B, 3, 64, 64)."""

    cam_stride = 4

    def __init__(self, look: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.look = look

    def normalize(self, crops: torch.Tensor) -> torch.Tensor:
        return crops.float()

    def forward(self, crops: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.look(crops), torch.zeros(len(crops), 14)


def test_a_network_that_follows_the_picture_agrees_with_itself(figures: Path) -> None:
    """One that finds a coloured spot does, wherever it is seen from; one of random weights does not."""
    persons = read_coco_keypoints(figures / "val" / "annotations.json", figures / "val" / "images", LSP14)

    def spot(crops: torch.Tensor) -> torch.Tensor:
        green = torch.nn.functional.avg_pool2d(crops[:, 1:2] - crops[:, 0:1], 9, 4, 4) / 20
        return green.expand(-1, 14, -1, -1)

    follows = self_agreement(Finder(spot), persons, (64, 64), 1.25)  # type: ignore[arg-type]
    torch.manual_seed(0)
    random = build_network(Network.model_validate(SMALL), LSP14)
    lost = self_agreement(random, persons, (64, 64), 1.25)
    assert follows.agreement > 0.5
    assert follows.agreement > lost.agreement + 0.2
    assert follows.spread < 0.02  # all joints in one place: this is what the spread is for
    assert lost.spread > 0.05


def test_who_takes_everybody_to_be_upright_agrees_with_itself_in_small_turns_alone(figures: Path) -> None:
    persons = read_coco_keypoints(figures / "val" / "annotations.json", figures / "val" / "images", LSP14)
    upper = torch.tensor([name in ("head_top", "neck", "left_shoulder") for name in LSP14.keypoints])

    def upright(crops: torch.Tensor) -> torch.Tensor:
        cams = torch.zeros(len(crops), 14, 16, 16)
        cams[:, upper, 6, 8] = cams[:, ~upper, 9, 7] = 9.0
        return cams

    found = self_agreement(Finder(upright), persons, (64, 64), 1.25)  # type: ignore[arg-type]
    assert found.agreement > 0.9
    assert found.turned < 0.1


def test_in_a_mirrored_view_left_and_right_have_changed_places(figures: Path) -> None:
    """A network that takes all left joints to be on one side of the crop, and the right ones on the other."""
    persons = read_coco_keypoints(figures / "val" / "annotations.json", figures / "val" / "images", LSP14)
    left = torch.tensor([name.startswith("left") for name in LSP14.keypoints])

    def sides(crops: torch.Tensor) -> torch.Tensor:
        cams = torch.zeros(len(crops), 14, 16, 16)
        cams[:, left, 8, 3] = 9.0  # columns 3 and 12 of 16 are each other's mirror image
        cams[:, ~left, 8, 12] = 9.0
        return cams

    network = Finder(sides)
    plain, mirrored = (
        predict_persons(network, persons, (64, 64), 1.25, flip=flip)[0]  # type: ignore[arg-type]
        for flip in (False, True)
    )
    paired = [k for k, name in enumerate(LSP14.keypoints) if name.startswith(("left", "right"))]
    np.testing.assert_allclose(mirrored[:, paired], plain[:, paired], atol=0.5)
    assert np.ptp(plain[:, paired, 0], axis=1).min() > 20


def test_a_verdict_is_of_the_right_people(figures: Path) -> None:
    """Agreement on the target's, places on the source's; statistics of others than are measured."""
    known, validation = (
        read_coco_keypoints(figures / part / "annotations.json", figures / part / "images", LSP14)
        for part in ("train", "val")
    )
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(build_network(Network.model_validate(SMALL), LSP14).eval())
    how: Any = ((64, 64), 1.25)
    held_out = known.chosen(range(9))
    verdict = judge(*networks, held_out, known, validation, *how)
    assert verdict.before == self_agreement(networks[0], held_out, *how)
    for found in (verdict.before, verdict.after):
        for counts in (found.persons, found.persons_turned):  # in three views each
            assert np.sum(counts, axis=0)[1] == 9 * 3 * len(LSP14)
        assert found.agreement == pytest.approx(np.divide(*np.sum(found.persons, axis=0)))
        assert found.turned == pytest.approx(np.divide(*np.sum(found.persons_turned, axis=0)))
    assert verdict.after == self_agreement(networks[1], held_out, *how)
    of_source = [with_statistics_of(network, known, *how) for network in networks]
    measured = [
        evaluate_network(network, validation, *how).pck_box.mean for network in (*of_source, networks[1])
    ]
    found = [verdict.source_before, verdict.source_after, verdict.source_published]
    assert found == measured
    assert len(set(measured)) == 3
