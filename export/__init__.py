"""From a training checkpoint to a bundle that the runtime opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lfpose_edge.errors import BackendUnavailable

if TYPE_CHECKING:
    from lfpose_edge.export.build import export_bundle

__all__ = ["export_bundle", "require_extra"]


def require_extra() -> None:
    """Raise BackendUnavailable, saying what to install, if the ``export`` extra is missing."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        message = f"{error.name} is missing: exporting needs the 'export' extra, pip install '.[export]'"
        raise BackendUnavailable(message) from error


def __getattr__(name: str) -> Any:
    # Imported on first use: without onnx, the command line must still start and say what to install.
    if name == "export_bundle":
        from lfpose_edge.export import build

        return getattr(build, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
