"""EfficientNet-Lite 0, 1 and 2 as feature extractors.

EfficientNet-Lite is EfficientNet (Tan and Le, ICML 2019) without squeeze-and-excitation and with
ReLU6, made for integer arithmetic. Convolutions with stride 2 pad symmetrically, where the published
weights were trained with TensorFlow's "same" padding: training absorbs the shift of half a cell, and the
exported graph needs no separate Pad operator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lfpose_edge.train.networks.depthwise import DepthwiseConv2d

# (kernel, stride of the first block, expansion, channels, blocks) of the seven stages of Lite0.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_TAPS = (1, 2, 4, 6)  # indices of the stages whose outputs have strides 4, 8, 16 and 32


@dataclass(frozen=True)
class LiteVariant:
    """Compound scaling factors of an EfficientNet-Lite."""

    width: float
    depth: float


LITE_VARIANTS = {
    "efficientnet_lite0": LiteVariant(1.0, 1.0),
    "efficientnet_lite1": LiteVariant(1.0, 1.1),
    "efficientnet_lite2": LiteVariant(1.1, 1.2),
}


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with EfficientNet's epsilon, and a momentum that suits short trainings."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, padded to keep the size (divided by ``stride``), and BatchNorm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, batch_norm(c_out))


def depthwise_bn(channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Depthwise convolution, padded to keep the size (divided by ``stride``), and BatchNorm."""
    return nn.Sequential(DepthwiseConv2d(channels, kernel, stride), batch_norm(channels))


class InvertedResidual(nn.Module):
    """MBConv: expand 1x1, depthwise k x k, project 1x1; the input is added when shapes agree."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = c_in * expansion
        expand = [conv_bn(c_in, width, 1), nn.ReLU6(inplace=True)] if expansion != 1 else []
        self.layers = nn.Sequential(
            *expand,
            depthwise_bn(width, kernel, stride),
            nn.ReLU6(inplace=True),
            conv_bn(width, c_out, 1),
        )
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) to (B, c_out, h / stride, w / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite up to stride 32, without the classifier.

    Attributes:
        channels: channels of the four returned maps, at strides 4, 8, 16 and 32.
        pixel_mean, pixel_std: the normalisation that the published weights expect, RGB, 0 to 255.
    """

    pixel_mean = (127.0, 127.0, 127.0)
    pixel_std = (128.0, 128.0, 128.0)

    def __init__(self, name: str) -> None:
        super().__init__()
        variant = LITE_VARIANTS[name]
        self.stem = nn.Sequential(conv_bn(3, 32, 3, 2), nn.ReLU6(inplace=True))
        stages = []
        c_in = 32
        for i, (kernel, stride, expansion, channels, blocks) in enumerate(_STAGES):
            c_out = _round_to_8(channels * variant.width)
            # The Lite models do not scale the depth of the first and last stage.
            depth = blocks if i in (0, len(_STAGES) - 1) else math.ceil(blocks * variant.depth)
            stage = nn.Sequential()
            for j in range(depth):
                stage.append(InvertedResidual(c_in, c_out, kernel, stride if j == 0 else 1, expansion))
                c_in = c_out
            stages.append(stage)
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(_round_to_8(_STAGES[i][3] * variant.width) for i in _TAPS)

    def early_layers(self) -> list[nn.Module]:
        """The stem and the stages in order, which may be frozen from the front."""
        return [self.stem, *self.stages]

    def forward(self, x: Tensor, after: Sequence[nn.Module] = ()) -> list[Tensor]:
        """(B, 3, H, W) to maps of strides 4, 8, 16, 32, each passed through its module of ``after``."""
        x = self.stem(x)
        maps: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in _TAPS:
                if after:
                    x = after[len(maps)](x)
                maps.append(x)
        return maps


def _round_to_8(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
