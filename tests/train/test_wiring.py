"""What the loop passes on: the average, the progress, the mirror joints, the bridge's weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lfpose_edge.skeleton import LSP14
from lfpose_edge.train import loop
from lfpose_edge.train.objective import Objective
from lfpose_edge.train.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


class Recorded(Objective):
    """An objective that keeps what it was made with and asked for."""

    made: list[Recorded] = []

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.asked: list[tuple[torch.nn.Module, bool, bool, float]] = []
        weights = () if self.bridge is None else self.bridge.parameters()
        self.first_weights = [values.detach().clone() for values in weights]
        self.made.append(self)

    def __call__(self, model: Any, teacher: Any, sample: Any, progress: float) -> Any:
        self.asked.append((teacher, teacher.training, model.training, progress))
        return super().__call__(model, teacher, sample, progress)


@pytest.fixture
def objectives(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    monkeypatch.setattr(loop, "Objective", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    return Recorded.made


def _train(recipe: Recipe, data_root: Path, out: Path) -> loop.Run:
    return loop.train(recipe, data_root=data_root, out=out, accelerator="cpu", validate_every=9)


def test_the_average_teaches_and_is_measured_and_a_loss_knows_how_far_the_training_is(
    figures: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    objectives: list[Recorded],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []
    real = loop.evaluate_network

    def spied(network: Any, *given: Any) -> Any:
        measured.append(network)
        return real(network, *given)

    monkeypatch.setattr(loop, "evaluate_network", spied)
    run = _train(make_recipe(), figures, tmp_path / "run")
    (objective,) = objectives
    teachers, taught, learning, progress = zip(*objective.asked, strict=True)
    assert all(teacher is run.network for teacher in (*teachers, *measured))
    assert len(measured) == 1
    assert not any(taught)
    assert all(learning)
    assert progress == pytest.approx([step / 6 for step in range(6)])
    assert objective.mirror.tolist() == LSP14.flip_permutation.tolist()


def test_all_that_is_between_the_domains_learns(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, objectives: list[Recorded]
) -> None:
    sets = {
        name: {"annotations": f"{part}/annotations.json", "images": f"{part}/images"}
        for name, part in (("train", "train"), ("val", "val"), ("target", "val"))
    }
    recipe = make_recipe(
        data={**sets, "workers": 0},
        network={"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16]},
        adapt={"topology": 0.1, "features": 0.05, "nodes": 0.05, "graphs": 0.05},
    )
    _train(recipe, figures, tmp_path / "run")
    (objective,) = objectives
    assert objective.bridge is not None
    names = [name for name, _ in objective.bridge.named_parameters()]
    moved = [
        not torch.equal(before, now)
        for before, now in zip(objective.first_weights, objective.bridge.parameters(), strict=True)
    ]
    assert names
    assert [name for name, has in zip(names, moved, strict=True) if not has] == []


def test_an_average_forgets_a_random_start_and_not_a_trained_one(
    figures: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop_after: Callable[[int], None],
) -> None:
    told = []
    real = loop.average_decay
    monkeypatch.setattr(
        loop,
        "average_decay",
        lambda *given, trained: (told.append(trained), real(*given, trained=trained))[1],
    )
    short = {"stages": [{"epochs": 1, "size": [64, 64]}]}
    first = _train(make_recipe(**short), figures, tmp_path / "first").checkpoint
    assert told == [False] * 3
    told.clear()
    stop_after(2)
    on = make_recipe(**short, start_from=str(first))
    assert not _train(on, figures, tmp_path / "second").finished
    assert _train(on, figures, tmp_path / "second").finished
    assert told == [True] * 3
