"""One interface to TensorRT 8.6, 10.x, 11.x and TensorRT for RTX; all version differences are handled here.

In short: 8.6 needs the explicit-batch flag and has no strong typing; 10 dropped bindings by index; 11 dropped
calibrators and the precision flags, so that a network has the types of its ONNX file; TensorRT for RTX
follows the rules of 11 and can build for GPUs that are not present.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from lfpose_edge.backends.tensorrt_calls import Steps, log_of, make_monitor
from lfpose_edge.errors import BackendUnavailable, BundleError, EngineMismatch
from lfpose_edge.files import write_bytes_whole

logger = logging.getLogger("lfpose_edge")

Flavour = Literal["tensorrt", "tensorrt_rtx"]


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        fp16: compute in half precision. Before version 11 this is a flag; from 11 on the ONNX file itself
            must have these types.
        int8: the ONNX file holds Q/DQ pairs.
        batches: smallest, typical and largest batch.
        size: crop height and width, for a file that leaves them free.
        workspace_mb: maximum scratch memory of a layer, in MiB.
        compute_capability: GPU to build for, such as ``SM86``; None is the GPU that is present. Only TensorRT
            for RTX can build for another one.
        dla_core: run all possible layers on this deep-learning accelerator core of a Jetson, the rest on the
            GPU. It needs half precision and a fixed batch size.
        timing_cache: file of layer timings, read and updated; it makes similar builds fast.
    """

    fp16: bool = False
    int8: bool = False
    batches: tuple[int, int, int] = (1, 4, 16)
    size: tuple[int, int] | None = None
    workspace_mb: int = 1024
    compute_capability: str | None = None
    dla_core: int | None = None
    timing_cache: Path | None = None


