"""Person detection: a small ONNX detector, and the protocol for any other one."""

from __future__ import annotations

from lfpose_edge.detection.detector import Detector, resolve_detector
from lfpose_edge.detection.yolox import YoloxDetector

__all__ = ["Detector", "YoloxDetector", "resolve_detector"]
