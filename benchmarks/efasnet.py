"""What EFASNet's modules are worth: trainings with none, each and all of them, measured alone and in crowds.

    python benchmarks/efasnet.py                  # all rows, seed 0; hours on a CPU
    python benchmarks/efasnet.py --rows baseline all --seeds 1 2
    python benchmarks/efasnet.py --compare        # differences between recorded rows, and their intervals
    python benchmarks/efasnet.py --speed          # parameters, multiply-accumulates, milliseconds

Needs Leeds Sports Pose Extended as COCO JSON below $LFPOSE_DATA: lspet/train.json, test.json, val.json and
images. Makes the crowds (``lfpose data crowd``), trains every row with ``lfpose train`` on the same schedule,
measures it with ``lfpose eval`` on the test images and on the three degrees of crowding, and writes
benchmarks/results/efasnet.json after each. A row that is recorded there is not trained again; an interrupted
training is resumed.

"baseline" uses only the coarsest map of the backbone, like Simple Baselines; "FF" is this project's ordinary
decoder, and the recipe. Either of them with a larger backbone is what must be beaten at equal cost. With
"crowds", six of ten training crops also have other people around the person, as in the crowds measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recording import interleave, print_table, write
from trainings import COUNTS, LFPOSE, compare, evaluate, folder_of, record_rows, recorded, run, train

from lfpose_edge.persons import data_root

RESULTS = Path(__file__).parent / "results"
RECIPE = "efasnet_edge"
# The recipe has FF alone.
FASM = "network.aggregate={scales: 4, ratio: 1, select: true}"
FASM_WITHOUT_SELECTION = "network.aggregate={scales: 4, ratio: 1, select: false}"
DUC = "network.decode.upsample=duc_separable"
NO_FF = "network.decode.laterals=[]"
CONCAT = "network.decode.fusion=concat"
LARGER = "network.backbone=efficientnet_lite2"
CONTEXT = ("network.context={layers: 2, width: 128}", "network.widths=[128, 64, 48]")
CROWDS = ("augment.crowd=0.6", "augment.intruder=0")
ROWS: dict[str, Sequence[str]] = {
    "baseline": (NO_FF,),
    "FASM": (FASM, NO_FF),
    "FF": (),
    "DUC": (NO_FF, DUC),
    "all": (FASM, DUC),
    "all but FASM": (DUC,),
    "all but DUC": (FASM,),
    "all, no selection": (FASM_WITHOUT_SELECTION, DUC),
    "all, FF by concatenation": (FASM, DUC, CONCAT),
    "baseline, larger backbone": (NO_FF, LARGER),
    "FF, larger backbone": (LARGER,),
    "FF, crowds": CROWDS,
    "FF, context, crowds": (*CROWDS, *CONTEXT),
    "all but DUC, crowds": (*CROWDS, FASM),
    "baseline, larger backbone, crowds": (NO_FF, LARGER, *CROWDS),
}
AGAINST = {
    "baseline": (),
    "FASM": ("baseline",),
    "FF": ("baseline", "baseline, larger backbone"),
    "DUC": ("baseline",),
    "all": ("baseline", "FF", "FF, larger backbone", "all but FASM"),
    "all but FASM": ("baseline", "FF"),
    "all but DUC": ("baseline", "FF"),
    "all, no selection": ("all",),
    "all, FF by concatenation": ("all",),
    "baseline, larger backbone": ("baseline",),
    "FF, larger backbone": ("FF", "baseline, larger backbone"),
    "FF, crowds": ("FF", "baseline, larger backbone, crowds"),
    "FF, context, crowds": ("FF, crowds", "baseline, larger backbone, crowds"),
    "all but DUC, crowds": ("FF, crowds", "baseline, larger backbone, crowds"),
    "baseline, larger backbone, crowds": ("baseline, larger backbone",),
}
PLACES = {
    "alone": ("lspet/test.json", "lspet/images"),
    **{level: (f"crowd/{level}.json", "crowd/images") for level in ("easy", "medium", "hard")},
}


def schedule(size: int, epochs: int) -> list[str]:
    """Two thirds of the epochs at three quarters of the size or less, then one third at the size itself."""
    small = max(32, size * 3 // 4 // 32 * 32)
    last = max(1, epochs // 3)
    stages = [(epochs - last, small), (last, size)]
    written = ", ".join(f"{{epochs: {n}, size: [{side}, {side}]}}" for n, side in stages if n)
    return [f"stages=[{written}]"]


def measure(name: str, seed: int, options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Train a row and evaluate it everywhere."""
    out = folder_of(options.runs, options.device, name, options.size, options.epochs, seed)
    changes = [f"seed={seed}", *schedule(options.size, options.epochs), *ROWS[name]]
    if options.workers is not None:
        changes.append(f"data.workers={options.workers}")
    trained = train(RECIPE, changes, out, root, options.device)
    checkpoint = out / "last.pt"
    found = {place: evaluate(checkpoint, *where, root, options.device) for place, where in PLACES.items()}
    kept = ("pck_box", "per_joint", "oks", *COUNTS)
    return {**trained, **{place: {k: values[k] for k in kept} for place, values in found.items()}}


