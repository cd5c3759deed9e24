"""What smoothing removes and what it costs: jitter, lag and accuracy as found and after PoseTracker.

    python benchmarks/smoothing.py                                       # needs lspet below $LFPOSE_DATA
    python benchmarks/smoothing.py lspet/test.json lspet/images --persons 40

There is no video with located joints here, so videos are made of each person's photo: by a camera that rests,
one that pans slowly and one that pans fast, with new noise in every frame, and with boxes that are slightly
wrong, as a detector's are. All joints move with the picture, so their positions are known in every frame.
Writes benchmarks/results/smoothing.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from recording import print_table, write

from lfpose_edge import PoseEstimator, PoseResult, PoseTracker
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.geometry import apply_affine
from lfpose_edge.opencv import cv2
from lfpose_edge.persons import PersonTable, data_root

RESULTS = Path(__file__).parent / "results"
FPS, FRAMES = 30.0, 45
PANS = {"rest": 0.0, "slow": 0.3, "fast": 1.5}  # peak speed, in boxes (longer side) per second
SWINGS_HZ = 0.7
TREMOR, BOX_ERROR, NOISE = 0.001, 0.02, 6.0  # of the box, of the box, grey levels
SETTLED = 10  # frames until the filter has settled


def video(persons: PersonTable, row: int, speed: float) -> Iterator[tuple[Any, Any, Any]]:
    """Frames of one person's photo: image, box (4,), and the true joints (K, 2)."""
    rng = np.random.default_rng((row, round(100 * speed)))
    image, box, joints = persons.image(row), persons.boxes[row], persons.joints[row]
    size = float((box[2:] - box[:2]).max())
    direction = rng.uniform(0, 2 * np.pi)
    swing = np.array([np.cos(direction), np.sin(direction)]) * speed * size / (2 * np.pi * SWINGS_HZ)
    for frame in range(FRAMES):
        phase = 2 * np.pi * SWINGS_HZ * frame / FPS
        shift = swing * np.sin(phase) + rng.normal(0, TREMOR * size, 2)
        affine = np.column_stack([np.eye(2), shift])
        shown = cv2.warpAffine(image, affine, image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
        noisy = shown + rng.normal(0, NOISE, shown.shape)
        wrong = np.tile(shift, 2) + rng.normal(0, BOX_ERROR * size, 4)
        yield np.clip(noisy, 0, 255).astype(np.uint8), box + wrong, apply_affine(affine, joints)


class Wrong(NamedTuple):
    """Errors of the joints of a video; distances are relative to the box's longer side.

    Attributes:
        jitter: the error's second difference, from frame to frame.
        error: distances to the truth.
        behind: sum of how far joints lag behind along their motion, times their speed.
        speed_squared: sum of the joints' squared speeds; ``behind`` divided by it is the lag in seconds.
    """

    jitter: NDArray[Any]
    error: NDArray[Any]
    behind: float
    speed_squared: float


def measure(found: NDArray[Any], truth: NDArray[Any], good: NDArray[Any], size: float) -> Wrong:
    """Errors of a video's joints (T, K, 2); only the joints in ``good`` (K,) count."""
    error = ((found - truth) / size)[SETTLED:, good]
    speed = (np.gradient(truth, axis=0) * FPS / size)[SETTLED:, good]
    return Wrong(
        np.linalg.norm(np.diff(error, n=2, axis=0), axis=2).ravel(),
        np.linalg.norm(error, axis=2).ravel(),
        float(-(error * speed).sum()),
        float((speed**2).sum()),
    )


def main() -> None:
    """Simulate, predict, track, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", nargs="?", default="lspet/test.json")
    parser.add_argument("images", nargs="?", default="lspet/images")
    parser.add_argument("--persons", type=int, default=60)
    parser.add_argument("--model", default="lfpose-lite")
    parser.add_argument("--json", type=Path, default=RESULTS / "smoothing.json")
    options = parser.parse_args()
    root = data_root(None)
    with PoseEstimator(options.model, backend="onnxruntime", threads=1) as pose:
        table = read_coco_keypoints(root / options.annotations, root / options.images, pose.skeleton)
        rows = [
            row
            for pan, speed in PANS.items()
            for row in compared(pan, list(videos(pose, table, options.persons, speed)))
        ]
    print_table(rows)
    write(options.json, rows)


def videos(pose: PoseEstimator, table: PersonTable, persons: int, speed: float) -> Iterator[Any]:
    """For each person: the results of every frame, the truth (T, K, 2), which joints count, the box's size.

    Joints count that are labelled and that the model finds visible in every frame.
    """
    for row in range(min(persons, len(table))):
        size = float((table.boxes[row][2:] - table.boxes[row][:2]).max())
        results, truth = [], []
        for image, box, joints in video(table, row, speed):
            results.append(pose(image, box))
            truth.append(joints)
        visible = np.stack([result.visible[0] for result in results]).all(axis=0)
        yield results, np.array(truth), table.labelled[row] & visible, size


def compared(pan: str, recordings: list[Any]) -> list[dict[str, Any]]:
    """A row without smoothing and one with it."""
    rows = []
    for name, smooth in (("as found", False), ("smoothed", True)):
        parts = []
        for results, truth, good, size in recordings:
            tracker = PoseTracker(smooth=smooth)
            shown: list[PoseResult] = [tracker(r, i / FPS) for i, r in enumerate(results)]
            parts.append(measure(np.stack([r.keypoints[0] for r in shown]), truth, good, size))
        jitter, error = (np.concatenate(values) for values in list(zip(*parts, strict=True))[:2])
        lag_s = sum(part.behind for part in parts) / sum(part.speed_squared for part in parts)
        rows.append(
            {
                "camera": pan,
                "joints": name,
                "jitter_percent": round(100 * float(np.median(jitter)), 3),
                "error_percent": round(100 * float(np.median(error)), 3),
                "pck@0.1": round(float((error < 0.1).mean()), 4),
                "lag_ms": round(1e3 * lag_s, 1) if PANS[pan] else None,
            }
        )
    return rows


if __name__ == "__main__":
    main()
