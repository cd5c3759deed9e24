"""Simplify graphs with onnxsim: fold constants, and remove nodes that compute nothing."""

from __future__ import annotations

import logging

import onnx

logger = logging.getLogger("lfpose_edge")


def simplify(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Simplify a float32 model; without onnxsim, or if it fails, return the model as it is and warn.

    The caller must check that the model still computes the same: onnxsim's own check does not run it.

    Args:
        model: weights stored as float32, because onnxsim would turn float16 ones into float32 anyway.
        name: the model's name, for messages.
    """
    try:
        import onnxsim
    except ImportError:
        logger.warning(
            "onnxsim is not installed: the graph of %s is not simplified (pip install onnxsim)", name
        )
        return model
    try:
        simplified: onnx.ModelProto = onnxsim.simplify(model)[0]
    except Exception as error:  # its checks, shape inference and ONNX Runtime raise their own kinds
        reason = str(error).splitlines()[0]
        logger.warning("onnxsim cannot simplify %s, which is exported as it is: %s", name, reason)
        return model
    return simplified
