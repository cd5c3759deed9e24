"""lfpose-edge: 2D human pose from weak labels to a real-time edge program.

>>> from lfpose_edge import PoseEstimator
>>> pose = PoseEstimator()
>>> result = pose("photo.jpg")
>>> result["left_wrist"]
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Exit handlers run in reverse order: registered first, ours runs after those of the importing program.
import lfpose_edge.leaving  # noqa: F401

if TYPE_CHECKING:
    from lfpose_edge.bundle import Bundle
    from lfpose_edge.detection.yolox import YoloxDetector
    from lfpose_edge.draw import draw_poses
    from lfpose_edge.errors import BackendUnavailable, BundleError, LFPoseError, SourceError
    from lfpose_edge.estimator import PoseEstimator
    from lfpose_edge.results import DevicePoses, Joint, Pose, PoseResult, StageTimings
    from lfpose_edge.skeleton import Skeleton
    from lfpose_edge.sources import Frame, frames
    from lfpose_edge.tracking import PoseTracker

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailable",
    "Bundle",
    "BundleError",
    "DevicePoses",
    "Frame",
    "Joint",
    "LFPoseError",
    "Pose",
    "PoseEstimator",
    "PoseResult",
    "PoseTracker",
    "Skeleton",
    "SourceError",
    "StageTimings",
    "YoloxDetector",
    "__version__",
    "draw_poses",
    "frames",
]

# Public names are imported on first use, so that `import lfpose_edge` and `lfpose --help` stay instant.
_HOMES = {
    "BackendUnavailable": "errors",
    "Bundle": "bundle",
    "BundleError": "errors",
    "DevicePoses": "results",
    "Frame": "sources",
    "Joint": "results",
    "LFPoseError": "errors",
    "Pose": "results",
    "PoseEstimator": "estimator",
    "PoseResult": "results",
    "PoseTracker": "tracking",
    "Skeleton": "skeleton",
    "SourceError": "errors",
    "StageTimings": "results",
    "YoloxDetector": "detection.yolox",
    "draw_poses": "draw",
    "frames": "sources",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__


# In a checkout the folder `export` is next to this package; when installed, it is inside (pyproject.toml).
# If a checkout comes first on the path, the compiled modules are taken from the installed package.
_here = Path(__file__).resolve().parent
if (_here.parent / "pyproject.toml").is_file() and (_here.parent / "export" / "__init__.py").is_file():
    __path__.append(str(_here.parent))
    for _folder in (Path(entry) / "lfpose_edge" for entry in sys.path):
        if any(p.suffix in (".so", ".pyd") for p in _folder.glob("_core.*")):
            __path__.append(str(_folder))
