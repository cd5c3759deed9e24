"""lfpose-lite beside other small pose models: the same people, the same boxes, one thread, one process.

    python benchmarks/peers.py

Needs the project's research data (Leeds Sports Pose Extended and the TFLite peers) in --shared or
$LFPOSE_SHARED, and `pip install ai-edge-litert`. All models take turns of fifty persons, of whom the first
ten are not timed: a deployed model runs over and over, and it takes some calls until the caches hold its
weights. With --burst 1 every call finds another model's weights there. Each round begins with a different
model. "network" is the time of ``invoke`` alone for a peer, and the time in the backend for ours. Accuracy is
PCK at 0.1 of the box's longer side over the twelve limb joints, with boxes from the ground truth and without
flip averaging. Writes benchmarks/results/peers.json.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from recording import percentiles, print_table, write

from lfpose_edge import PoseEstimator, ops
from lfpose_edge.backends import available
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.errors import BackendUnavailable, BundleError
from lfpose_edge.geometry import apply_affine, crop_affines
from lfpose_edge.metrics import box_thresholds, pck
from lfpose_edge.metrics.pck import LIMB_JOINTS
from lfpose_edge.persons import PersonTable
from lfpose_edge.skeleton import COCO17, SKELETONS

Floats = NDArray[np.float32]
Step = Callable[[NDArray[np.uint8], NDArray[np.float64]], tuple[NDArray[np.float64], float]]
RESULTS = Path(__file__).parent / "results"
WARM_UP = 20
BURST = 50
SETTLING = 0.2  # share of a burst that is not timed

_BLAZEPOSE_LIMBS = (11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # in the order of LIMB_JOINTS
_PEFM_LIMBS = (5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)


@dataclass(frozen=True)
class Peer:
    """A TFLite pose model.

    Attributes:
        file: its name in the folder of peers.
        size: its square input's side, pixels.
        padding: the crop's size relative to the box's; the best of 1.0, 1.25 and 1.5 on the validation set.
        scale: factor by which grey levels are multiplied; None feeds uint8.
        swap_rb: whether it expects RGB.
        joints: converts its output to the twelve limb joints, (12, 2), in crop pixels.
    """

    file: str
    size: int
    padding: float
    scale: float | None
    swap_rb: bool
    joints: Callable[[Floats, int], NDArray[np.float64]]


def _movenet(output: Floats, size: int) -> NDArray[np.float64]:
    table = output.reshape(17, 3)[[COCO17.index(j) for j in LIMB_JOINTS]]
    return table[:, 1::-1].astype(np.float64) * size


def _blazepose(output: Floats, size: int) -> NDArray[np.float64]:
    return output.reshape(39, 5)[list(_BLAZEPOSE_LIMBS), :2].astype(np.float64)


def _pefm(output: Floats, size: int) -> NDArray[np.float64]:
    maps = output[0][..., list(_PEFM_LIMBS)]  # (h, w, 12)
    peaks = maps.reshape(-1, 12).argmax(0)
    cells = np.stack([peaks % maps.shape[1], peaks // maps.shape[1]], axis=1)
    return (cells + 0.5) * size / maps.shape[1]


PEERS = {
    "MoveNet Lightning int8": Peer(
        "movenet_singlepose_lightning_int8_4.tflite", 192, 1.0, None, True, _movenet
    ),
    "BlazePose landmark lite": Peer("pose_landmark_lite.tflite", 256, 1.5, 1 / 255, True, _blazepose),
    "BlazePose landmark full": Peer("pose_landmark_full.tflite", 256, 1.5, 1 / 255, True, _blazepose),
    "PEFM CPM": Peer("pefm_cpm_model_model.tflite", 192, 1.25, 1.0, False, _pefm),
    "PEFM hourglass": Peer("pefm_hourglass_model_model.tflite", 192, 1.5, 1.0, False, _pefm),
}


def peer_step(peer: Peer, folder: Path) -> Step:
    """A function from (image, box) to (joints in image pixels, milliseconds of the network alone)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / peer.file), num_threads=1)
    interpreter.allocate_tensors()
    inlet = interpreter.get_input_details()[0]["index"]
    outlet = interpreter.get_output_details()[0]["index"]
    dtype = np.uint8 if peer.scale is None else np.float32
    std = (1.0,) * 3 if peer.scale is None else (1 / peer.scale,) * 3
    pixels = np.empty((1, peer.size, peer.size, 3), dtype)
    crop = pixels.transpose(0, 3, 1, 2)  # written as the network reads it, as our backends' crops are

    def step(image: NDArray[np.uint8], box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        affines = crop_affines(box, (peer.size, peer.size), padding=peer.padding)
        size = (peer.size, peer.size)
        ops.preprocess(image, affines, size, swap_rb=peer.swap_rb, std=std, dtype=dtype, threads=1, out=crop)
        interpreter.set_tensor(inlet, pixels)
        started = perf_counter()
        interpreter.invoke()
        network_ms = (perf_counter() - started) * 1e3
        joints = peer.joints(interpreter.get_tensor(outlet), peer.size)
        return apply_affine(affines[0], joints), network_ms

    return step


def our_step(estimator: PoseEstimator) -> Step:
    """The same for an estimator of ours."""
    limbs = [estimator.skeleton.index(j) for j in LIMB_JOINTS]

    def step(image: NDArray[np.uint8], box: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        result = estimator(image, box)
        return result.keypoints[0, limbs].astype(np.float64), result.timings.infer_ms

    return step


def compare(steps: dict[str, Step], persons: PersonTable, burst: int = BURST) -> list[dict[str, Any]]:
    """Run all models on every person; one row per model, the first one being the yardstick.

    Args:
        steps: the models by name.
        persons: the persons to run on.
        burst: how many persons a model gets before the next one's turn; the first fifth of them is not timed.
    """
    images = [persons.image(i) for i in range(len(persons))]
    for step in steps.values():
        for i in range(min(WARM_UP, len(persons))):
            step(images[i], persons.boxes[i])
    joints: dict[str, list[NDArray[np.float64]]] = {name: [] for name in steps}
    whole_ms: dict[str, list[float]] = {name: [] for name in steps}
    network_ms: dict[str, list[float]] = {name: [] for name in steps}
    timed: list[int] = []
    for turn, first in enumerate(range(0, len(persons), burst)):
        rows_of_burst = range(first, min(first + burst, len(persons)))
        timed += rows_of_burst[int(SETTLING * len(rows_of_burst)) :]
        names = list(steps)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            step = steps[name]
            for i in rows_of_burst:
                started = perf_counter()
                found, network = step(images[i], persons.boxes[i])
                whole_ms[name].append((perf_counter() - started) * 1e3)
                network_ms[name].append(network)
                joints[name].append(found)
    times = {name: np.array([whole_ms[name], network_ms[name]])[:, timed] for name in steps}

    limbs = [persons.skeleton.index(j) for j in LIMB_JOINTS]
    yardstick = times[next(iter(steps))][1]
    rows = []
    for name in steps:
        predicted = np.zeros((len(persons), len(persons.skeleton), 2))
        predicted[:, limbs] = joints[name]
        accuracy = pck(
            predicted,
            persons.joints,
            persons.labelled,
            box_thresholds(persons.boxes),
            persons.skeleton,
            [j for j in LIMB_JOINTS if j in persons.skeleton.keypoints],
        )
        rows.append(
            {
                "model": name,
                "persons": len(persons),
                "pck_01_box": round(accuracy.mean, 4),
                **{f"network_{k}_ms": v for k, v in percentiles(times[name][1]).items()},
                **{f"whole_{k}_ms": v for k, v in percentiles(times[name][0]).items()},
                "whole_over_yardstick_network": round(float(np.median(times[name][0] / yardstick)), 3),
            }
        )
    return rows


def main() -> None:
    """Compare, print, write."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("LFPOSE_SHARED", beside)))
    parser.add_argument("--data", default="lspet/test.json", help="COCO-keypoints JSON under SHARED/data")
    parser.add_argument("--persons", type=int, help="only the first so many")
    parser.add_argument("--burst", type=int, default=BURST, help="persons in a row for each model")
    parser.add_argument("--model", default="lfpose-lite")
    parser.add_argument(
        "--json", type=Path, default=RESULTS / "peers.json", help="where the rows are written"
    )
    options = parser.parse_args()

    annotations = options.shared / "data" / options.data
    skeleton = SKELETONS["lsp14" if "lspet" in options.data else "coco17"]
    persons = read_coco_keypoints(annotations, annotations.parent / "images", skeleton)
    if options.persons:
        persons = persons.first(options.persons)
    steps = {name: peer_step(peer, options.shared / "models" / "peers") for name, peer in PEERS.items()}
    for backend in (name for name, reason in available().items() if reason is None):
        for precision in ("fp32", "int8"):
            try:
                estimator = PoseEstimator(options.model, backend=backend, precision=precision, threads=1)
            except (BackendUnavailable, BundleError):
                continue
            steps[f"{options.model}, {estimator.describe()['backend']}"] = our_step(estimator)
    rows = compare(steps, persons, options.burst)
    print_table(rows)
    write(options.json, rows)


if __name__ == "__main__":
    main()
