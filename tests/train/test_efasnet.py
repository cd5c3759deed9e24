"""EFASNet's modules: shapes, how they start, what each adds and costs, and what they are exported as."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from lfpose_edge.export.to_onnx import to_onnx
from torch import nn

from lfpose_edge.errors import RecipeError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.networks import CamNetwork
from lfpose_edge.train.networks.aggregation import FeatureAggregation, ScaleSelection
from lfpose_edge.train.networks.cam_network import count_macs, count_parameters
from lfpose_edge.train.networks.decoder import ConcatLateral, Lateral, NoLateral, ResizeDecoder
from lfpose_edge.train.networks.upsampling import DenseUpsampling, upsampling
from lfpose_edge.train.recipe import Decoding, Network, load_recipe, parse_recipe


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def _network(**options: Any) -> CamNetwork:
    recipe = {"backbone": "efficientnet_lite0", "widths": (32, 24, 16, 16), **options}
    return CamNetwork(Network.model_validate(recipe), LSP14)


@pytest.mark.parametrize("channels", [24, 40, 112])
@pytest.mark.parametrize("options", [{}, {"scales": 3, "ratio": 2, "select": False}], ids=str)
def test_aggregation_keeps_the_shape_and_starts_as_nothing(channels: int, options: dict[str, Any]) -> None:
    block = FeatureAggregation(channels, **options)
    x = torch.randn(2, channels, 9, 7)
    assert torch.equal(block(x), x)
    torch.nn.init.ones_(block.expand[1].weight)
    assert not torch.allclose(block(x), x)


def test_every_group_sees_further_than_the_one_before() -> None:
    """By the gradient of one cell of each group: 1, 3, 5 and 7 cells wide."""
    block = FeatureAggregation(32, select=False).eval()
    groups: list[torch.Tensor] = []
    block.expand.register_forward_pre_hook(lambda _, inputs: groups.extend(inputs[0].chunk(4, dim=1)))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.abs_()  # so that nothing cancels, or is cut off by a ReLU
    x = torch.full((1, 32, 15, 15), 1e-3, requires_grad=True)
    block(x)
    for width, group in zip((1, 3, 5, 7), groups, strict=True):
        (gradient,) = torch.autograd.grad(group[0, :, 7, 7].sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(dim=0) > 0
        assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (width, width)


def test_selection_prefers_a_scale_and_is_fair_before() -> None:
    selection = ScaleSelection(3, 8)
    parts = [torch.rand(2, 8, 5, 5) for _ in range(3)]
    with torch.no_grad():
        selection.weigh.weight.zero_()
        selection.weigh.bias.zero_()
        for part, same in zip(parts, selection(parts), strict=True):
            torch.testing.assert_close(part, same)
        selection.weigh.bias[8:16] = 20.0  # the second scale's
        first, second, third = selection(parts)
    assert max(first.abs().max(), third.abs().max()) < 1e-5
    torch.testing.assert_close(second, 3 * parts[1])


@pytest.mark.parametrize("separable", [False, True])
def test_dense_upsampling_doubles_the_sides_and_starts_without_a_checkerboard(separable: bool) -> None:
    doubling = DenseUpsampling(6, 10, separable=separable).eval()
    fine = doubling(torch.randn(2, 6, 4, 5))
    assert fine.shape == (2, 10, 8, 10)
    cells = fine.view(2, 10, 4, 2, 5, 2)
    assert torch.equal(cells, cells[:, :, :, :1, :, :1].expand_as(cells))
    assert fine.std() > 0.02


@pytest.mark.parametrize("fusion", ["add", "concat"])
@pytest.mark.parametrize("laterals", [(), (4,), (4, 8, 16)], ids=str)
def test_the_decoder_sees_the_maps_that_the_recipe_names(laterals: tuple[int, ...], fusion: str) -> None:
    how = Decoding.model_validate({"laterals": laterals, "fusion": fusion})
    decoder = ResizeDecoder((8, 12, 16, 20), (16, 12, 8, 8), how=how)
    shapes = zip((8, 12, 16, 20), (16, 8, 4, 2), strict=True)
    maps = [torch.randn(1, c, s, s, requires_grad=True) for c, s in shapes]
    decoder(maps).fine.square().sum().backward()
    seen = [stride for stride, m in zip((4, 8, 16, 32), maps, strict=True) if m.grad is not None]
    assert seen == [*laterals, 32]


@pytest.mark.parametrize(
    ("decode", "modules"),
    [
        pytest.param({}, {Lateral, nn.Upsample}, id="plain"),
        pytest.param({"fusion": "concat"}, {ConcatLateral, nn.Upsample}, id="concat"),
        pytest.param({"laterals": []}, {NoLateral, nn.Upsample}, id="no laterals"),
        pytest.param({"upsample": "duc"}, {Lateral, nn.PixelShuffle}, id="duc"),
    ],
)
def test_a_name_in_a_recipe_is_the_module_of_that_name(decode: dict[str, Any], modules: set[type]) -> None:
    found = [type(part) for part in _network(decode=decode).decoder.modules()]
    kinds = (Lateral, ConcatLateral, NoLateral, nn.Upsample, nn.PixelShuffle)
    assert {kind: found.count(kind) for kind in kinds} == {kind: 3 * (kind in modules) for kind in kinds}


def test_a_separable_dense_upsampling_is_an_eighth_of_a_dense_one() -> None:
    dense, separable = (count_parameters(upsampling(kind, 64, 64)) for kind in ("duc", "duc_separable"))
    assert 7 < dense / separable < 9


@pytest.mark.parametrize(
    ("backbone", "decode"),
    [
        ("efficientnet_lite0", {"upsample": "duc_separable", "fusion": "concat"}),
        ("resnet50", {"upsample": "duc"}),
    ],
)
def test_what_is_exported_computes_the_same(backbone: str, decode: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = _network(backbone=backbone, pretrained=False, aggregate={}, decode=decode)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # FASM starts as the identity: let it do something
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    network.eval()
    model = to_onnx(network, (64, 96))
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("DepthToSpace") == 3
    assert "BatchNormalization" not in operators
    crops = np.random.default_rng(0).normal(size=(3, 3, 64, 96)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    cams, presence = session.run(("cams", "presence"), {"crops": crops})
    with torch.no_grad():
        expected = network(torch.from_numpy(crops))
    scale = float(expected.cams.std())
    assert np.abs(cams - expected.cams.numpy()).max() < 0.05 * max(scale, 0.02)  # weights are stored in half
    np.testing.assert_allclose(presence, expected.presence.numpy(), atol=0.02)
    onnx.checker.check_model(model, full_check=True)


FASM, DUC = "network.aggregate={scales: 4, ratio: 1, select: true}", "network.decode.upsample=duc_separable"


@pytest.mark.parametrize("changes", [[], [FASM, DUC]], ids=["as it is", "all three modules"])
def test_the_edge_form_is_small(changes: list[str]) -> None:
    recipe = load_recipe("efasnet_edge", changes)
    network = CamNetwork(recipe.network, recipe.joints)
    assert (recipe.network.aggregate is None) == (not changes)
    assert network.cam_stride == 4
    assert count_parameters(network) < 6e6
    assert count_macs(network, recipe.input_size) < 0.6e9


def test_the_papers_form_has_all_three_modules() -> None:
    recipe = load_recipe("efasnet_r50")
    assert recipe.network.aggregate is not None
    assert recipe.network.decode.laterals
    assert recipe.network.decode.upsample != "nearest"
    assert CamNetwork(recipe.network, recipe.joints).cam_stride == 4


def test_published_weights_load_as_they_are_and_the_new_blocks_learn_faster() -> None:
    network = _network(aggregate={})
    plain = _network().backbone.state_dict()
    network.backbone.load_state_dict(plain)
    groups = network.parameter_groups()
    new = {id(p) for p in network.aggregations.parameters()}
    assert new <= {id(p) for p in groups["head"]}
    assert not new & {id(p) for p in groups["backbone"]}


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ({"decode": {"upsample": "deconv"}}, "network.decode.upsample: Input should be"),
        ({"decode": {"laterals": [2]}}, "network.decode.laterals.0: Input should be 4, 8 or 16"),
        ({"aggregate": {"scales": 1}}, "network.aggregate.scales: "),
        ({"aggregate": {"size": 4}}, "unknown entry 'network.aggregate.size'"),
    ],
    ids=str,
)
def test_a_recipe_that_makes_no_sense_is_refused(network: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_recipe(
            {
                "name": "n",
                "skeleton": "lsp14",
                "data": {part: {"annotations": "a", "images": "i"} for part in ("train", "val")},
                "network": network,
                "stages": [{"epochs": 1, "size": [64, 64]}],
            },
            where="here",
        )
