"""Everything that the adapter uses of TensorRT exists in every version that it claims to support.

TensorRT itself needs a GPU machine; its Python bindings are small packages that load with stub libraries, and
are fetched here as pip fetches any package.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

PROBE = Path(__file__).parent / "contract_probe.py"
FETCH_SECONDS = 120

# requirement: the sonames that the bindings ask for, and their major version
BINDINGS = {
    "tensorrt_bindings==8.6.1": 8,
    "tensorrt_cu12_bindings==10.3.0": 10,
    "tensorrt_cu12_bindings==10.16.1.11": 10,
    "tensorrt_cu13_bindings==11.4.0.106": 11,
}
SCRATCH = {
    "ExecutionContextAllocationStrategy.USER_MANAGED",
    "ICudaEngine.device_memory_size_v2",
    "IExecutionContext.set_device_memory",
}
LIBRARIES = ("nvinfer", "nvonnxparser", "nvinfer_plugin", "nvparsers")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    # of 8.6: nvuffparser::createUffParser(), FieldMap(), nvcaffeparser1::createCaffeParser(), shutdown...()
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
)


@pytest.fixture(scope="module", params=BINDINGS)
def probed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What :mod:`contract_probe` found with one version's bindings."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("stub libraries need a C compiler on Linux")
    folder = tmp_path_factory.mktemp("bindings")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    try:
        fetched = subprocess.run(
            [*fetch, "--dest", str(folder), request.param],
            capture_output=True,
            encoding="utf-8",
            timeout=FETCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{request.param} did not come within {FETCH_SECONDS} s")
    if fetched.returncode:
        pytest.skip(f"pip cannot fetch {request.param} for this machine: {fetched.stderr.splitlines()[-1]}")
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(folder)
    source = folder / "stub.c"
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for library in LIBRARIES:
        name = f"lib{library}.so.{BINDINGS[request.param]}"
        arguments = ["-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run([compiler, *arguments], check=True)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, str(PROBE), str(folder)],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
    assert request.param.endswith(found["version"])
    return found


def test_every_attribute_that_the_adapter_uses_exists(probed: dict[str, Any]) -> None:
    common = {
        "Builder.build_serialized_network",
        "IBuilderConfig.set_memory_pool_limit",
        "IOptimizationProfile.set_shape",
        "OnnxParser.parse",
        "MemoryPoolType.WORKSPACE",
    }
    run = [name for name in probed["used"]["run"] if name not in SCRATCH]
    for case, used in probed["used"].items():
        assert case.startswith("run") or common <= set(used)
    assert run == [
        "ICudaEngine.create_execution_context",
        "ICudaEngine.get_tensor_dtype",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.get_tensor_shape",
        "IExecutionContext.set_input_shape",
        "IExecutionContext.set_tensor_address",
        "Runtime.deserialize_cuda_engine",
    ]
    assert "Runtime.DLA_core" in probed["used"]["run on dla"]
    assert {"IBuilderConfig.DLA_core", "IBuilderConfig.can_run_on_DLA"} <= set(probed["used"]["dla"])
    assert "ITimingCache.serialize" in probed["used"]["timing cache"]
    assert probed["refusal"] == "tensorrt cannot read the model: no such operator"


def test_contexts_share_memory_where_the_version_knows_how(probed: dict[str, Any]) -> None:
    major = int(probed["version"].split(".")[0])
    assert SCRATCH & set(probed["used"]["run"]) == (SCRATCH if major >= 10 else set())


def test_precision_is_a_flag_below_11_and_the_files_own_from_11_on(probed: dict[str, Any]) -> None:
    major = int(probed["version"].split(".")[0])
    flags = {"BuilderFlag.FP16", "BuilderFlag.INT8"}
    assert flags & set(probed["used"]["int8"]) == (flags if major < 11 else set())
    creation = {name for name in probed["used"]["plain"] if name.startswith("NetworkDefinitionCreationFlag")}
    expected = {8: {"EXPLICIT_BATCH"}, 10: set(), 11: {"STRONGLY_TYPED"}}[major]
    assert creation == {f"NetworkDefinitionCreationFlag.{flag}" for flag in expected}
    assert ("IBuilderConfig.progress_monitor" in probed["used"]["plain"]) == (major > 8)
