"""Whether the loader keeps up: images per second in training from disk and with batches already in memory.

    python benchmarks/loader.py                                          # copies of the packaged photo
    python benchmarks/loader.py lspet/train.json lspet/images            # a data set below $LFPOSE_DATA

Both take turns in one process. A turn from disk begins with batches that were made during the other's turn,
so its first steps do not count. Writes benchmarks/results/loader.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from recording import print_table, write
from torch.utils.data import DataLoader

from lfpose_edge.cli.predict import PHOTO
from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.persons import data_root
from lfpose_edge.train.data.crops import CropView, PersonCrops
from lfpose_edge.train.data.mixture import CropMixture
from lfpose_edge.train.distributed import make_fabric
from lfpose_edge.train.loop import collate, loader_workers
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.objective import Objective
from lfpose_edge.train.process import keep_freed_memory, quiet_worker
from lfpose_edge.train.recipe import load_recipe

RESULTS = Path(__file__).parent / "results"


def photos(folder: Path, count: int, joints: list[str]) -> tuple[Path, Path]:
    """Make copies of the packaged photo, each with one person; returns annotations and images."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(count):
        (folder / "images" / f"{i}.jpg").write_bytes(PHOTO.read_bytes())
        points = np.column_stack([rng.uniform(100, 400, (len(joints), 2)), np.full(len(joints), 2)])
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 512, "height": 512})
        annotations.append(
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": [80, 40, 360, 460], "area": 165600}
            | {"iscrowd": 0, "keypoints": points.ravel().tolist(), "num_keypoints": len(joints)}
        )
    category = {"id": 1, "name": "person", "keypoints": joints}
    tree = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / "annotations.json").write_text(json.dumps(tree))
    return folder / "annotations.json", folder / "images"


def endless(crops: CropMixture, batch: int, workers: int) -> Iterator[Any]:
    """Batches of epoch after epoch, as training loads them."""
    epoch = 0
    while True:
        crops = crops.with_view(seed=(0, epoch))
        yield from DataLoader(
            crops,
            batch_sampler=[b for b in crops.epoch_batches(batch, (0, epoch)) if len(b) == batch],
            collate_fn=collate,
            num_workers=workers,
            worker_init_fn=quiet_worker,
        )
        epoch += 1


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", type=Path, nargs="?", help="COCO-keypoints JSON, below $LFPOSE_DATA")
    parser.add_argument("images", type=Path, nargs="?", help="folder of its images, likewise")
    parser.add_argument("--recipe", default="lfpose_lite")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--steps", type=int, default=12, help="steps of a turn that count")
    parser.add_argument(
        "--workers", type=int, help="loader processes; as the training chooses when not given"
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "loader.json")
    options = parser.parse_args()

    keep_freed_memory()
    recipe = load_recipe(options.recipe, ["network.pretrained=false"])
    batch = recipe.optimizer.batch_size
    device = torch.device(options.device)
    fabric = make_fabric(device.type, recipe.precision)
    workers = loader_workers(recipe, device) if options.workers is None else options.workers
    network = build_network(recipe.network, recipe.joints).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-5)
    mirror = torch.from_numpy(recipe.joints.flip_permutation).to(device)
    objective = Objective(recipe, network, mirror)

    def step(sample: Any) -> None:
        sample = type(sample)(*(t.to(device) for t in sample))
        with fabric.autocast():
            total = objective(network, network, sample, 0.5).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        total.item()  # waits for the device

    with tempfile.TemporaryDirectory() as scratch:
        if options.annotations is None:
            files = photos(Path(scratch), 4 * batch, list(recipe.joints.keypoints))
        else:
            files = (data_root(None) / options.annotations, data_root(None) / options.images)
        persons = read_coco_keypoints(*files, recipe.joints)
        if len(persons) < batch:
            parser.error(f"{files[0]} has {len(persons)} persons, a batch takes {batch}")
        view = CropView(recipe.input_size, recipe.data.padding, augment=recipe.augment)
        live = endless(CropMixture([PersonCrops(persons, view)]), batch, workers)
        kept = [next(live) for _ in range(4)]
        held_back = 2 * max(1, workers) + 1  # the most that loaders have ready
        rates: dict[str, list[float]] = {"from disk": [], "in memory": []}
        for turn in range(options.turns + 1):
            for _ in range(held_back):
                step(next(live))
            for name in rates:
                started = perf_counter()
                for i in range(options.steps):
                    step(next(live) if name == "from disk" else kept[i % len(kept)])
                if turn:  # the first warms up
                    rates[name].append(options.steps * batch / (perf_counter() - started))
        live.close()  # type: ignore[attr-defined]

    ratio = float(np.median(np.array(rates["from disk"]) / np.array(rates["in memory"])))
    rows: list[dict[str, Any]] = [
        {
            "batches": name,
            "recipe": options.recipe,
            "data": str(options.annotations or PHOTO.name),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "workers": workers,
            "images_per_second": float(np.median(values)),
            "step_ms": 1e3 * batch / float(np.median(values)),
            "of_memory": ratio if name == "from disk" else 1.0,
        }
        for name, values in rates.items()
    ]
    print_table(rows)
    write(options.json, rows)


if __name__ == "__main__":
    main()
