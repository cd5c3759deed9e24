"""Accuracy of a network during training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.bundle import Decode
from lfpose_edge.geometry import Affines, crop_affines
from lfpose_edge.metrics.accuracy import Accuracy, measure
from lfpose_edge.persons import PersonTable
from lfpose_edge.train.data.crops import CropView
from lfpose_edge.train.networks import CamNetwork

_BATCH = 32


def decode_facts(network: CamNetwork) -> Decode:
    """How joints are decoded from a network's CAMs, at crop resolution, in validation and in bundles."""
    return Decode(cam_stride=network.cam_stride, upsample=network.cam_stride, method="dark")


@torch.no_grad()
def predict_maps(
    network: CamNetwork,
    persons: PersonTable,
    size: tuple[int, int],
    padding: float,
    *,
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32], Affines]:
    """CAMs (N, K, h, w) and presence (N, K), logits, of the persons in their own boxes; affines (N, 2, 3).

    The crops are turned and mirrored as by :func:`crop_affines`; in mirrored crops left and right are
    exchanged.
    """
    view = CropView(size, padding)
    affines = crop_affines(persons.boxes, size, padding=padding, rotation_deg=rotation_deg, flip=flip)
    crops = np.stack([view.cut(persons.image(row), affine) for row, affine in enumerate(affines)])
    was_training = network.training
    network.eval()
    output = network(network.normalize(torch.from_numpy(crops).to(next(network.parameters()).device)))
    network.train(was_training)
    cams, presence = (values.float().cpu().numpy() for values in output[:2])
    return cams, presence, affines


def predict_persons(
    network: CamNetwork,
    persons: PersonTable,
    size: tuple[int, int],
    padding: float,
    *,
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Joints (N, K, 2) in image pixels, scores and presence (N, K) of the persons in their own boxes.

    The crops are turned or mirrored on request; left and right always refer to the unmirrored image.
    """
    config = ops.DecodeConfig.of(decode_facts(network))
    parts = []
    for first in range(0, len(persons), _BATCH):
        chosen = persons.chosen(range(first, min(first + _BATCH, len(persons))))
        cams, presence, affines = predict_maps(
            network, chosen, size, padding, rotation_deg=rotation_deg, flip=flip
        )
        parts.append(ops.decode(cams, presence, affines, config))
    order = persons.skeleton.flip_permutation if flip else slice(None)
    keypoints, scores, presences = (np.concatenate(p)[:, order] for p in zip(*parts, strict=True))
    return keypoints, scores, presences


def evaluate_network(
    network: CamNetwork, persons: PersonTable, size: tuple[int, int], padding: float
) -> Accuracy:
    """Predict the persons in their own boxes, without flip averaging, and measure."""
    keypoints, _, presence = predict_persons(network, persons, size, padding)
    return measure(keypoints, persons, presence=presence)
