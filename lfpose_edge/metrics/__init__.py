"""Accuracy of poses: PCK and OKS average precision."""

from lfpose_edge.metrics.pck import PckResult, box_thresholds, pck, torso_thresholds

__all__ = ["PckResult", "box_thresholds", "pck", "torso_thresholds"]
