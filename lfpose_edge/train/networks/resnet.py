"""ResNet-18 and ResNet-50 (He et al., CVPR 2016) as feature extractors.

Parameter names follow the published ImageNet checkpoints, which therefore load unchanged. ResNet-50
puts the stride on the 3x3 convolution, as those checkpoints do ("v1.5").
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(c_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) to (B, width, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut."""

    expansion = 4

    def __init__(self, c_in: int, width: int, stride: int) -> None:
        super().__init__()
        c_out = width * self.expansion
        self.conv1 = nn.Conv2d(c_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = _shortcut(c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, h, w) to (B, 4 * width, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


RESNET_VARIANTS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(nn.Module):
    """ResNet up to stride 32, without the classifier.

    Attributes:
        channels: channels of the four returned maps, at strides 4, 8, 16 and 32.
        pixel_mean, pixel_std: the normalisation that the published weights expect, RGB, 0 to 255.
    """

    pixel_mean = (123.675, 116.28, 103.53)
    pixel_std = (58.395, 57.12, 57.375)

    def __init__(self, name: str) -> None:
        super().__init__()
        block, depths = RESNET_VARIANTS[name]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        c_in = 64
        layers = []
        for i, depth in enumerate(depths):
            width = 64 * 2**i
            layer = nn.Sequential()
            for j in range(depth):
                layer.append(block(c_in, width, 2 if i > 0 and j == 0 else 1))
                c_in = width * block.expansion
            layers.append(layer)
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.channels = tuple(64 * 2**i * block.expansion for i in range(4))

    def early_layers(self) -> list[nn.Module]:
        """The stem and the stages in order, which may be frozen from the front."""
        stem = nn.Sequential(self.conv1, self.bn1)
        return [stem, self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, x: Tensor, after: Sequence[nn.Module] = ()) -> list[Tensor]:
        """(B, 3, H, W) to maps of strides 4, 8, 16, 32, each passed through its module of ``after``."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            if after:
                x = after[len(maps)](x)
            maps.append(x)
        return maps


def _shortcut(c_in: int, c_out: int, stride: int) -> nn.Module:
    if stride == 1 and c_in == c_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
