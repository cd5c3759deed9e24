"""Adapting a trained model to people of whom only the boxes are known, and evaluating it without labels."""

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

# The best setting in docs/results/adaptation.md.
ADAPTATION = {"appearance": 0.5}
TEACHER = {"teacher": 1.0, "teacher_maps": 0.6}
VIEWS = ((0.0, True), (20.0, False), (-20.0, False))  # (rotation in degrees, mirrored)
QUARTERS = ((90.0, False), (-90.0, False), (180.0, False))
CLOSE = 0.1  # of the box's longer side
LEARNING_RATE = 0.4  # over that of the source's training
LEAST_AGREEMENT = -0.005  # smallest change that is accepted, as are the next two
LEAST_TURNED = -0.02
LEAST_SOURCE = -0.03
LEAST_SPREAD = 0.8  # over the spread before the adaptation
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
    """The recipe that adapts a model: the model's own, with the target's people and losses added.

    Args:
        source: the recipe of the checkpoint.
        checkpoint: the model to start from.
        annotations: COCO JSON of the target's boxes.
        images: folder of its images.
        epochs: number of epochs, at the model's input size.
        any_way_up: the target's people may be lying or upside down.

    Raises:
        RecipeError: the source was trained without locations, or its crops are to be turned but not square.
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
    # start_from provides the weights; a new camera affects the first layers most, so none is frozen.
    tree["network"] |= {"pretrained": False, "freeze_stages": 0}
    tree["data"] |= {"target": [{"annotations": str(annotations), "images": str(images)}]}
    tree["loss"] |= {**TEACHER, "teacher_turns": any_way_up}
    # Only located persons get these augmentations: the domain judge would recognise the source by them.
    tree["augment"] |= {"intruder": 0.0, "crowd": 0.0}
    return parse_recipe(tree, where=f"the recipe of {checkpoint}")


@dataclass(frozen=True)
class SelfAgreement:
    """Quality of a network on unlabelled people, measured from its own predictions alone.

    Attributes:
        agreement: part of the joints found in the same place, within 0.1 of the box's longer side, in a
            mirrored or slightly turned view.
        turned: the same in views turned by quarter turns. A network that mistakes upside-down people for
            upright ones, and is trained on these mistakes, agrees with itself ever better in the other views.
        spread: mean distance of a person's joints from their centre, over the box's longer side. A network
            that puts all joints in one place also agrees with itself.
        score: the mean joint score.
        persons, persons_turned: per person, the number of joints in the same place and the number compared.
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
    """Predict persons in their boxes, then in mirrored and turned views, and compare."""
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
    """A copy of a network whose BatchNorm statistics are those of these persons' crops."""
    copied = copy.deepcopy(network)
    device = next(copied.parameters()).device
    crops = PersonCrops(persons, CropView(size, padding))
    # Split evenly: BatchNorm cannot normalise a batch of one.
    batches = np.array_split(np.arange(len(crops)), -(-len(crops) // _BATCH))
    take_statistics(copied, (torch.stack([crops[row].crop for row in rows]).to(device) for rows in batches))
    return copied.eval()


@dataclass(frozen=True)
class Verdict:
    """Comparison of a model before and after its adaptation.

    Attributes:
        before, after: self-agreement on held-out people of the target.
        source_before, source_after: PCK on the source's validation people. Both are measured with BatchNorm
            statistics of the same people of the source, since the adapted model has the target's.
        source_published: the same of the adapted model as published, with the target's statistics; it does
            not enter the verdict.
    """

    before: SelfAgreement
    after: SelfAgreement
    source_before: float
    source_after: float
    source_published: float

    def gains(self) -> dict[str, tuple[Interval, float]]:
        """The gain in each agreement, with its interval over resampled people, and the least accepted."""
        parts = {
            "agreement": (self.after.persons, self.before.persons, LEAST_AGREEMENT),
            "turned": (self.after.persons_turned, self.before.persons_turned, LEAST_TURNED),
        }
        return {
            name: (pck_difference(after, before), least) for name, (after, before, least) in parts.items()
        }

    def is_by_chance(self) -> bool:
        """Whether another sample of as many people of the target could have reversed the verdict."""
        return any(gain.low < least <= gain.high for gain, least in self.gains().values())

    def faults(self) -> list[str]:
        """Reasons why the adapted model should not be used; empty if it should."""
        found = []
        if not self.after.agreement - self.before.agreement >= LEAST_AGREEMENT:  # also fails on NaN
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
    """Compare an adapted network with the one it was adapted from.

    Args:
        source, adapted: the networks.
        held_out: people of the target that neither was trained on; only their boxes are used.
        known: located people of the source; at most 512 of them give BatchNorm's statistics of the source.
        validation: other people of the source, to measure on.
        size, padding: size and padding of the crops.
    """
    some = known.chosen(np.linspace(0, len(known) - 1, min(_MOST, len(known))).astype(int).tolist())
    # The source's own statistics are of augmented crops; with them its PCK would be a point or two lower.
    in_the_sources = (with_statistics_of(network, some, size, padding) for network in (source, adapted))
    on_source = (
        evaluate_network(network, validation, size, padding).pck_box.mean
        for network in (*in_the_sources, adapted)
    )
    before, after = (self_agreement(network, held_out, size, padding) for network in (source, adapted))
    return Verdict(before, after, *on_source)
