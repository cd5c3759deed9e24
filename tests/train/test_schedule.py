"""Learning rate and average over a run, also one that is shorter than its recipe expects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lfpose_edge.train import loop
from lfpose_edge.train.checkpoint import load_checkpoint
from lfpose_edge.train.loop import average_decay, set_learning_rate
from lfpose_edge.train.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


def _train(recipe: Recipe, root: Path, out: Path) -> loop.Run:
    return loop.train(recipe, data_root=root, out=out, accelerator="cpu", validate_every=99)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "peak_lr": 2.0}], lr=0.0)
    rates = []
    for step in range(100):
        set_learning_rate(optimizer, step, 100, 10)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.2)
    assert np.argmax(rates) == 9
    assert rates[-1] < 1e-3


def test_the_warm_up_reaches_the_weights(figures: Path, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    network = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [8, 8]}
    for steps in (1, 2):
        recipe = make_recipe(
            optimizer={"batch_size": 24, "warmup_steps": steps},
            network=network,
            stages=[{"epochs": 10, "size": [32, 32]}],
        )
        _train(recipe, figures, tmp_path / str(steps))
    ours, theirs = (load_checkpoint(tmp_path / str(steps) / "last.pt") for steps in (1, 2))
    for kind in ("network", "ema"):
        same = [
            name
            for name, value in ours[kind].items()
            if value.is_floating_point() and torch.equal(value, theirs[kind][name])
        ]
        assert same == []


@pytest.mark.parametrize(
    ("batch_size", "asked", "warmed_up"),
    [pytest.param(8, 300, 6, id="longer than the run"), pytest.param(8, 4, 4, id="as asked")],
)
def test_a_short_run_warms_up_for_a_fifth_of_it(
    figures: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    asked: int,
    warmed_up: int,
) -> None:
    """Three steps an epoch, and ten epochs: 300 steps of warm-up would leave a tenth of the rate."""
    given: list[tuple[int, ...]] = []
    monkeypatch.setattr(loop, "set_learning_rate", lambda _, *plan: given.append(plan))
    recipe = make_recipe(
        optimizer={"batch_size": batch_size, "warmup_steps": asked},
        network={"backbone": "efficientnet_lite0", "pretrained": False, "widths": [8, 8]},
        stages=[{"epochs": 10, "size": [32, 32]}],
    )
    _train(recipe, figures, tmp_path)
    assert given == [(step, 30, warmed_up) for step in range(30)]


@pytest.mark.parametrize(
    ("steps", "last"), [pytest.param(192, 1 - 3 / 192, id="short"), pytest.param(1600, 0.998, id="long")]
)
def test_of_a_trained_start_little_is_left_in_the_average_however_short_the_run(
    steps: int, last: float
) -> None:
    decays = [average_decay(0.998, step, steps, trained=True) for step in range(steps)]
    assert decays == [pytest.approx(last)] * steps
    assert np.prod(decays) < 0.05
    assert average_decay(0.998, 0, 2, trained=True) == 0.0


def test_of_a_random_start_nothing_is_left_in_the_average() -> None:
    decays = [average_decay(0.998, step, 100, trained=False) for step in range(100)]
    assert np.prod(decays) < 1e-12
    assert average_decay(0.998, 10_000, 20_000, trained=False) == 0.998