def speed(size: int) -> list[dict[str, Any]]:
    """What each row's network costs; milliseconds on ONNX Runtime, one thread, in turns."""
    import onnxruntime
    from lfpose_edge.export.to_onnx import to_onnx

    from lfpose_edge.train.networks import build_network
    from lfpose_edge.train.networks.cam_network import count_macs, count_parameters
    from lfpose_edge.train.recipe import load_recipe

    rows, calls = [], {}
    crops = np.random.default_rng(0).normal(size=(1, 3, size, size)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, changes in ROWS.items():
        recipe = load_recipe(RECIPE, changes)
        network = build_network(recipe.network, recipe.joints, pretrained=False)
        rows.append(
            {
                "row": name,
                "parameters_m": count_parameters(network) / 1e6,
                "gmac": count_macs(network, (size, size)) / 1e9,
            }
        )
        file = to_onnx(network, (size, size)).SerializeToString()
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        calls[name] = _call(session, crops)
    samples, times_baseline = interleave(calls, seconds=60, warm_up=10)
    return [
        {
            **row,
            "ms": float(np.median(samples[row["row"]])),
            "times_baseline": times_baseline[row["row"]],
        }
        for row in rows
    ]


def _call(session: Any, crops: np.ndarray) -> Callable[[], object]:
    return lambda: session.run(None, {"crops": crops})


def main() -> None:
    """Train, measure, write, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, metavar="ROW", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--size", type=int, default=128, help="side of the crops")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--workers", type=int, help="processes that load, beside the one that trains")
    parser.add_argument("--runs", type=Path, default=Path("runs/efasnet"), help="folder of the checkpoints")
    parser.add_argument("--list", action="store_true", help="name the rows and stop")
    parser.add_argument("--json", type=Path, default=RESULTS / "efasnet.json")
    parser.add_argument(
        "--speed", action="store_true", help="time the networks, write efasnet-speed.json, stop"
    )
    parser.add_argument("--compare", action="store_true", help="print differences between rows and stop")
    options = parser.parse_args()
    if options.list:
        print("\n".join(ROWS))
        return
    if options.speed:
        rows = speed(options.size)
        print_table(rows)
        write(options.json.with_name("efasnet-speed.json"), rows)
        return
    same = {"size": options.size, "epochs": options.epochs}
    if options.compare:
        known = [row for row in recorded(options.json) if same.items() <= row.items()]
        for place in PLACES:
            print(f"== {place}")
            print_table(compare([{**row, **row[place]} for row in known], AGAINST))
        return

    root = data_root(None)
    if not (root / "crowd" / "hard.json").is_file():
        run([LFPOSE, "data", "crowd", *PLACES["alone"], "--out", "crowd"], root)
    record_rows(
        options.json,
        options.rows,
        options.seeds,
        same,
        options.device,
        lambda name, seed: measure(name, seed, options, root),
    )
    print_table(
        [
            {
                **{k: row[k] for k in ("row", "seed", "device", "minutes")},
                **{place: row[place]["pck_box"] for place in PLACES},
                "OKS AP75": row["alone"]["oks"]["ap75"],
            }
            for row in recorded(options.json)
        ]
    )


if __name__ == "__main__":
    main()
