"""The interface of every inference engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.bundle import Bundle
from lfpose_edge.errors import BackendUnavailable, BundleError

if TYPE_CHECKING:
    from lfpose_edge._cuda import DeviceArray, Stream

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Request:
    """What a user asks of a backend; ``auto`` leaves the choice to it.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        threads: CPU threads of the engine; None lets it use all cores.
        cache_dir: folder for compiled models. With None, TensorRT, which takes minutes to build an engine,
            uses the user's cache folder; other engines keep nothing.
        max_batch: maximum number of crops per call.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    cache_dir: str | None = None
    max_batch: int = 16


class Backend(Protocol):
    """An engine with a loaded network. ``infer`` may be called from several threads at once.

    Attributes:
        description: engine, version, device and precision in one line, such as
            ``onnxruntime 1.20.0 cpu fp32``.
        channels_last: whether crops stored as (N, H, W, 3) save the engine a copy.
    """

    description: str
    channels_last: bool

    def infer(self, crops: Floats) -> tuple[Floats, Floats]:
        """Run the network.

        Args:
            crops: (N, 3, H, W) float32, normalised as the manifest specifies; fastest if allocated by
                :func:`crop_memory`.

        Returns:
            CAM logits (N, K, h, w) and presence logits (N, K), float32.
        """
        ...

    def close(self) -> None:
        """Free the engine; ``infer`` may not be called afterwards."""
        ...


def crop_memory(n: int, size: tuple[int, int], *, channels_last: bool) -> Floats:
    """Allocate float32 crops (n, 3, H, W): C-contiguous, or a transposed (n, H, W, 3) array."""
    if channels_last:
        return np.empty((n, *size, 3), np.float32).transpose(0, 3, 1, 2)
    return np.empty((n, 3, *size), np.float32)


class Closed:
    """Stands in for a freed network: any use, for example by a call in progress, raises RuntimeError."""

    def __getattr__(self, name: str) -> NoReturn:
        message = "this PoseEstimator is closed"
        raise RuntimeError(message)

    def __call__(self, *_: object) -> NoReturn:
        self.__getattr__("__call__")


class Context(Protocol):
    """A network ready to run on a GPU, one call at a time."""

    def enqueue(self, crops: DeviceArray, cams: DeviceArray, presence: DeviceArray, stream: Stream) -> None:
        """Queue the network on a stream; all arrays are float32 and contiguous.

        Args:
            crops: (N, 3, H, W), the input.
            cams: (N, K, h, w), written to.
            presence: (N, K), written to.
            stream: the stream to run on.

        Raises:
            BundleError: the engine's outputs are different.
            BackendUnavailable: the GPU fails.
        """
        ...


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """An engine on a GPU, which also works on arrays in GPU memory.

    Attributes:
        device: the GPU's number.
        captures: whether its calls can be captured in a CUDA graph, one graph per context.
        scratch_bytes: size of a context's working memory; 0 if each context allocates its own.
    """

    device: int
    captures: bool
    scratch_bytes: int

    def new_context(self, scratch: DeviceArray | None = None) -> Context:
        """Make a context of the engine, which all contexts share.

        Args:
            scratch: ``scratch_bytes`` of working memory, which contexts on the same stream may share; the
                caller must keep it alive. None gives the context its own.
        """
        ...


def does_not_start(engine: str, error: Exception) -> str:
    """The message for an engine that is installed but whose import or first call fails."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{engine} is installed, and does not start: {reason}; install it anew, or take another backend"


class BackendKind(Protocol):
    """A kind of engine: whether this machine has it, and how to load a bundle into it."""

    def unavailable(self) -> str | None:
        """Why this machine cannot run it and what to do about it, or None if it can."""
        ...

    def load(self, bundle: Bundle, request: Request) -> Backend:
        """Load a bundle; BackendUnavailable if the request cannot be met."""
        ...


def require_maps(backend: Backend, bundle: Bundle) -> None:
    """Run a backend on one blank crop, which also warms it up, and check the outputs.

    Raises:
        BundleError: the network does not run, or its maps do not match the manifest.
        BackendUnavailable: the GPU fails.
    """
    height, width = bundle.manifest.input.size
    joints, *cells = bundle.manifest.cams_shape
    expected = [(1, joints, *cells), (1, joints)]
    try:
        found = [output.shape for output in backend.infer(np.zeros((1, 3, height, width), np.float32))]
    except BackendUnavailable:  # for example out of GPU memory, which is not the bundle's fault
        raise
    except Exception as error:  # the engines' errors have no common base class
        message = f"{bundle.path}: the network does not run on {height}x{width} crops: {error}"
        raise BundleError(message) from error
    if found != expected:
        stride = bundle.manifest.decode.cam_stride
        message = (
            f"{bundle.path}: for {joints} joints, {height}x{width} crops and cam_stride {stride:g} cams and "
            f"presence must have shapes {expected}, the network gives {found}; export it again"
        )
        raise BundleError(message)
