"""Training in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lfpose_edge.train.checkpoint import load_checkpoint, save_checkpoint
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import Recipe

MAIN = "from lfpose_edge.cli.main import main; main()"


TWO = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
pytestmark = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="torch was built without gloo"
)


# The backbone is frozen, BatchNorm and all; that of the decoder sees half a batch in each process.
NETWORK = {
    "backbone": "efficientnet_lite0",
    "pretrained": False,
    "widths": [32, 32, 32, 32],
    "freeze_stages": 7,
}


@pytest.fixture
def first(make_recipe: Callable[..., Recipe], tmp_path: Path) -> Path:
    """A checkpoint of the network, which knows nothing, to start from."""
    recipe = make_recipe(network={**NETWORK, "freeze_stages": 0})
    torch.manual_seed(0)
    state = build_network(recipe.network, recipe.joints).state_dict()
    save_checkpoint(
        tmp_path / "first.pt", {"recipe": recipe.model_dump(mode="json"), "ema": state, "step": 0}
    )
    return tmp_path / "first.pt"


# What each process saw of the first batch, and its BatchNorm after it, in FOLDER.
WATCH = """
import os, torch
from lfpose_edge.train import loop
from lfpose_edge.train.objective import Objective
seen = []
ask, share = Objective.__call__, loop.share_buffers
def asked(self, model, teacher, sample, progress):
    seen.append(sample.joints.flatten(1).clone())
    return ask(self, model, teacher, sample, progress)
def shared(fabric, network):
    share(fabric, network)
    if len(seen) == 1:
        buffers = [values.clone() for values in network.buffers()]
        torch.save([seen[0], *buffers], os.path.join(FOLDER, os.environ["RANK"] + ".pt"))
Objective.__call__, loop.share_buffers = asked, shared
"""


def _start(
    recipe: Path, data: Path, out: Path, launcher: tuple[str, ...], before: str = ""
) -> subprocess.Popen[str]:
    """Start ``lfpose train``, as README says, or by a script that does something before."""
    program = ["-m", "lfpose_edge"]
    if before:
        script = out.with_suffix(".py")
        script.write_text(f"{before}\nif __name__ == '__main__':\n    {MAIN}\n")
        program = [str(script)]
    return subprocess.Popen(
        [sys.executable, *launcher, *program, "train", str(recipe), "--data", str(data)]
        + ["--out", str(out), "--device", "cpu", "--validate-every", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def _train(
    recipe: Path, data: Path, out: Path, launcher: tuple[str, ...], before: str = ""
) -> dict[str, Any]:
    process = _start(recipe, data, out, launcher, before)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return torch.load(out / "last.pt", weights_only=True)


def test_two_processes_train_as_one_does(
    make_recipe: Callable[..., Recipe], figures: Path, first: Path, tmp_path: Path
) -> None:
    # 24 persons in batches of 19: the last batch, of 5, is shared too.
    optimizer = {"batch_size": 19, "warmup_steps": 1, "lr_head": 5e-3, "clip_norm": 100}
    recipe = make_recipe(optimizer=optimizer, network=NETWORK, start_from=str(first))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    one = _train(tmp_path / "recipe.yaml", figures, tmp_path / "one", ())
    watch = WATCH.replace("FOLDER", repr(str(tmp_path)))
    two = _train(tmp_path / "recipe.yaml", figures, tmp_path / "two", TWO, watch)
    assert two["step"] == one["step"] == 4
    for alone, together in zip(one["history"], two["history"], strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=0.02)
    start = load_checkpoint(first)["ema"]
    learned = [name for name in start if name.startswith(("decoder", "cam_head")) and name.endswith("weight")]
    moves = [
        torch.cat([(state["network"][name] - start[name]).flatten() for name in learned])
        for state in (one, two)
    ]
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.75
    assert moves[1].norm().item() == pytest.approx(moves[0].norm().item(), rel=0.1)
    # Each process saw different persons, and both have the same statistics over all of them.
    (ours, *buffers), (theirs, *others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert (len(ours), len(theirs)) == (10, 9)
    assert len(torch.cat([ours, theirs]).unique(dim=0)) == 19
    assert all(torch.equal(one, other) for one, other in zip(buffers, others, strict=True))


def test_two_processes_stop_together_and_go_on(
    make_recipe: Callable[..., Recipe], figures: Path, first: Path, tmp_path: Path
) -> None:
    stages = [{"epochs": 2, "size": [64, 64]}]
    network = {"network": NETWORK, "start_from": str(first)}
    recipe = make_recipe(optimizer={"batch_size": 8}, stages=stages, **network)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    whole = _train(file, figures, tmp_path / "whole", TWO)

    broken = tmp_path / "broken"
    # Only one process is told to stop, at a step that it chooses; the other must not go on alone.
    stop = (
        "import os, signal; from lfpose_edge.train import loop; real = loop.update_average;"
        "calls = []; "
        "loop.update_average = lambda *a: (real(*a), calls.append(1), len(calls) == 4"
        " and os.environ['RANK'] == '1' and signal.raise_signal(signal.SIGTERM))"
    )
    process = _start(file, figures, broken, TWO, stop)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1, said  # not done
    assert "run the same command to go on" in said
    assert torch.load(broken / "last.pt", weights_only=True)["step"] == 4
    state = _train(file, figures, broken, TWO)
    assert state["step"] == whole["step"] == 6
    for name, tensor in whole["network"].items():
        torch.testing.assert_close(state["network"][name], tensor, rtol=0, atol=0)
