"""Depthwise convolution whose gradient is fast on CPUs.

In bfloat16, oneDNN has no fast kernel for the weight gradient of a depthwise convolution, nor for the
input gradient of one with a stride: both fall back to reference code, 5 to 20 times slower than in
float32. The forward pass is the ordinary convolution, so nothing changes for export.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _DepthwiseConv(torch.autograd.Function):
    """conv2d with groups = channels; its backward pass runs in float32 on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        stride, padding, channels = ctx.stride, ctx.padding, x.shape[1]
        grad = grad.contiguous(memory_format=torch.channels_last)
        wide = [t.float() for t in (grad, x, weight)]
        geometry = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], channels)
        backward = torch.ops.aten.convolution_backward
        if stride == 1:  # the input gradient is then a convolution with the flipped kernel
            grad_x = F.conv2d(grad, weight.flip(2, 3), None, 1, padding, groups=channels)
            _, grad_weight, _ = backward(*wide, None, *geometry, [False, True, False])
        else:
            grad_x, grad_weight, _ = backward(*wide, None, *geometry, [True, True, False])
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None, None


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` of odd kernel, padded to keep the size (divided by ``stride``)."""

    def __init__(self, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, h / stride, w / stride)."""
        if not (self.training and torch.is_grad_enabled() and x.device.type == "cpu"):
            return super().forward(x)
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        return _DepthwiseConv.apply(x, weight, self.stride[0], self.kernel_size[0] // 2)  # type: ignore[no-any-return]
