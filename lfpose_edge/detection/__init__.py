"""Person boxes: a small ONNX detector, and the protocol that any other one fulfils."""

from __future__ import annotations

from lfpose_edge.detection.detector import Detector, resolve_detector
from lfpose_edge.detection.yolox import YoloxDetector

__all__ = ["Detector", "YoloxDetector", "resolve_detector"]
