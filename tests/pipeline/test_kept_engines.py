"""TensorRT's engines: built once, kept, taken from the bundle, built anew where they do not fit."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from bundles import spot_facts
from engine_doubles import FakeTensorRt
from pipeline_cases import Make, full_disk

from lfpose_edge.backends import engine_cache, tensorrt_api
from lfpose_edge.backends.engine_files import check_engine, fingerprint_of, write_engine
from lfpose_edge.bundle import write_manifest
from lfpose_edge.zoo import bundle_path


def test_an_engine_is_built_once(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        on_gpu().close()
        on_gpu().close()
    assert tensorrt.builds == 1
    assert [r.message.partition(": ")[0] for r in caplog.records] == [
        f"building the fp32 engine of {bundle / 'model.onnx'} for Tester 4000 with tensorrt 10.3.0"
    ]
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    facts, _ = check_engine(engine)
    assert (facts["gpu"], facts["batches"]) == ("Tester 4000 SM86 x 46", [1, 4, 16])


@pytest.mark.parametrize("change", ["version", "batch", "damage", "no sidecar", "refused by TensorRT"])
def test_an_engine_that_does_not_fit_is_built_anew(
    change: str, tensorrt: FakeTensorRt, on_gpu: Make, tmp_path: Path
) -> None:
    on_gpu().close()
    options: dict[str, Any] = {}
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    if change == "version":
        tensorrt.__version__ = "10.4.0"
    elif change == "batch":
        options = {"max_batch": 8}
    elif change == "damage":
        engine.write_bytes(b"plan:nothing")
    elif change == "refused by TensorRT":  # of another chip of the same name
        facts = json.loads(engine.with_suffix(".json").read_text(encoding="utf-8"))
        write_engine(engine.parent, fingerprint_of(facts, engine), b"of another chip")
    else:
        engine.with_suffix(".json").unlink()
    on_gpu(**options).close()
    assert tensorrt.builds == 2
    on_gpu(**options).close()
    assert tensorrt.builds == 2


def test_an_int8_engine_may_compute_in_halves_too(tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path) -> None:
    shutil.copy(bundle / "model.onnx", bundle / "model.int8-trt.onnx")
    write_manifest(bundle, spot_facts(models={"fp32": "model.onnx", "int8-trt": "model.int8-trt.onnx"}))
    on_gpu(precision="int8").close()
    assert set(tensorrt.flags) == {tensorrt.BuilderFlag.FP16, tensorrt.BuilderFlag.INT8}
    tensorrt.flags.clear()
    on_gpu(precision="fp32").close()
    assert tensorrt.flags == []


@pytest.mark.parametrize("batches", [[4, 8, 32], [1, 4, 8]])
def test_an_engine_of_the_bundle_that_takes_other_batches_is_passed_over(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path, batches: list[int]
) -> None:
    on_gpu().close()
    (tmp_path / "cache" / "engines").rename(bundle / "engines")
    (sidecar,) = (bundle / "engines").glob("*.json")
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text(encoding="utf-8")), "batches": batches}))
    on_gpu().close()
    assert tensorrt.builds == 2


def test_an_engine_of_the_bundle_is_taken_first(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path
) -> None:
    on_gpu().close()
    (tmp_path / "cache" / "engines").rename(bundle / "engines")
    on_gpu().close()
    assert tensorrt.builds == 1


def test_an_engine_of_the_bundle_may_have_other_options_and_a_larger_batch(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path
) -> None:
    on_gpu().close()
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    facts, plan = check_engine(engine)
    built = fingerprint_of(facts, engine)
    for change in ({"options": "dla 1"}, {"gpu": "SM86"}, {"batches": (1, 8, 32)}):
        write_engine(bundle / "engines", replace(built, **change), plan)
        for file in (tmp_path / "cache" / "engines").iterdir():
            file.unlink()
        tensorrt.runtimes.clear()
        on_gpu().close()
        assert tensorrt.builds == 1
        assert [r.DLA_core for r in tensorrt.runtimes] == [1 if "options" in change else None]
        shutil.rmtree(bundle / "engines")
    write_engine(bundle / "engines", replace(built, batches=(1, 4, 8)), plan)
    on_gpu().close()
    assert tensorrt.builds == 2


def test_processes_that_start_at_once_build_one_engine(tensorrt: FakeTensorRt, on_gpu: Make) -> None:
    threads = [threading.Thread(target=lambda: on_gpu().close()) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert tensorrt.builds == 1


def test_from_11_on_an_engine_in_half_that_came_with_the_bundle_is_taken(
    tensorrt: FakeTensorRt, on_gpu: Make, bundle: Path, tmp_path: Path
) -> None:
    tensorrt.__version__ = "11.4.0"
    on_gpu().close()
    (engine,) = (tmp_path / "cache" / "engines").glob("*.engine")
    facts, plan = check_engine(engine)
    write_engine(bundle / "engines", replace(fingerprint_of(facts, engine), precision="fp16"), plan)
    assert on_gpu(precision="auto").describe()["backend"].endswith("fp16")


@pytest.mark.parametrize("content", [b"damaged", b"foreign"])
def test_a_timing_cache_that_does_not_fit_is_begun_anew(
    content: bytes, tensorrt: FakeTensorRt, on_gpu: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "cache" / "engines"
    folder.mkdir(parents=True)
    timings = folder / "tensorrt-10.3.0-SM86.timing"
    timings.write_bytes(content)
    on_gpu().close()
    assert tensorrt.timing_caches[-1] == b""
    assert timings.read_bytes() == b"timings"


def test_a_timing_cache_that_cannot_be_written_loses_no_engine(
    on_gpu: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tensorrt_api, "write_bytes_whole", full_disk)
    with caplog.at_level(logging.WARNING):
        on_gpu().close()
    assert "timing cache" in caplog.text
    assert "No space left" in caplog.text


def test_weights_are_constants_before_a_build() -> None:
    file = bundle_path("lfpose-lite") / "model.onnx"
    assert any(node.op_type == "Cast" for node in onnx.load(file).graph.node)
    folded = onnx.load_from_string(engine_cache.with_folded_weights(file))
    onnx.checker.check_model(folded)
    assert [node.name for node in folded.graph.node if node.op_type == "Cast"] == []
    constants = {tensor.name for tensor in folded.graph.initializer}
    convolutions = [node for node in folded.graph.node if node.op_type == "Conv"]
    assert len(convolutions) > 50
    assert all(node.input[1] in constants for node in convolutions)
    assert {node.domain for node in folded.graph.node} == {""}
