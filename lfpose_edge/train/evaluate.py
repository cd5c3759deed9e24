"""Accuracy of a network while it is trained."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lfpose_edge import ops
from lfpose_edge.geometry import crop_affines
from lfpose_edge.metrics.accuracy import Accuracy, measure
from lfpose_edge.persons import PersonTable
from lfpose_edge.train.data.crops import CropView, PersonCrops
from lfpose_edge.train.networks import CamNetwork


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


def evaluate_network(
    network: CamNetwork, persons: PersonTable, size: tuple[int, int], padding: float
) -> Accuracy:
    """Predict the persons in their own boxes, without flip averaging, and measure."""
    keypoints, _, _ = predict_persons(network, persons, size, padding)
    return measure(keypoints, persons)
