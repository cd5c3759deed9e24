"""Accuracy of predicted joints on persons with located joints, and of a deployed estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.coco_writing import coco_persons_tree, joint_entries, person_annotation
from lfpose_edge.errors import SourceError
from lfpose_edge.metrics.oks_ap import OksAp, oks_ap
from lfpose_edge.metrics.pck import LIMB_JOINTS, PckResult, box_thresholds, pck, torso_thresholds
from lfpose_edge.metrics.presence import roc_auc
from lfpose_edge.persons import PersonTable
from lfpose_edge.results import person_scores

if TYPE_CHECKING:
    from lfpose_edge.estimator import PoseEstimator
    from lfpose_edge.results import PoseResult


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on N persons.

    Attributes:
        persons: number of persons N.
        pck_box: PCK at 0.1 of the box's longer side, over the twelve limb joints.
        pck_box_all: the same over all joints.
        pck_either_side: as ``pck_box``, but left and right need not be distinguished.
        pck_torso: PCK at 0.2 of the torso, over all joints; persons without a labelled torso do not count.
        presence_auc: :func:`roc_auc` of the presence by joint name, over persons for whom it is known; None
            if it was not measured.
        oks: OKS average precision; None if it was not measured.
    """

    persons: int
    pck_box: PckResult
    pck_box_all: PckResult
    pck_either_side: PckResult
    pck_torso: PckResult
    presence_auc: dict[str, float] | None = None
    oks: OksAp | None = None


def predict_persons(
    estimator: PoseEstimator,
    persons: PersonTable,
    *,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Predict joints (N, K, 2) in image pixels, scores and presence (N, K), with the deployed runtime.

    Args:
        estimator: an estimator for BGR images.
        persons: the persons, each predicted in its own box.
        progress: wraps the loop to show progress.

    Raises:
        SourceError: a person's box is not valid in its image.
    """
    results = [_predict_person(estimator, persons, i) for i in progress(range(len(persons)))]
    keypoints, scores, presence = zip(*((r.keypoints, r.scores, r.presence) for r in results), strict=True)
    return np.concatenate(keypoints), np.concatenate(scores), np.concatenate(presence)


def _predict_person(estimator: PoseEstimator, persons: PersonTable, row: int) -> PoseResult:
    try:
        return estimator(persons.image(row), persons.boxes[row])
    except ValueError as error:
        message = f"{persons.images[row]}, annotation {persons.annotation_ids[row]}: {error}"
        raise SourceError(message) from error


def measure(
    keypoints: NDArray[Any],
    persons: PersonTable,
    scores: NDArray[np.float32] | None = None,
    presence: NDArray[np.float32] | None = None,
    *,
    uncounted: Sequence[dict[str, Any]] = (),
) -> Accuracy:
    """Compare predicted joints with a person table.

    Args:
        keypoints: (N, K, 2) image pixels.
        persons: the truth.
        scores: (N, K); if given, OKS AP is measured too.
        presence: (N, K); if given, the area under its ROC curve is measured too.
        uncounted: persons whose predictions OKS AP counts as neither right nor wrong
            (:func:`lfpose_edge.coco.uncounted_persons`).
    """
    skeleton = persons.skeleton
    box = box_thresholds(persons.boxes)
    torso = torso_thresholds(persons.joints, persons.labelled, skeleton)
    limbs = [j for j in LIMB_JOINTS if j in skeleton.keypoints]
    truth, labelled = persons.joints, persons.labelled
    return Accuracy(
        persons=len(persons),
        pck_box=pck(keypoints, truth, labelled, box, skeleton, limbs),
        pck_box_all=pck(keypoints, truth, labelled, box, skeleton),
        pck_either_side=pck(keypoints, truth, labelled, box, skeleton, limbs, either_side=True),
        pck_torso=pck(keypoints, truth, labelled, torso, skeleton),
        presence_auc=None if presence is None else _presence_auc(presence, persons),
        oks=None if scores is None else oks_ap(*as_coco(keypoints, scores, persons, uncounted), skeleton),
    )


def _presence_auc(presence: NDArray[np.float32], persons: PersonTable) -> dict[str, float]:
    return {
        joint: roc_auc(presence[known, k], persons.labelled[known, k])
        for k, (joint, known) in enumerate(zip(persons.skeleton.keypoints, persons.known.T, strict=True))
    }


def as_coco(
    keypoints: NDArray[Any],
    scores: NDArray[np.float32],
    persons: PersonTable,
    uncounted: Sequence[dict[str, Any]] = (),
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Persons and their predictions, (N, K, 2) and (N, K), as a COCO tree and a COCO results list.

    Coordinates are pixel indices, joints are in the skeleton's order, and unlabelled ones are at 0 with
    v = 0. The persons come first, in order, followed by those of ``uncounted`` in the same images.
    """
    guess = np.concatenate([keypoints - 0.5, scores[..., None]], axis=2)
    annotations, predictions = [], []
    for i, score in enumerate(person_scores(scores).tolist()):
        image_id, area = int(persons.image_ids[i]), float(persons.areas[i])
        truth = joint_entries(persons.joints[i], 2 * persons.labelled[i])
        annotations.append(person_annotation(i + 1, image_id, persons.boxes[i], area=area, **truth))
        keypoints_found = guess[i].ravel().tolist()
        predictions.append(
            {"image_id": image_id, "category_id": 1, "keypoints": keypoints_found, "score": score}
        )
    images = {a["image_id"] for a in annotations}
    nobody = {"category_id": 1, "keypoints": [0] * 3 * len(persons.skeleton), "num_keypoints": 0}
    beside = [person for person in uncounted if person["image_id"] in images]
    annotations += [{**nobody, "id": i, **a} for i, a in enumerate(beside, len(annotations) + 1)]
    tree = coco_persons_tree([{"id": i} for i in sorted(images)], annotations, persons.skeleton)
    return tree, predictions
