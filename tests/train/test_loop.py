"""The loop: it learns, and a killed run goes on to the result of the unbroken one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lfpose_edge.cli import main as cli
from lfpose_edge.errors import BundleError, LFPoseError, SourceError
from lfpose_edge.train import loop
from lfpose_edge.train.checkpoint import checkpoint_alone, load_checkpoint, save_checkpoint
from lfpose_edge.train.data.mixture import CropMixture
from lfpose_edge.train.loop import train
from lfpose_edge.train.recipe import Recipe

MakeRecipe = Callable[..., Recipe]


def _train(recipe: Recipe, root: Path, out: Path) -> loop.Run:
    return train(recipe, data_root=root, out=out, accelerator="cpu", validate_every=100)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(path)
    return {f"{part}.{k}": v for part in ("network", "ema") for k, v in state[part].items()}


def _assert_same_weights(a: Path, b: Path) -> None:
    ours, theirs = _weights(a), _weights(b)
    assert ours.keys() == theirs.keys()
    different = [k for k in ours if not torch.equal(ours[k], theirs[k])]
    assert different == []


def test_the_network_learns_the_figures(
    figures: Path, make_recipe: MakeRecipe, learn_figures: dict[str, Any], tmp_path: Path
) -> None:
    recipe = make_recipe(**learn_figures)
    run = _train(recipe, figures, tmp_path)
    assert run.finished
    losses = [row["loss"] for row in run.history]
    assert len(losses) == 24
    assert json.loads((tmp_path / "history.json").read_text(encoding="utf-8")) == run.history
    assert losses[-1] < 0.75 * losses[0]
    assert run.history[-1]["val_pck"] > 0.5  # chance is about 0.05


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        pytest.param({"lr_backbone": 1e-3}, {"backbone", "average"}, id="lr_backbone"),
        pytest.param({"lr_head": 2e-3}, {"head", "average"}, id="lr_head"),
        pytest.param({"weight_decay": 0.5}, {"backbone", "head", "average"}, id="weight_decay"),
        pytest.param({"clip_norm": 1e-6}, {"backbone", "head", "average"}, id="clip_norm"),
        pytest.param({"ema_decay": 0.05}, {"average"}, id="ema_decay"),
    ],
)
def test_what_the_optimizer_is_told_reaches_the_weights_that_it_is_about(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, float], parts: set[str]
) -> None:
    one_step = {"batch_size": 24, "warmup_steps": 1}
    network = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [8, 8]}
    found = []
    for name, more in (("plain", {}), ("changed", changes)):
        recipe = make_recipe(
            optimizer={**one_step, **more}, network=network, stages=[{"epochs": 1, "size": [32, 32]}]
        )
        _train(recipe, figures, tmp_path / name)
        found.append(_weights(tmp_path / name / "last.pt"))
    kinds = {"network.backbone": "backbone", "network": "head", "ema": "average"}
    different = {
        next(kind for prefix, kind in kinds.items() if key.startswith(prefix))
        for key in found[0]
        if not torch.equal(found[0][key], found[1][key])
    }
    assert different == parts


def test_a_stage_and_an_epoch_are_seen_in_crops_of_their_own(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each epoch's crops are made with: the stage's size and changes, another seed every time."""
    views: list[tuple[object, ...]] = []
    with_view = CropMixture.with_view

    def watched(self: CropMixture, **how: Any) -> CropMixture:
        views.append((how["size"], how["augment"].cutout, how["seed"]))
        return with_view(self, **how)

    monkeypatch.setattr(CropMixture, "with_view", watched)
    stages = [{"epochs": 2, "size": [32, 32]}, {"epochs": 1, "size": [64, 32], "augment": {"cutout": 0.1}}]
    recipe = make_recipe(stages=stages, augment={"cutout": 0.2}, seed=5)
    _train(recipe, figures, tmp_path)
    assert views == [((32, 32), 0.2, (5, 0)), ((32, 32), 0.2, (5, 1)), ((64, 32), 0.1, (5, 2))]