class TensorRt:
    """An imported TensorRT.

    Args:
        module: ``tensorrt`` or ``tensorrt_rtx``.

    Attributes:
        trt: the module.
        version: such as (10, 3).
        is_rtx: whether it is TensorRT for RTX.
        types_are_the_files: whether an engine always computes in the types of its ONNX file.
        shares_profiles: whether several contexts of an engine may each run a variable number of crops.
        lends_scratch: whether contexts can use working memory supplied by the caller.
        captures: whether a context's work can be captured in our CUDA graphs. TensorRT for RTX would need
            user-supplied memory for that, and makes graphs of its own.
    """

    def __init__(self, module: Any) -> None:
        self.trt = module
        self.version = tuple(int(part) for part in module.__version__.split(".")[:2])
        self.is_rtx = module.__name__ == "tensorrt_rtx"
        self.types_are_the_files = self.is_rtx or self.version >= (11, 0)
        self.shares_profiles = self.is_rtx or self.version >= (10, 0)
        self.lends_scratch = not self.is_rtx and self.version >= (10, 1)
        self.captures = not self.is_rtx and self.shares_profiles

    @classmethod
    def load(cls, flavour: Flavour) -> TensorRt:
        """Import TensorRT; if that fails, BackendUnavailable says what to do."""
        reason = unavailable(flavour)
        if reason:
            raise BackendUnavailable(reason)
        return cls(import_module(flavour))

    @property
    def name(self) -> str:
        """Such as ``tensorrt 10.3`` or ``tensorrt_rtx 1.7``."""
        return f"{self.trt.__name__} {self.trt.__version__}"

    def build(self, onnx_file: bytes, options: BuildOptions, steps: Steps | None = None) -> bytes:
        """Build an engine.

        Args:
            onnx_file: a serialised ONNX model with one input ``crops`` (N, 3, H, W), N free.
            options: how to build it.
            steps: called as the build progresses, if the version reports progress.

        Returns:
            The serialised engine.

        Raises:
            BackendUnavailable: this version or this machine cannot build with these options.
            BundleError: the parser or the builder refuses the model; a parser's message names the node and
                its operator.
        """
        trt = self.trt
        log = log_of(trt)
        log.errors.clear()
        log.raised.clear()
        builder = _made(trt.Builder, log, self.name)
        network = builder.create_network(self._network_flags())
        parser = trt.OnnxParser(network, log)
        if not parser.parse(onnx_file) or network.num_inputs != 1:
            raise BundleError(_parser_message(self.name, parser, onnx_file))
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
        profile = builder.create_optimization_profile()
        crops = network.get_input(0)
        shape = tuple(crops.shape)[1:] if options.size is None else (3, *options.size)
        least, usual, most = ((n, *shape) for n in options.batches)
        profile.set_shape(crops.name, least, usual, most)
        config.add_optimization_profile(profile)
        self._set_precision(config, options)
        self._set_target(config, options, network)
        cache = self._open_timing_cache(config, options.timing_cache)
        if hasattr(trt, "IProgressMonitor"):
            config.progress_monitor = make_monitor(trt, steps, log.raised)
        plan = builder.build_serialized_network(network, config)
        if log.raised:
            raise log.raised[0]
        if plan is None:
            message = f"{self.name} cannot build the engine: {_reasons(log)}"
            raise (BackendUnavailable if _out_of_memory(log) else BundleError)(message)
        if cache is not None and options.timing_cache is not None:
            try:
                write_bytes_whole(options.timing_cache, bytes(cache.serialize()))
            except OSError as error:  # not a reason to discard the engine
                logger.warning("the timing cache %s cannot be written: %s", options.timing_cache, error)
        return bytes(plan)

    def _network_flags(self) -> int:
        flags = self.trt.NetworkDefinitionCreationFlag
        if self.version < (10, 0) and not self.is_rtx:
            return 1 << int(flags.EXPLICIT_BATCH)
        return 1 << int(flags.STRONGLY_TYPED) if self.types_are_the_files else 0

    def _set_precision(self, config: Any, options: BuildOptions) -> None:
        if self.types_are_the_files:
            return
        flags = self.trt.BuilderFlag
        if options.fp16:
            config.set_flag(flags.FP16)
        if options.int8:
            config.set_flag(flags.INT8)

    def require_target(self, compute_capability: str) -> Any:
        """TensorRT's constant for a GPU such as ``SM86``; BackendUnavailable if it cannot build for it."""
        known = getattr(self.trt, "ComputeCapability", None) if self.is_rtx else None
        wanted = getattr(known, compute_capability, None) if compute_capability.startswith("SM") else None
        if wanted is None:
            can = ", ".join(n for n in dir(known) if n.startswith("SM")) if known else "the GPU that is here"
            message = f"{self.name} cannot build for {compute_capability}; it builds for {can}"
            raise BackendUnavailable(message)
        return wanted

    def _set_target(self, config: Any, options: BuildOptions, network: Any) -> None:
        trt = self.trt
        if options.compute_capability is not None:
            wanted = self.require_target(options.compute_capability)
            config.num_compute_capabilities = 1
            config.set_compute_capability(wanted, 0)
        if options.dla_core is not None:
            config.default_device_type = trt.DeviceType.DLA
            config.DLA_core = options.dla_core
            config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
            layers = [network.get_layer(i) for i in range(network.num_layers)]
            there = sum(map(config.can_run_on_DLA, layers))
            if not there:
                message = f"{self.name} can run no layer of this network on DLA core {options.dla_core}"
                raise BackendUnavailable(message)
            logger.warning("%d of %d layers run on DLA core %d", there, len(layers), options.dla_core)

    def _open_timing_cache(self, config: Any, path: Path | None) -> Any:
        if path is None or self.is_rtx:  # RTX compiles kernels where it runs, so a build times none
            return None
        cache = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
        if cache is None or not config.set_timing_cache(cache, False):  # damaged, or from another machine
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        return cache


class Engine:
    """An engine loaded onto the current GPU.

    Args:
        tensorrt: the same version that built the engine.
        plan: the serialised engine.
        dla_core: the Jetson DLA core that it runs on; None if it was not built for one.

    Attributes:
        scratch_bytes: the memory that a context needs while it runs; 0 if each context allocates its own.

    Raises:
        EngineMismatch: TensorRT cannot read it; it was built for another GPU or version, or is damaged.
        BackendUnavailable: the GPU is out of memory.
    """

    def __init__(self, tensorrt: TensorRt, plan: bytes, dla_core: int | None = None) -> None:
        log = log_of(tensorrt.trt)
        log.errors.clear()
        # Runtime, engine and context may be freed in any order: TensorRT's bindings keep what they need.
        self._runtime = _made(tensorrt.trt.Runtime, log, tensorrt.name)
        if dla_core is not None:  # the plan does not store it: a plan for core 1 would run on core 0
            self._runtime.DLA_core = dla_core
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            message = f"{tensorrt.name} cannot read the engine: {_reasons(log)}"
            raise (BackendUnavailable if _out_of_memory(log) else EngineMismatch)(message)
        self._name, self._log, self._trt = tensorrt.name, log, tensorrt.trt
        self.scratch_bytes = int(self._engine.device_memory_size_v2) if tensorrt.lends_scratch else 0

    def new_context(self, scratch: int | None = None) -> EngineContext:
        """Make a context, which runs the engine, one call at a time.

        Args:
            scratch: address of ``scratch_bytes`` of memory, which contexts that run one after the other may
                share; None gives the context its own.

        Raises:
            BackendUnavailable: the context cannot be made, for example because the GPU is out of memory.
        """
        if scratch is None or not self.scratch_bytes:
            context = self._engine.create_execution_context()
        else:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
        if context is None:
            message = f"{self._name} cannot make an execution context: {_reasons(self._log)}"
            raise BackendUnavailable(message)
        if scratch is not None and self.scratch_bytes:
            context.set_device_memory(scratch, self.scratch_bytes)
        return EngineContext(self, context)

    def is_float(self, tensor: str) -> bool:
        """Whether an input or output has the type float32."""
        return bool(self._engine.get_tensor_dtype(tensor) == self._trt.float32)


