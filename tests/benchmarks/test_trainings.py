"""The benchmarks that train: every row is a recipe that can be trained, and what they print adds up."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_scripts import BENCHMARKS, benchmark

from lfpose_edge.train.checkpoint import save_checkpoint
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.recipe import Recipe, load_recipe


def _recipes() -> Iterator[tuple[str, Recipe]]:
    lfpe, efasnet, adaptation, everyday = (
        benchmark(name) for name in ("lfpe", "efasnet", "adaptation", "everyday")
    )
    for name, row in everyday.ROWS.items():
        changes = everyday.recipe_changes(row, 0, 160, Path("athletes"))
        yield f"everyday {name}", load_recipe(everyday.RECIPE, changes)
    for name, row in lfpe.ROWS.items():
        yield f"lfpe {name}", load_recipe("location_free", lfpe.recipe_changes(row, 0, 96, 10))
    for name, changes in efasnet.ROWS.items():
        yield f"efasnet {name}", load_recipe(efasnet.RECIPE, [*efasnet.schedule(160, 12), *changes])
    options = argparse.Namespace(epochs=12, adapt_epochs=6, size=128)
    domain = adaptation.Domain("a.json", "images")
    pair = adaptation.Pair(domain, adaptation.Domain("b.json", "images"), domain, domain)
    for name in adaptation.ROWS:
        changes = adaptation.changes_of(name, pair, Path("source/last.pt"), options)
        yield f"adaptation {name}", load_recipe(adaptation.RECIPE, changes)


def test_every_row_is_a_recipe_of_its_own() -> None:
    recipes = dict(_recipes())
    assert len(recipes) > 30
    texts = {recipe.model_dump_json() for recipe in recipes.values()}
    assert len(texts) == len(recipes)
    for name, recipe in recipes.items():
        if name.startswith("adaptation"):
            row = benchmark("adaptation").ROWS[name.removeprefix("adaptation ")]
            assert [target.locations for target in recipe.data.target] == (
                [row.located] if row.adapts else []
            )
            assert (recipe.start_from is None) == (name == "adaptation source")
            assert [str(part.annotations) for part in recipe.data.train] == ["a.json"]


def test_efasnets_rows_train_for_equally_long() -> None:
    lengths = {recipe.epochs for name, recipe in _recipes() if name.startswith("efasnet")}
    assert lengths == {12}


@pytest.mark.parametrize("name", ["lfpe", "efasnet", "adaptation", "everyday"])
def test_rows_are_compared_with_rows_that_there_are(name: str) -> None:
    module = benchmark(name)
    against = getattr(module, "AGAINST", None) or {n: row.against for n, row in module.ROWS.items()}
    assert set(against) == set(module.ROWS)
    assert {other for others in against.values() for other in others} <= set(module.ROWS)


def test_a_difference_is_of_the_same_persons_and_a_gap_is_recovered_in_part() -> None:
    trainings, adaptation = benchmark("trainings"), benchmark("adaptation")
    persons = {adaptation.LOW: "2222", "mean teacher": "6666", adaptation.HIGH: "aaaa"}
    rows = [
        {
            "row": name,
            "seed": 0,
            "device": "cpu",
            "correct": correct,
            "counted": "cccc",
            "target": {"pck_box": int(correct[0], 16) / 12},
        }
        for name, correct in persons.items()
    ]
    table = trainings.compare(rows, {"mean teacher": (adaptation.LOW,)})
    alone, difference = table
    assert alone["value"] == pytest.approx(50)
    assert difference["value"] == pytest.approx(100 * 4 / 12)
    again = {**rows[1], "seed": 1, "correct": "3333"}
    alone, difference = trainings.compare([again, *rows], {"mean teacher": (adaptation.LOW,)})
    assert (alone["seeds"], alone["each seed"]) == (2, "50.0 25.0")
    assert alone["value"] == pytest.approx(100 * (6 + 3) / 24)
    assert difference["seeds"] == 1  # the other row has no second seed
    found = {row["row"]: row["recovered"] for row in adaptation.recovered(rows)}
    assert found == pytest.approx({adaptation.LOW: 0.0, "mean teacher": 0.5, adaptation.HIGH: 1.0})
    more = [*rows, {**rows[1], "seed": 1, "target": {"pck_box": 0.9}}]  # of a seed that lacks the two ends
    found = {row["row"]: row["recovered"] for row in adaptation.recovered(more)}
    assert found["mean teacher"] == pytest.approx(0.5)
    nobody_knows = [row for row in rows if row["row"] != adaptation.HIGH]
    found = {row["row"]: (row["gain"], row["recovered"]) for row in adaptation.recovered(nobody_knows)}
    assert found["mean teacher"] == (pytest.approx(4 / 12), None)


def test_a_row_that_needs_locations_is_not_run_where_the_target_has_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adaptation = benchmark("adaptation")
    trained: list[str] = []

    def measure(name: str, *_: object) -> dict[str, object]:
        trained.append(name)
        return {"minutes": 0.0}

    monkeypatch.setattr(adaptation, "measure", measure)
    monkeypatch.setenv("LFPOSE_DATA", str(tmp_path))
    asked = ["--rows", "mean teacher", "5 %", "oracle", "--json", str(tmp_path / "rows.json")]
    command = ["adaptation.py", "--pairs", "everyday", *asked, "--device", "cpu"]
    monkeypatch.setattr("sys.argv", command)
    adaptation.main()
    assert trained == ["source", "mean teacher"]
    assert [row["row"] for row in adaptation.recorded(tmp_path / "rows.json")] == trained
    said = capsys.readouterr().out
    assert "everyday: no 5 %" in said
    assert "everyday: no oracle" in said


def test_a_verdict_without_labels_is_shown_beside_the_truth() -> None:
    def row(name: str, target: float, agreement: float) -> dict[str, Any]:
        alone = {"agreement": agreement, "spread": 0.3, "score": 0.5}
        places = {"target": {"pck_box": target}, "source": {"pck_box": 0.6}}
        judged = {"without_labels": alone, "source_in_its_statistics": 0.59}
        return {"row": name, "seed": 0, **judged, **places}

    rows = [row("source", 0.3, 0.5), row("mean teacher", 0.4, 0.6), row("all", 0.2, 0.4)]
    table = benchmark("adaptation").judged(rows)
    found = {r["row"]: (r["target"], r["published"]) for r in table}
    assert found == {"mean teacher": (pytest.approx(10), True), "all": (pytest.approx(-10), False)}
    assert [r["source"] for r in table] == [0, 0]  # in the same statistics
    rows[0]["without_labels"]["turned"] = 0.3  # unknown for the two other rows
    assert benchmark("adaptation").judged(rows) == table
    rows[1]["without_labels"]["turned"] = 0.2
    found = {r["row"]: (r["turned"], r["published"]) for r in benchmark("adaptation").judged(rows)}
    assert found == {"mean teacher": (pytest.approx(-10), False), "all": (0, False)}


def test_recorded_rows_are_of_the_benchmarks() -> None:
    for file in sorted((BENCHMARKS / "results").glob("*.json")):
        if file.stem in ("lfpe", "efasnet", "adaptation", "everyday"):
            rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
            assert {row["row"] for row in rows} <= set(benchmark(file.stem).ROWS)
            assert not [row["training"] for row in rows if "=/" in row["training"]]  # anybody can repeat it


def test_recorded_commands_of_efasnet_train_the_networks_that_they_are_recorded_for() -> None:
    """Whatever the recipe has become since."""
    efasnet = benchmark("efasnet")
    for row in json.loads((BENCHMARKS / "results" / "efasnet.json").read_text(encoding="utf-8"))["rows"]:
        recipe, *changes = shlex.split(row["training"])[2:]
        expected = load_recipe(efasnet.RECIPE, efasnet.ROWS[row["row"]]).network
        assert load_recipe(recipe, changes).network == expected, row["row"]


def test_devices_share_no_folder_and_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = benchmark("trainings")
    on_cpu = trainings.folder_of(Path("runs"), "cpu", "all, no selection", 128, 0)
    assert on_cpu == Path("runs/cpu/all-no-selection-128-0")
    monkeypatch.setattr(trainings, "device_name", lambda device: "A GPU")
    assert trainings.folder_of(Path("runs"), "cuda", "5 %", 0) == Path("runs/A-GPU/5-percent-0")
    counts = {"correct": "5" * 20, "counted": "c" * 20, "seed": 0}
    rows = [{"row": "FF", "device": "cpu", **counts}, {"row": "baseline", "device": "A GPU", **counts}]
    table = trainings.compare(rows, {"FF": ("baseline",), "baseline": ()})
    assert [(row["row"], row["device"], row["less"]) for row in table] == [
        ("FF", "cpu", None),
        ("baseline", "A GPU", None),
    ]


def test_a_picture_of_maps_glows_where_the_network_takes_the_joint_to_be(tmp_path: Path) -> None:
    maps = benchmark("lfpe_maps")
    recipe = load_recipe("location_free", ["network.pretrained=false", "network.freeze_stages=0"])
    network = build_network(recipe.network, recipe.joints).eval()
    state = {"recipe": recipe.model_dump(mode="json"), "ema": network.state_dict()}
    save_checkpoint(tmp_path / "last.pt", state)
    joints = ["neck", "left_wrist"]
    drawn = maps.picture({"one": tmp_path / "last.pt", "the same": tmp_path / "last.pt"}, joints)
    assert drawn.shape == (maps.LINE + 2 * maps.TILE, maps.MARGIN + 2 * maps.TILE, 3)
    first, second = (drawn[maps.LINE + i * maps.TILE :][: maps.TILE, maps.MARGIN :] for i in (0, 1))
    assert (first == second).all()

    cams = np.full((40, 40), -20.0, np.float32)  # 32 cells of it are the photo, from the fifth on
    cams[12, 28] = 0.0
    lit = maps.tile(cams).astype(int)
    y, x = ((cell - 4 + 0.5) / 32 * maps.TILE for cell in (12, 28))
    brightest = np.unravel_index(np.argmax(lit[..., 2] - lit[..., 0]), lit.shape[:2])
    assert np.hypot(brightest[0] - y, brightest[1] - x) < 6
