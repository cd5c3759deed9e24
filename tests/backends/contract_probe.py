"""Builds an "engine" through the adapter with the classes of real TensorRT bindings and records what it uses.

Run in a process of its own, with one version's ``tensorrt_bindings`` on the path and stub libraries behind
them: ``python contract_probe.py FOLDER``. The bindings cannot build anything this way, but they have every
class, method, property and enum of their version, and using an attribute that they lack is an error here.
Writes ``FOLDER/probe.json``: the version, and for every case the attributes used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import tensorrt_bindings as real

from lfpose_edge.backends.tensorrt_api import BuildOptions, Engine, TensorRt

USED: list[str] = []


class Double:
    """Stands in for an object of a bound class: has the class's members, and returns the given answers."""

    def __init__(self, kind: type, **answers: Any) -> None:
        self.__dict__.update(kind=kind, answers=answers)

    def _member(self, name: str) -> Any:
        USED.append(f"{self.kind.__name__}.{name}")
        return getattr(self.kind, name)  # AttributeError where this version lacks it

    def __getattr__(self, name: str) -> Any:
        member, answer = self._member(name), self.answers.get(name)
        return answer if isinstance(member, property) else lambda *_: answer

    def __setattr__(self, name: str, value: Any) -> None:
        if self._member(name).fset is None:
            message = f"{self.kind.__name__}.{name} cannot be set"
            raise AttributeError(message)


class Enum:
    """An enum of the bindings that records which of its members are used."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __getattr__(self, name: str) -> Any:
        USED.append(f"{self._kind.__name__}.{name}")
        return getattr(self._kind, name)


def doubles() -> ModuleType:
    """The bindings' module, with doubles for everything that would need the libraries."""
    crops = Double(real.ITensor, name="crops", shape=(-1, 3, 192, 192))
    layer = Double(real.ILayer)
    network = Double(real.INetworkDefinition, num_inputs=1, get_input=crops, num_layers=1, get_layer=layer)
    timing = Double(real.ITimingCache, serialize=b"timings")
    context = Double(
        real.IExecutionContext,
        set_input_shape=True,
        set_tensor_address=True,
        execute_async_v3=True,
        get_tensor_shape=(2, 3, 192, 192),
    )
    engine = Double(
        real.ICudaEngine,
        create_execution_context=context,
        device_memory_size_v2=1000,
        get_tensor_dtype=real.float32,
    )
    builder = Double(
        real.Builder,
        create_network=network,
        create_builder_config=Double(real.IBuilderConfig, create_timing_cache=timing, can_run_on_DLA=True),
        create_optimization_profile=Double(real.IOptimizationProfile),
        build_serialized_network=b"plan",
    )
    module = ModuleType("tensorrt")
    module.__version__ = real.__version__  # type: ignore[attr-defined]
    module.__dict__.update({name: getattr(real, name) for name in dir(real) if not name.startswith("__")})
    enums = ["NetworkDefinitionCreationFlag", "MemoryPoolType", "BuilderFlag", "DeviceType"]
    if hasattr(real, "ExecutionContextAllocationStrategy"):  # from 10 on
        enums.append("ExecutionContextAllocationStrategy")
    module.__dict__.update({name: Enum(getattr(real, name)) for name in enums})
    module.__dict__.update(
        Builder=lambda log: builder,
        OnnxParser=lambda network, log: Double(real.OnnxParser, parse=True),
        Runtime=lambda log: Double(real.Runtime, deserialize_cuda_engine=engine),
    )
    return module


def refusal() -> str:
    """The adapter's message about a model that the parser refuses."""
    from lfpose_edge.backends.tensorrt_api import _parser_message

    error = Double(real.ParserError, node=-1, desc="no such operator")
    return _parser_message("tensorrt", Double(real.OnnxParser, num_errors=1, get_error=error), b"")


def main() -> None:
    """Build in every way."""
    folder = Path(sys.argv[1])
    cases = {
        "plain": BuildOptions(),
        "fp16": BuildOptions(fp16=True),
        "int8": BuildOptions(fp16=True, int8=True),
        "dla": BuildOptions(fp16=True, dla_core=0),
        "timing cache": BuildOptions(timing_cache=folder / "timing.cache"),
    }
    used = {}
    for name, options in cases.items():
        USED.clear()
        plan = TensorRt(doubles()).build(b"", options, steps=lambda *_: None)
        assert plan == b"plan", plan
        used[name] = sorted(set(USED))
    USED.clear()
    shape = (2, 3, 192, 192)
    Engine(TensorRt(doubles()), b"plan").new_context(scratch=7).enqueue({"crops": shape}, {"crops": 1}, 0)
    used["run"] = sorted(set(USED))
    USED.clear()
    Engine(TensorRt(doubles()), b"plan", dla_core=1)
    used["run on dla"] = sorted(set(USED))
    assert (folder / "timing.cache").read_bytes() == b"timings"
    result = {"version": real.__version__, "used": used, "refusal": refusal()}
    (folder / "probe.json").write_text(json.dumps(result))


main()
