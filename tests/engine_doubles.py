"""TensorRT and Torch-TensorRT, as far as the runtime uses them: an engine is an ONNX file.

ONNX Runtime runs it, when the stream of the GPU's double (``gpu_doubles``) gets there.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from gpu_doubles import MEMORY, STREAMS, DeviceArray, Stream


class FakeTensorRt(ModuleType):
    """TensorRT: an "engine" is the ONNX file, which ONNX Runtime runs on the addresses that it is given.

    Attributes:
        builds: how many engines were built.
        flags: that builders were given.
        runtimes: that were made.
        refuses: whether an execution that is queued on a stream is refused.
    """

    def __init__(self, version: str = "10.3.0") -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.builds = 0
        self.flags: list[int] = []
        self.timing_caches: list[bytes] = []
        self.contexts = 0
        self.runtimes: list[Any] = []
        self.refuses: Callable[[Stream], bool] = lambda stream: False
        self.NetworkDefinitionCreationFlag = SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1)
        self.MemoryPoolType = SimpleNamespace(WORKSPACE=0)
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
        self.float32 = "float32"
        self.BuilderFlag = SimpleNamespace(FP16=0, INT8=1)
        self.Builder, self.OnnxParser, self.Runtime = self._builder, self._parser, self._runtime

    class ILogger:
        """As TensorRT's."""

        Severity = SimpleNamespace(ERROR=0, INTERNAL_ERROR=1, WARNING=2)

    def _builder(self, log: Any) -> Any:
        config = SimpleNamespace(
            set_memory_pool_limit=lambda *_: None,
            add_optimization_profile=lambda *_: None,
            set_flag=self.flags.append,
            create_timing_cache=lambda given: (
                None if given == b"damaged" else SimpleNamespace(given=given, serialize=lambda: b"timings")
            ),
            set_timing_cache=self._takes,
        )

        def build(network: Any, _: Any) -> bytes:
            self.builds += 1
            return b"plan:" + network.model

        crops = SimpleNamespace(name="crops", shape=(-1, 3, 64, 48))
        return SimpleNamespace(
            create_network=lambda _: SimpleNamespace(num_inputs=1, get_input=lambda _: crops, model=b""),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *_: None),
            build_serialized_network=build,
        )

    def _takes(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.timing_caches.append(cache.given)
        return bool(cache.given != b"foreign")

    def _parser(self, network: Any, log: Any) -> Any:
        def parse(model: bytes) -> bool:
            network.model = model
            return True

        return SimpleNamespace(parse=parse)

    def _runtime(self, log: Any) -> Any:
        def read(plan: bytes) -> Any:
            if not plan.startswith(b"plan:"):
                log.errors.append("magic tag does not match")
                return None
            made: list[Any] = []

            def new(strategy: str | None = None) -> Any:
                self.contexts += 1
                if made and int(self.__version__.split(".")[0]) < 10:
                    log.errors.append("Profile 0 has been chosen by another IExecutionContext")
                    return None
                made.append(self._context(plan[5:], strategy))
                return made[-1]

            return SimpleNamespace(
                create_execution_context=new,
                device_memory_size_v2=4096,
                get_tensor_dtype=lambda name: "float32",
            )

        runtime = SimpleNamespace(deserialize_cuda_engine=read, DLA_core=None)
        self.runtimes.append(runtime)
        return runtime

    def _context(self, model: bytes, strategy: str | None) -> Any:
        import onnxruntime

        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        state: dict[str, Any] = {"scratch": 0, "stream": None}

        def shape_of(name: str) -> tuple[int, ...]:
            if name == "crops":
                return state["shape"]
            return session.run((name,), {"crops": np.zeros(state["shape"], np.float32)})[0].shape

        def execute(handle: int) -> bool:
            if self.refuses(STREAMS[handle]):
                return False
            assert strategy is None or MEMORY[state["scratch"]].nbytes == 4096
            before, state["stream"] = state["stream"], STREAMS[handle]
            assert before in (None, STREAMS[handle]) or before.work == [], "in use by another stream"
            shape, addresses = state["shape"], dict(state["addresses"])

            def work() -> None:
                found = session.run(("cams", "presence"), {"crops": _floats_at(addresses["crops"], shape)})
                for name, values in zip(("cams", "presence"), found, strict=True):
                    np.copyto(_floats_at(addresses[name], values.shape), values)

            STREAMS[handle].give(work)
            return True

        addresses = state.setdefault("addresses", {})
        return SimpleNamespace(
            set_input_shape=lambda _, shape: state.update(shape=shape) is None,
            get_tensor_shape=shape_of,
            set_device_memory=lambda address, size: state.update(scratch=address),
            set_tensor_address=lambda name, address: addresses.update({name: address}) is None,
            execute_async_v3=execute,
        )


def _floats_at(address: int, shape: tuple[int, ...]) -> np.ndarray:
    count = math.prod(shape)
    memory = (ctypes.c_float * count).from_address(address)
    return np.frombuffer(memory, np.float32, count).reshape(shape)


class LazyTensor:
    """A torch tensor on the GPU, as far as the runtime uses one: copies are a stream's work."""

    current: list[Stream] = []  # noqa: RUF012

    def __init__(
        self, values: Callable[[], np.ndarray], shape: tuple[int, ...], memory: np.ndarray | None = None
    ) -> None:
        self.values, self.shape, self._memory = values, shape, memory

    @classmethod
    def of(cls, array: DeviceArray) -> LazyTensor:
        return cls(lambda: array.memory, array.shape, array.memory)

    def copy_(self, other: LazyTensor) -> None:
        assert self._memory is not None
        LazyTensor.current[-1].give(lambda: np.copyto(self._memory, other.values()))


def torch_modules(version: str = "2.11.0") -> dict[str, ModuleType]:
    """The doubles of torch and torch_tensorrt; a "program" is an ONNX file that ONNX Runtime runs."""

    class OnStream:
        def __init__(self, stream: Stream) -> None:
            self._stream = stream

        def __enter__(self) -> None:
            LazyTensor.current.append(self._stream)

        def __exit__(self, *_: object) -> None:
            LazyTensor.current.pop()

    def load(path: str) -> Any:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

        def program(crops: LazyTensor) -> list[LazyTensor]:
            def output(name: str) -> LazyTensor:
                def run(values: np.ndarray) -> np.ndarray:
                    return np.asarray(session.run((name,), {"crops": values})[0])

                return LazyTensor(lambda: run(crops.values()), run(np.zeros(crops.shape, np.float32)).shape)

            return [output("cams"), output("presence")]

        return SimpleNamespace(module=lambda: program)

    torch, compiler = ModuleType("torch"), ModuleType("torch_tensorrt")
    vars(torch).update(
        cuda=SimpleNamespace(
            is_available=lambda: True,
            device=lambda number: nullcontext(),
            ExternalStream=lambda handle, device: STREAMS[handle],
            stream=OnStream,
        ),
        inference_mode=nullcontext,
        from_dlpack=LazyTensor.of,
    )
    vars(compiler).update(__version__=version, load=load)
    return {"torch": torch, "torch_tensorrt": compiler}
