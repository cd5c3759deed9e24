"""What every inference engine offers, and what it says of itself."""

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
        threads: CPU threads of the engine; None lets it take all cores.
        cache_dir: where it may keep what it compiles; None is the engine's usual way: TensorRT, which takes
            minutes, keeps engines in the user's cache folder, others keep nothing.
        max_batch: most crops at once.
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
        channels_last: whether crops that lie in memory as (N, H, W, 3) spare it a copy.
    """

    description: str
    channels_last: bool

    def infer(self, crops: Floats) -> tuple[Floats, Floats]:
        """Run the network.

        Args:
            crops: (N, 3, H, W) float32, normalised as the manifest says; fastest from :func:`crop_memory`.

        Returns:
            CAM logits (N, K, h, w) and presence logits (N, K), float32.
        """
        ...

    def close(self) -> None:
        """Free the engine; ``infer`` may not be called afterwards."""
        ...


def crop_memory(n: int, size: tuple[int, int], *, channels_last: bool) -> Floats:
    """Memory for crops, (n, 3, H, W): a C-contiguous array, or one of (n, H, W, 3) with its axes moved."""
    if channels_last:
        return np.empty((n, *size, 3), np.float32).transpose(0, 3, 1, 2)
    return np.empty((n, 3, *size), np.float32)


class Closed:
    """Takes the place of a network that was freed; to use it, as by a call under way, is a RuntimeError."""

    def __getattr__(self, name: str) -> NoReturn:
        message = "this PoseEstimator is closed"
        raise RuntimeError(message)

    def __call__(self, *_: object) -> NoReturn:
        self.__getattr__("__call__")


class Context(Protocol):
    """A network that is ready to run on a GPU, one call at a time."""

    def enqueue(self, crops: DeviceArray, cams: DeviceArray, presence: DeviceArray, stream: Stream) -> None:
        """Queue the network: crops (N, 3, H, W), cams (N, K, h, w), presence (N, K), float32, in order.

        Raises:
            BundleError: the engine gives something else.
            BackendUnavailable: the GPU fails.
        """
        ...


@runtime_checkable
class DeviceBackend(Backend, Protocol):
    """An engine on a GPU, which takes and gives arrays in its memory too.

    Attributes:
        device: the GPU's number.
        captures: whether its calls can be part of a CUDA graph, each context's of its own.
        scratch_bytes: memory that a context works in; 0 where each brings its own.
    """

    device: int
    captures: bool
    scratch_bytes: int

    def new_context(self, scratch: DeviceArray | None = None) -> Context:
        """A context of the engine, which all share.

        Args:
            scratch: ``scratch_bytes`` of memory, which contexts that run on one stream may share; the caller
                keeps it alive. None gives the context its own.
        """
        ...


def does_not_start(engine: str, error: Exception) -> str:
    """What to say of an engine that is installed, and whose import or first call fails."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{engine} is installed, and does not start: {reason}; install it anew, or take another backend"


class BackendKind(Protocol):
    """A kind of engine: whether this machine has it, and how to load a bundle into it."""

    def unavailable(self) -> str | None:
        """Why this machine cannot run it, with what to do; None when it can."""
        ...

    def load(self, bundle: Bundle, request: Request) -> Backend:
        """Load a bundle; BackendUnavailable when the request cannot be met."""
        ...


def require_maps(backend: Backend, bundle: Bundle) -> None:
    """Run a backend on one black crop; it is warm afterwards.

    Raises:
        BundleError: the network does not run, or its maps are not what the manifest says.
        BackendUnavailable: the GPU cannot.
    """
    height, width = bundle.manifest.input.size
    joints, *cells = bundle.manifest.cams_shape
    expected = [(1, joints, *cells), (1, joints)]
    try:
        found = [output.shape for output in backend.infer(np.zeros((1, 3, height, width), np.float32))]
    except BackendUnavailable:  # a GPU's memory is no fault of the bundle
        raise
    except Exception as error:  # the engines' errors share no base class
        message = f"{bundle.path}: the network does not run on {height}x{width} crops: {error}"
        raise BundleError(message) from error
    if found != expected:
        stride = bundle.manifest.decode.cam_stride
        message = (
            f"{bundle.path}: for {joints} joints, {height}x{width} crops and cam_stride {stride:g} cams and "
            f"presence must have shapes {expected}, the network gives {found}; export it again"
        )
        raise BundleError(message)
