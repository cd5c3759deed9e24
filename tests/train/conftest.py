"""A data set of drawn stick figures: small enough to train on in a test, located exactly."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lfpose_edge.skeleton import LSP14
from lfpose_edge.train import loop
from lfpose_edge.train.recipe import Recipe, parse_recipe

# Where each LSP joint of a standing figure is, in a box of width and height 1.
_POSE = {
    "right_ankle": (0.3, 1.0),
    "right_knee": (0.35, 0.8),
    "right_hip": (0.4, 0.58),
    "left_hip": (0.6, 0.58),
    "left_knee": (0.65, 0.8),
    "left_ankle": (0.7, 1.0),
    "right_wrist": (0.0, 0.5),
    "right_elbow": (0.15, 0.4),
    "right_shoulder": (0.35, 0.25),
    "left_shoulder": (0.65, 0.25),
    "left_elbow": (0.85, 0.4),
    "left_wrist": (1.0, 0.5),
    "neck": (0.5, 0.2),
    "head_top": (0.5, 0.0),
}


def draw_figures(folder: Path, count: int, seed: int) -> None:
    """Write ``count`` images and ``annotations.json`` into a folder."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (folder / "images").mkdir(parents=True)
    for i in range(count):
        width, height = rng.uniform(50, 90), rng.uniform(80, 110)
        corner = rng.uniform(5, 20, 2)
        joints = np.array([_POSE[j] for j in LSP14.keypoints]) * (width, height) + corner
        joints += rng.normal(0, 2, joints.shape)
        canvas = rng.integers(0, 60, (140, 120, 3), dtype=np.uint8)
        for a, b in LSP14.edges:
            left = a.startswith("left")
            ends = [tuple(np.round(joints[LSP14.index(j)]).astype(int).tolist()) for j in (a, b)]
            cv2.line(canvas, ends[0], ends[1], (60, 220, 60) if left else (60, 60, 220), 4)
        name = f"{i:03d}.png"
        cv2.imwrite(str(folder / "images" / name), canvas)
        labelled = rng.random(len(LSP14)) > 0.1
        triples = np.column_stack([joints - 0.5, 2 * labelled]) * labelled[:, None]
        images.append({"id": i, "file_name": name, "width": 120, "height": 140})
        annotations.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "bbox": [*corner.tolist(), width, height],
                "area": width * height,
                "keypoints": triples.ravel().tolist(),
                "num_keypoints": int(labelled.sum()),
                "iscrowd": 0,
            }
        )
    category = {"id": 1, "name": "person", "keypoints": list(LSP14.keypoints)}
    tree = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "annotations.json").write_text(json.dumps(tree))


@pytest.fixture(scope="session")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with ``train`` (24 figures) and ``val`` (8)."""
    root = tmp_path_factory.mktemp("figures")
    draw_figures(root / "train", 24, seed=1)
    draw_figures(root / "val", 8, seed=2)
    return root


@pytest.fixture
def learn_figures() -> dict[str, Any]:
    """What a recipe needs for a small network to learn where the joints of the figures are."""
    return {
        "stages": [{"epochs": 24, "size": [64, 64]}],
        "augment": {"rotation_deg": 0, "scale": 0, "shift": 0.02, "flip": 0, "color": 0, "cutout": 0},
        "optimizer": {
            "batch_size": 4,
            "warmup_steps": 5,
            "lr_head": 4e-3,
            "lr_backbone": 4e-3,
            "ema_decay": 0.9,
        },
    }


@pytest.fixture
def make_recipe() -> Callable[..., Recipe]:
    """Builds a recipe for ``figures``; keyword arguments replace whole sections."""

    def make(**changes: object) -> Recipe:
        def data(part: str) -> dict[str, str]:
            return {"annotations": f"{part}/annotations.json", "images": f"{part}/images"}

        tree: dict[str, object] = {
            "name": "figures",
            "skeleton": "lsp14",
            "precision": "32-true",
            "data": {"train": data("train"), "val": data("val"), "workers": 0},
            "network": {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [32, 32, 32, 32]},
            "stages": [{"epochs": 2, "size": [64, 64]}],
            "optimizer": {"batch_size": 8, "warmup_steps": 2},
        }
        return parse_recipe({**tree, **changes}, where="test")

    return make


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Asks the training to stop, as a SIGTERM does, after so many steps."""

    def arrange(last: int) -> None:
        steps = 0
        real = loop.update_average

        def count_and_stop(*args: object) -> None:
            nonlocal steps
            real(*args)  # type: ignore[arg-type]
            steps += 1
            if steps == last:
                signal.raise_signal(signal.SIGTERM)

        monkeypatch.setattr(loop, "update_average", count_and_stop)

    return arrange