def test_a_stopped_run_goes_on_to_the_same_weights(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    recipe = make_recipe()
    whole = _train(recipe, figures, tmp_path / "whole")

    # Stop after 4 of 6 steps: in the middle of the second epoch.
    stop_after(4)
    assert not _train(recipe, figures, tmp_path / "broken").finished
    assert load_checkpoint(tmp_path / "broken" / "last.pt")["step"] == 4
    broken = _train(recipe, figures, tmp_path / "broken")
    assert broken.finished
    _assert_same_weights(tmp_path / "whole" / "last.pt", tmp_path / "broken" / "last.pt")
    ours, theirs = ([row["loss"] for row in run.history] for run in (whole, broken))
    assert ours == pytest.approx(theirs)  # an epoch's is of all of it
    for run in (whole, broken):
        images = [row["images_per_second"] * row["seconds"] for row in run.history]
        assert images == pytest.approx([24, 24])


def _without_one(tree: dict[str, Any]) -> None:
    tree["annotations"].pop()


def _box_moved(tree: dict[str, Any]) -> None:
    tree["annotations"][3]["bbox"][0] += 1


def _joint_moved(tree: dict[str, Any]) -> None:
    tree["annotations"][3]["keypoints"][0] += 1


@pytest.mark.parametrize("change", [_without_one, _box_moved, _joint_moved])
def test_a_run_does_not_go_on_with_other_people(
    change: Callable[[dict[str, Any]], None],
    figures: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    stop_after: Callable[[int], None],
) -> None:
    data = shutil.copytree(figures, tmp_path / "data")
    stop_after(2)
    assert not _train(make_recipe(), data, tmp_path / "run").finished
    before = (tmp_path / "run/last.pt").read_bytes()
    file = data / "train" / "annotations.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    change(tree)
    file.write_text(json.dumps(tree))
    with pytest.raises(LFPoseError, match=r"last\.pt was trained on other people, or on other answers"):
        _train(make_recipe(), data, tmp_path / "run")
    assert (tmp_path / "run/last.pt").read_bytes() == before
    moved = shutil.copytree(figures, tmp_path / "elsewhere")
    assert _train(make_recipe(), moved, tmp_path / "run").finished


def test_a_failed_validation_loses_no_epoch(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        message = "an image of the validation people cannot be read"
        raise SourceError(message)

    monkeypatch.setattr(loop, "evaluate_network", fail)
    with pytest.raises(SourceError, match="validation people"):
        _train(make_recipe(), figures, tmp_path)
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["step"], [row["epoch"] for row in state["history"]]) == (6, [1, 2])
    monkeypatch.undo()
    run = _train(make_recipe(), figures, tmp_path)  # it is made up for
    assert (run.steps, "val_pck" in run.history[-1]) == (0, True)
    assert load_checkpoint(tmp_path / "last.pt")["history"] == run.history


def test_two_trainings_do_not_share_a_checkpoint(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    half = tmp_path / ".last.123-456.part.pt"  # of a process that was killed while it wrote
    half.write_bytes(b"half a checkpoint")
    with (
        checkpoint_alone(tmp_path / "last.pt"),
        pytest.raises(LFPoseError, match="another process trains into"),
    ):
        _train(make_recipe(), figures, tmp_path)
    assert not half.exists()
    assert _train(make_recipe(), figures, tmp_path).finished


def test_a_killed_run_goes_on_to_the_same_weights(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe()
    _train(recipe, figures, tmp_path / "whole")

    # In the fifth of 6 steps: it knows the four before it, of which one is of the second epoch.
    code = (
        "import os, signal, sys; from pathlib import Path; from lfpose_edge.train.recipe import Recipe;"
        "from lfpose_edge.train import loop; loop.CHECKPOINT_SECONDS = 0.0;"
        "real = loop.update_average; calls = [];"
        "loop.update_average = lambda *a: (real(*a), calls.append(1), len(calls) == 5"
        " and os.kill(os.getpid(), signal.SIGKILL));"
        "loop.train(Recipe.model_validate_json(sys.argv[1]), data_root=Path(sys.argv[2]),"
        " out=Path(sys.argv[3]), accelerator='cpu')"
    )
    broken = tmp_path / "broken"
    arguments = [sys.executable, "-c", code, recipe.model_dump_json(), str(figures), str(broken)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(arguments, capture_output=True, encoding="utf-8", env=environment, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_checkpoint(broken / "last.pt")["step"] == 4
    run = _train(recipe, figures, broken)
    assert (run.finished, run.steps) == (True, 2)
    _assert_same_weights(tmp_path / "whole" / "last.pt", broken / "last.pt")


def test_the_command_ends_as_the_signal_ends_programs(
    command: Callable[..., Any],
    figures: Path,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    stop_after: Callable[[int], None],
) -> None:
    (tmp_path / "recipe.yaml").write_text(make_recipe().model_dump_json())
    stop_after(2)
    where = ("--data", figures, "--device", "cpu", "--out", "run")
    done = command(cli.main, "lfpose", "train", "recipe.yaml", *where)
    assert done.code == 128 + signal.SIGTERM
    assert "run the same command to go on" in done.err
    assert load_checkpoint(tmp_path / "run" / "last.pt")["step"] == 2


def test_another_recipe_does_not_take_over_a_checkpoint(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    _train(make_recipe(stages=[{"epochs": 1, "size": [64, 64]}]), figures, tmp_path)
    with pytest.raises(LFPoseError, match="another recipe, which differs in stages;"):
        _train(make_recipe(stages=[{"epochs": 1, "size": [96, 96]}]), figures, tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_named_whoever_loads_it(
    workers: int, figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    """In a process of its own: with the error the loader's processes must end too."""
    data = shutil.copytree(figures, tmp_path / "data")
    (data / "train/images/003.png").write_bytes(b"no image")
    (tmp_path / "recipe.yaml").write_text(make_recipe().model_dump_json())
    command = ["train", "recipe.yaml", f"data.workers={workers}", "--data", str(data), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "lfpose_edge", *command],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 1
    assert "003.png is damaged, or not an image" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "worker process" not in done.stderr


def test_a_run_goes_on_with_other_loaders_to_the_same_weights(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    recipe = make_recipe()
    _train(recipe, figures, tmp_path / "whole")
    stop_after(2)
    assert not _train(recipe, figures, tmp_path / "broken").finished
    more = recipe.model_copy(update={"data": recipe.data.model_copy(update={"workers": 1})})
    assert _train(more, figures, tmp_path / "broken").finished
    _assert_same_weights(tmp_path / "whole" / "last.pt", tmp_path / "broken" / "last.pt")


def test_a_training_can_start_from_a_checkpoint(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    one = [{"epochs": 1, "size": [64, 64]}]
    _train(make_recipe(stages=one), figures, tmp_path / "first")
    still = {"batch_size": 8, "lr_head": 1e-12, "lr_backbone": 1e-12, "weight_decay": 0, "ema_decay": 0}
    start = str(tmp_path / "first" / "last.pt")
    _train(make_recipe(stages=one, start_from=start, optimizer=still), figures, tmp_path / "second")
    before, after = (load_checkpoint(tmp_path / run / "last.pt") for run in ("first", "second"))
    torch.testing.assert_close(after["network"]["cam_head.weight"], before["ema"]["cam_head.weight"])
    other = make_recipe(
        stages=one, start_from=start, network={"pretrained": False, "widths": [16, 16, 16, 16]}
    )
    with pytest.raises(BundleError, match="does not hold the network"):
        _train(other, figures, tmp_path / "third")


def test_a_loss_that_is_not_finite_stops_the_run(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(optimizer={"batch_size": 8, "warmup_steps": 0, "lr_head": 1e30, "lr_backbone": 1e30})
    with pytest.raises(LFPoseError, match="the loss is .* at step"):
        _train(recipe, figures, tmp_path)


def test_a_gradient_that_is_not_finite_stops_the_run(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(loss={"location": 1e37, "heatmap": 0})
    with pytest.raises(LFPoseError, match="the gradient is .* at step 0; nothing was saved yet"):
        _train(recipe, figures, tmp_path)


def test_a_stop_at_the_end_of_an_epoch_keeps_its_row(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(3)  # of 3 in the first epoch
    first = _train(make_recipe(), figures, tmp_path)
    assert (first.finished, [row["epoch"] for row in first.history]) == (False, [1])
    assert [row["epoch"] for row in _train(make_recipe(), figures, tmp_path).history] == [1, 2]


def test_a_stop_at_the_very_end_is_a_finished_run(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path, stop_after: Callable[[int], None]
) -> None:
    stop_after(6)
    run = _train(make_recipe(), figures, tmp_path)
    assert run.finished
    assert run.steps == 6
    assert "val_pck" in run.history[-1]
    before = (tmp_path / "last.pt").read_bytes()
    again = _train(make_recipe(), figures, tmp_path)
    assert (again.finished, again.steps, again.history) == (True, 0, run.history)
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 nothing", b"text"], ids=["empty", "broken zip", "text"]
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="damaged or not a checkpoint"):
        load_checkpoint(path)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": lambda: None})
    assert load_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_a_full_disk_is_named_and_leaves_the_old_checkpoint(
    figures: Path, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    import resource

    recipe = make_recipe()
    save_checkpoint(tmp_path / "other.pt", {"step": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"last\.pt"):
            _train(recipe, figures, tmp_path / "run")
        with pytest.raises(OSError, match=r"other\.pt"):
            save_checkpoint(tmp_path / "other.pt", {"big": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load_checkpoint(tmp_path / "other.pt")["step"] == 1
    assert [file.name for file in (tmp_path / "run").iterdir()] == [".last.pt.lock"]
    assert _train(recipe, figures, tmp_path / "run").finished  # there is space again
