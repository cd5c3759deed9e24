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

from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import Recipe

MAIN = "from lfpose_edge.cli.main import main; main()"


def _train(recipe: Path, data: Path, out: Path, launcher: list[str]) -> dict[str, Any]:
    script = out.with_suffix(".py")
    script.write_text(f"if __name__ == '__main__':\n    {MAIN}\n")
    done = subprocess.run(
        [sys.executable, *launcher, str(script), "train", str(recipe), "--data", str(data)]
        + ["--out", str(out), "--device", "cpu", "--validate-every", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(out / "last.pt", weights_only=True)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_two_processes_train_as_one_does(
    make_recipe: Callable[..., Recipe], figures: Path, tmp_path: Path
) -> None:
    # 24 persons in batches of 19: the last batch, of 5, is shared too.
    optimizer = {"batch_size": 19, "warmup_steps": 1, "lr_head": 5e-3, "clip_norm": 100}
    recipe = make_recipe(optimizer=optimizer, network=NETWORK)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    one = _train(tmp_path / "recipe.yaml", figures, tmp_path / "one", [])
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    two = _train(tmp_path / "recipe.yaml", figures, tmp_path / "two", launcher)
    assert two["step"] == one["step"] == 4
    for alone, together in zip(one["history"], two["history"], strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=0.02)
    torch.manual_seed(recipe.seed)
    start = build_network(recipe.network, recipe.joints).state_dict()
    learned = [name for name in start if name.startswith(("decoder", "cam_head")) and name.endswith("weight")]
    moves = [
        torch.cat([(state["network"][name] - start[name]).flatten() for name in learned])
        for state in (one, two)
    ]
    assert torch.nn.functional.cosine_similarity(*moves, dim=0) > 0.75
    assert moves[1].norm().item() == pytest.approx(moves[0].norm().item(), rel=0.1)


# The backbone is frozen, BatchNorm and all; that of the decoder sees half a batch in each process.
NETWORK = {
    "backbone": "efficientnet_lite0",
    "pretrained": False,
    "widths": [32, 32, 32, 32],
    "freeze_stages": 7,
}
