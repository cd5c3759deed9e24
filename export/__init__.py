"""From a training checkpoint to a bundle that the runtime opens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lfpose_edge.export.build import export_bundle

__all__ = ["export_bundle"]


def __getattr__(name: str) -> Any:
    # Imported when first used: the command line must start, and say what to install, where onnx is missing.
    if name in __all__:
        from lfpose_edge.export import build

        return getattr(build, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
