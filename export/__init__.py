"""From a training checkpoint to a bundle that the runtime opens."""

from lfpose_edge.export.build import export_bundle

__all__ = ["export_bundle"]
