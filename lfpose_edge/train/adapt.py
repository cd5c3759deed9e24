"""Adapting a trained model to people of whom only the boxes are known, and judging it without labels."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from lfpose_edge.metrics.bootstrap import Counts, Interval, pck_difference
from lfpose_edge.persons import PersonTable
from lfpose_edge.train.data.crops import CropView, PersonCrops
from lfpose_edge.train.evaluate import evaluate_network, predict_persons
from lfpose_edge.train.networks import CamNetwork
from lfpose_edge.train.recipe import Recipe, parse_recipe
from lfpose_edge.train.start import take_statistics

# What was best in docs/results/adaptation.md.
ADAPTATION = {"appearance": 0.5}
TEACHER = {"teacher": 1.0, "teacher_maps": 0.6}
VIEWS = ((0.0, True), (20.0, False), (-20.0, False))  # turned by degrees, mirrored
QUARTERS = ((90.0, False), (-90.0, False), (180.0, False))
CLOSE = 0.1  # of the box's longer side
LEARNING_RATE = 0.4  # of the source's training
LEAST_AGREEMENT = -0.005  # that an adaptation may lose
LEAST_TURNED = -0.02
LEAST_SOURCE = -0.03
LEAST_SPREAD = 0.8  # of what it was
_BATCH = 32
_MOST = 512


def adaptation_recipe(
    source: Recipe,
    checkpoint: Path,
    annotations: Path,
    images: Path,
    epochs: int,
    *,
    any_way_up: bool = False,
) -> Recipe:
    """The recipe that adapts a model: its own, with the target's people and their losses.

    Args:
        source: the recipe of the checkpoint.
        checkpoint: where the adaptation starts from.
        annotations: COCO JSON of the target's boxes.
        images: folder of its images.
        epochs: at the model's input size.
        any_way_up: the target's people may be lying or upside down.

    Raises:
        RecipeError: the source was trained on no locations, or crops that are not square should be turned.
    """
    tree = source.model_dump(mode="json")
    optimizer = tree["optimizer"]
    for rate in ("lr_head", "lr_backbone"):
        optimizer[rate] *= LEARNING_RATE
    tree |= {
        "name": f"{source.name}-adapted",
        "start_from": str(checkpoint),
        "stages": [{"epochs": epochs, "size": list(source.input_size)}],
        "adapt": ADAPTATION,
    }
    # start_from has the weights; of a new camera the first layers see the most.
    tree["network"] |= {"pretrained": False, "freeze_stages": 0}
    tree["data"] |= {"target": [{"annotations": str(annotations), "images": str(images)}]}
    tree["loss"] |= {**TEACHER, "teacher_turns": any_way_up}
    # Only located persons have these: the judge would know them by it.
    tree["augment"] |= {"intruder": 0.0, "crowd": 0.0}
    return parse_recipe(tree, where=f"the recipe of {checkpoint}")


@dataclass(frozen=True)
class SelfAgreement:
    """How a network does on people nobody has labelled, by what it says of them alone.

    Attributes:
        agreement: part of the joints that it finds in the same place, within 0.1 of the box, in a mirrored or
            slightly turned view.
        turned: the same in views turned by quarters. Who takes people that are upside down for upright ones,
            and is taught what he took them for, agrees with himself ever better in the other views.
        spread: how far the joints of a person are from their middle, over the box's longer side. A network
            that puts all joints in one place agrees with itself.
        score: the mean.
        persons, persons_turned: of every person, how many joints are in the same place, and of how many.
    """

    agreement: float
    turned: float
    spread: float
    score: float
    persons: Counts = field(default=(), repr=False)
    persons_turned: Counts = field(default=(), repr=False)


def self_agreement(
    network: CamNetwork, persons: PersonTable, size: tuple[int, int], padding: float
) -> SelfAgreement:
    """Look at persons in their boxes, and again mirrored and turned."""
    plain, scores, _ = predict_persons(network, persons, size, padding)
    sides = np.max(persons.boxes[:, 2:] - persons.boxes[:, :2], axis=1)[:, None]

    def same_place(views: Sequence[tuple[float, bool]]) -> Counts:
        same = np.zeros(len(persons), int)
        for rotation_deg, flip in views:
            found, _, _ = predict_persons(
                network, persons, size, padding, rotation_deg=rotation_deg, flip=flip
            )
            same += (np.linalg.norm(found - plain, axis=2) <= CLOSE * sides).sum(axis=1)
        return [(count, len(views) * plain.shape[1]) for count in same.tolist()]

    middle = plain.mean(axis=1, keepdims=True)
    spread = np.linalg.norm(plain - middle, axis=2) / sides
    seen, turned = same_place(VIEWS), same_place(QUARTERS)
    parts = (_part(seen), _part(turned), float(spread.mean()), float(scores.mean()))
    return SelfAgreement(*parts, seen, turned)


def _part(counts: Counts) -> float:
    found, of = np.sum(counts, axis=0)
    return float(found / of)


def with_statistics_of(
    network: CamNetwork, persons: PersonTable, size: tuple[int, int], padding: float
) -> CamNetwork:
    """A copy of a network whose BatchNorm has the mean and variance of these persons' crops."""
    copied = copy.deepcopy(network)
    device = next(copied.parameters()).device
    crops = PersonCrops(persons, CropView(size, padding))
    # Of even length: one person alone is nothing that BatchNorm can do with.
    batches = np.array_split(np.arange(len(crops)), -(-len(crops) // _BATCH))
    take_statistics(copied, (torch.stack([crops[row].crop for row in rows]).to(device) for rows in batches))
    return copied.eval()


@dataclass(frozen=True)
class Verdict:
    """A model before and after it was adapted.

    Attributes:
        before, after: on held-out people of the target.
        source_before, source_after: PCK on the source's validation people, both with BatchNorm's statistics
            of the same people of the source, as those of the adapted model are the target's.
        source_published: of the adapted model with the target's, as it is published; nothing is judged by it.
    """

    before: SelfAgreement
    after: SelfAgreement
    source_before: float
    source_after: float
    source_published: float

    def gains(self) -> dict[str, tuple[Interval, float]]:
        """Of both agreements, what the adaptation gained, in other people, too; and the least it may gain."""
        parts = {
            "agreement": (self.after.persons, self.before.persons, LEAST_AGREEMENT),
            "turned": (self.after.persons_turned, self.before.persons_turned, LEAST_TURNED),
        }
        return {
            name: (pck_difference(after, before), least) for name, (after, before, least) in parts.items()
        }

    def is_by_chance(self) -> bool:
        """Whether as many other people of the target could have turned the verdict."""
        return any(gain.low < least <= gain.high for gain, least in self.gains().values())

    def faults(self) -> list[str]:
        """Why the adapted model should not be used; nothing where it should."""
        found = []
        if not self.after.agreement - self.before.agreement >= LEAST_AGREEMENT:  # nor where one is NaN
            found.append(
                f"it agrees with itself in {self.after.agreement:.3f} of the target's joints, and did in "
                f"{self.before.agreement:.3f}"
            )
        if not self.after.turned - self.before.turned >= LEAST_TURNED:
            found.append(
                f"in views turned by quarters it agrees with itself in {self.after.turned:.3f}, and did in "
                f"{self.before.turned:.3f}"
            )
        if not self.after.spread >= LEAST_SPREAD * self.before.spread:
            found.append(
                f"it puts the target's joints closer together: {self.after.spread:.3f} of the box from their "
                f"middle, and did {self.before.spread:.3f}"
            )
        if not self.source_after - self.source_before >= LEAST_SOURCE:
            found.append(
                f"on the source it finds {self.source_after:.3f} of the joints, and did "
                f"{self.source_before:.3f}"
            )
        return found


def judge(
    source: CamNetwork,
    adapted: CamNetwork,
    held_out: PersonTable,
    known: PersonTable,
    validation: PersonTable,
    size: tuple[int, int],
    padding: float,
) -> Verdict:
    """Compare a network with what it was adapted from.

    Args:
        source, adapted: the networks.
        held_out: people of the target that neither was trained on; their boxes count alone.
        known: located people of the source; BatchNorm's statistics of the source are of 512 of them.
        validation: others of the source, to measure on.
        size, padding: of their crops.
    """
    some = known.chosen(np.linspace(0, len(known) - 1, min(_MOST, len(known))).astype(int).tolist())
    # The source's own are of augmented crops: measured in those it would seem to have lost a point or two.
    in_the_sources = (with_statistics_of(network, some, size, padding) for network in (source, adapted))
    on_source = (
        evaluate_network(network, validation, size, padding).pck_box.mean
        for network in (*in_the_sources, adapted)
    )
    before, after = (self_agreement(network, held_out, size, padding) for network in (source, adapted))
    return Verdict(before, after, *on_source)
