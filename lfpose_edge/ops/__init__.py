"""The kernels at both ends of the network: crops out of an image, joints out of CAMs.

``preprocess`` and ``decode`` run in C++; :mod:`lfpose_edge.ops.reference` has the same two functions in
NumPy, and is the specification.
"""

from __future__ import annotations

from lfpose_edge.ops.config import DecodeConfig, Method
from lfpose_edge.ops.decode import decode
from lfpose_edge.ops.preprocess import preprocess

__all__ = ["DecodeConfig", "Method", "decode", "preprocess"]
