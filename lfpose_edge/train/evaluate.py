"""Accuracy of a network, or of a finished estimator, on located persons."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.geometry import crop_affines
from lfpose_edge.metrics import PckResult, box_thresholds, pck, torso_thresholds
from lfpose_edge.metrics.oks_ap import OksAp, oks_ap
from lfpose_edge.metrics.pck import LIMB_JOINTS
from lfpose_edge.train.data.coco import PersonTable
from lfpose_edge.train.data.crops import CropView, PersonCrops, read_bgr
from lfpose_edge.train.networks import CamNetwork

if TYPE_CHECKING:
    from lfpose_edge.estimator import PoseEstimator


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on N persons.

    Attributes:
        persons: N.
        pck_box: PCK at 0.1 of the box's longer side, the twelve limb joints.
        pck_box_all: the same over all joints.
        pck_torso: PCK at 0.2 of the torso, all joints; persons without a labelled torso do not count.
        oks: OKS average precision, where it was asked for.
    """

    persons: int
    pck_box: PckResult
    pck_box_all: PckResult
    pck_torso: PckResult
    oks: OksAp | None = None


@torch.no_grad()
def predict_persons(
    network: CamNetwork,
    persons: PersonTable,
    size: tuple[int, int],
    padding: float,
    *,
    config: ops.DecodeConfig | None = None,
    batch: int = 32,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Joints (N, K, 2) in image pixels, scores and presence (N, K) of the persons in their own boxes."""
    config = config or ops.DecodeConfig(stride=network.cam_stride, upsample=network.cam_stride)
    crops = PersonCrops(persons, CropView(size, padding))
    affines = crop_affines(persons.boxes, size, padding=padding)
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    parts = []
    for first in range(0, len(persons), batch):
        chosen = range(first, min(first + batch, len(persons)))
        images = torch.stack([crops[i].crop for i in chosen]).to(device)
        output = network(network.normalize(images))
        cams, presence = output.cams.float().cpu().numpy(), output.presence.float().cpu().numpy()
        parts.append(ops.decode(cams, presence, affines[first : first + batch], config))
    network.train(was_training)
    keypoints, scores, presences = (np.concatenate(p) for p in zip(*parts, strict=True))
    return keypoints, scores, presences


def predict_with_estimator(
    estimator: PoseEstimator,
    persons: PersonTable,
    *,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Joints (N, K, 2) in image pixels and scores (N, K), through the deployed runtime.

    Args:
        estimator: takes BGR images.
        persons: each is predicted in its own box.
        progress: wraps the loop, to show it.
    """
    results = [estimator(read_bgr(persons, i), persons.boxes[i]) for i in progress(range(len(persons)))]
    return np.concatenate([r.keypoints for r in results]), np.concatenate([r.scores for r in results])


def measure(
    keypoints: NDArray[np.float32], persons: PersonTable, scores: NDArray[np.float32] | None = None
) -> Accuracy:
    """Compare predicted joints with a person table.

    Args:
        keypoints: (N, K, 2) image pixels.
        persons: the truth.
        scores: (N, K); with them OKS AP is measured too.
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
        pck_torso=pck(keypoints, truth, labelled, torso, skeleton),
        oks=None if scores is None else _oks(keypoints, scores, persons),
    )


def _oks(keypoints: NDArray[np.float32], scores: NDArray[np.float32], persons: PersonTable) -> OksAp:
    # Both sides as COCO stores them: pixel indices, joints that lack a label at 0 with v = 0.
    truth = np.concatenate([persons.joints - 0.5, 2.0 * persons.labelled[..., None]], axis=2)
    truth *= persons.labelled[..., None]
    guess = np.concatenate([keypoints - 0.5, scores[..., None]], axis=2)
    corner, extent = persons.boxes[:, :2], persons.boxes[:, 2:] - persons.boxes[:, :2]
    xywh = np.concatenate([corner, extent], axis=1)
    annotations, predictions = [], []
    for i in range(len(persons)):
        common = {"image_id": int(persons.image_ids[i]), "category_id": 1}
        annotations.append(
            {
                **common,
                "id": int(persons.annotation_ids[i]),
                "keypoints": truth[i].ravel().tolist(),
                "num_keypoints": int(persons.labelled[i].sum()),
                "bbox": xywh[i].tolist(),
                "area": float(persons.areas[i]),
                "iscrowd": 0,
            }
        )
        predictions.append(
            {**common, "keypoints": guess[i].ravel().tolist(), "score": float(scores[i].mean())}
        )
    tree = {
        "images": [{"id": i} for i in sorted({a["image_id"] for a in annotations})],
        "categories": [{"id": 1, "name": "person", "keypoints": list(persons.skeleton.keypoints)}],
        "annotations": annotations,
    }
    return oks_ap(tree, predictions, persons.skeleton)


def evaluate_network(
    network: CamNetwork, persons: PersonTable, size: tuple[int, int], padding: float
) -> Accuracy:
    """Predict the persons in their own boxes, without flip averaging, and measure."""
    keypoints, _, _ = predict_persons(network, persons, size, padding)
    return measure(keypoints, persons)