class EngineContext:
    """Runs an engine; made by :meth:`Engine.new_context`."""

    def __init__(self, engine: Engine, context: Any) -> None:
        self._engine, self._context = engine, context
        self._name, self._log = engine._name, engine._log
        self._known: set[tuple[int, ...]] = set()

    def enqueue(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int], stream: int) -> None:
        """Queue the network on a stream.

        Args:
            shapes: shape of every input and output, by name; ``crops`` is (N, 3, H, W).
            addresses: device address of each, contiguous float32.
            stream: the CUDA stream's handle.

        Raises:
            BundleError: the engine does not take crops of this shape, or its outputs are different.
            BackendUnavailable: the engine fails to run.
        """
        self._log.errors.clear()
        crops = shapes["crops"]
        good = self._context.set_input_shape("crops", crops)
        if good and crops not in self._known:
            self._check(shapes)
            self._known.add(crops)
        for name, address in addresses.items():
            good = self._context.set_tensor_address(name, address) and good
        if not good:
            message = f"{self._name} does not take crops of shape {crops}: {_reasons(self._log)}"
            raise BundleError(message)
        if not self._context.execute_async_v3(stream):
            message = f"{self._name} fails to run crops of shape {crops}: {_reasons(self._log)}"
            raise BackendUnavailable(message)

    def _check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raise BundleError unless the engine's tensors have the given shapes and the type float32."""
        for name, shape in shapes.items():
            found = tuple(self._context.get_tensor_shape(name))
            if found != shape or not self._engine.is_float(name):
                message = (
                    f"{self._name}: the engine's {name} are {found}, the bundle's float32 {shape}: export "
                    "and build it again"
                )
                raise BundleError(message)


def _made(kind: Any, log: Any, name: str) -> Any:
    try:
        return kind(log)
    except TypeError as error:  # raised by the bindings when the library returns a null pointer
        message = f"{name} does not start: {_reasons(log)}; does its CUDA fit the driver?"
        raise BackendUnavailable(message) from error


def _out_of_memory(log: Any) -> bool:
    return any("out of memory" in text.lower() or "outofmemory" in text.lower() for text in log.errors)


def _reasons(log: Any) -> str:
    return "; ".join(log.errors) or "it gives no reason"


def unavailable(flavour: Flavour) -> str | None:
    """Why a TensorRT cannot be used here and what to do about it, or None if it can."""
    install = {
        "tensorrt": "JetPack brings it; elsewhere pip install tensorrt",
        "tensorrt_rtx": "pip install tensorrt-rtx",
    }[flavour]
    try:
        module = import_module(flavour)
    except ImportError as error:
        return f"{flavour} cannot be imported ({str(error).splitlines()[0]}): {install}"
    except Exception as error:  # its loader raises all kinds of errors when a library is missing
        return f"{flavour} is installed but does not load ({error}): {install}"
    if not hasattr(module, "__version__"):
        return f"{flavour} is a folder here, and not the library: {install}"
    if flavour == "tensorrt" and not (8, 6) <= TensorRt(module).version < (12, 0):
        return f"tensorrt {module.__version__} is not known to this release: it needs 8.6, 10.x or 11.x"
    return None


def _parser_message(name: str, parser: Any, onnx_file: bytes) -> str:
    """The parser's first error with the node's name and operator; old versions report only its index."""
    if parser.num_errors == 0:
        return f"{name}: the model must have one input"
    error = parser.get_error(0)
    where = f"node {error.node()}"
    try:
        import onnx

        if error.node() < 0:
            return f"{name} cannot read the model: {error.desc()}"
        node = onnx.load_from_string(onnx_file).graph.node[error.node()]
        where = f"node {node.name!r} ({node.op_type})"
    except (ImportError, IndexError):
        pass
    return f"{name} cannot read the model at {where}: {error.desc()}"
