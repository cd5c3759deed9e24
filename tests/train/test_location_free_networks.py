"""The parts of the location-free network: their shapes, and what each of them does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lfpose_edge.errors import RecipeError
from lfpose_edge.skeleton import LSP14, Skeleton
from lfpose_edge.train.networks import CamNetwork
from lfpose_edge.train.networks.attention import place_embedding
from lfpose_edge.train.networks.cam_network import count_macs, count_parameters
from lfpose_edge.train.networks.context_encoder import ContextEncoder
from lfpose_edge.train.networks.prototypes import PrototypeHead
from lfpose_edge.train.recipe import Network, load_recipe

CHAIN = Skeleton("chain", ("a", "b", "c"), (("a", "b"), ("b", "c")), (0.1,) * 3)
EDGE = {"widths": (96, 64, 48), "context": {}, "prototypes": {}}
PAPER_SIZED = {
    "backbone": "resnet50",
    "widths": (256, 256),
    "context": {"asking": 8, "width": 256, "layers": 4, "heads": 8},
    "prototypes": {"heads": 8},
}


def _network(skeleton: Skeleton = LSP14, **options: Any) -> CamNetwork:
    torch.manual_seed(0)
    return CamNetwork(Network.model_validate({"widths": (16, 16, 16), **options}), skeleton)


def _encoder(**options: Any) -> ContextEncoder:
    torch.manual_seed(0)
    return ContextEncoder((8, 12, 16), (8, 16, 32), 16, 3, width=16, layers=2, heads=4, **options)


def _maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, c, 64 // s, 96 // s, generator=generator) for c, s in ((8, 8), (12, 16), (16, 32))]


def _head(**options: Any) -> PrototypeHead:
    torch.manual_seed(0)
    return PrototypeHead(8, 6, CHAIN, **{"layers": 2, "heads": 2, "memory": False, **options})


@pytest.mark.parametrize(
    ("options", "coarse", "fine"),
    [
        pytest.param({"context": {}}, [8, 16, 32], 4, id="context"),
        pytest.param({"context": {"guided": False}}, [8, 16, 32], 4, id="no guidance"),
        pytest.param({"context": {"strides": [16]}}, [16], 4, id="single scale"),
        pytest.param({"context": {"asking": 8}, "widths": (16,)}, [8, 16, 32], 8, id="fine cells ask"),
        pytest.param({"context": {}, "prototypes": {}}, [8, 16, 32, 16], 4, id="prototypes"),
        pytest.param({"context": {}, "prototypes": {"layers": 0}}, [8, 16, 32, 16], 4, id="no relation"),
        pytest.param({"context": {}, "prototypes": {"memory": False}}, [8, 16, 32, 16], 4, id="no memory"),
        pytest.param(PAPER_SIZED, [8, 16, 32, 8], 4, id="paper-sized"),
    ],
)
def test_shapes(options: dict[str, Any], coarse: list[int], fine: int) -> None:
    network = _network(**options)
    output = network.eval()(torch.randn(2, 3, 64, 96))
    assert network.cam_stride == fine
    assert output.cams.shape == (2, 14, 64 // fine, 96 // fine)
    assert [tuple(c.shape) for c in output.coarse_cams] == [(2, 14, 64 // s, 96 // s) for s in coarse]
    assert output.presence.shape == (2, 14)
    assert (output.prototypes is not None) == ("prototypes" in options)


def test_the_whole_method_fits_the_edge() -> None:
    network = _network(**EDGE)
    assert count_parameters(network) < 6e6
    assert count_macs(network, (256, 192)) < 0.6e9


def test_the_paper_sized_network_has_the_reference_shapes() -> None:
    network = _network(**PAPER_SIZED)
    assert 25e6 < count_parameters(network) < 32e6
    output = network.eval()(torch.zeros(1, 3, 256, 192))
    assert output.prototypes.context.shape == (1, 256, 32, 24)
    assert output.prototypes.pooled.shape == (1, 14, 256)
    assert output.cams.shape == (1, 14, 64, 48)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("network.widths=[]", "1 to 4 channel counts"),
        ("network.widths=[8, 8, 8, 8, 8]", "1 to 4 channel counts"),
        ("network={widths: [8], refine: true}", "two widths or more, no context"),
        ("network={context: {}, widths: [8, 8, 8, 8]}", "1 to 3 channel counts"),
        ("network={context: {}, widths: [8, 8], refine: true}", "no context"),
        ("network={prototypes: {}}", "give network.context too"),
        ("network.context={width: 30}", "multiple of 4"),
        ("network.context={strides: [16, 8]}", "must rise"),
        ("network.context={strides: [8, 32]}", "16, which asks"),
        ("loss.contrast=0.1", "loss.contrast needs network.prototypes with a memory"),
        ("loss.agreement=0.1", "loss.agreement needs coarse CAMs"),
    ],
)
def test_a_contradictory_recipe(options: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load_recipe("location_free", [options])


def test_two_readings_that_are_to_differ_and_to_agree_are_refused() -> None:
    with pytest.raises(RecipeError, match="makes them alike: leave one out"):
        load_recipe("location_free", ["network={erase: 0.7, refine: true}", "loss.agreement=0.1"])


def test_places_agree_between_strides() -> None:
    # A cell of stride 16 is centred where four cells of stride 8 meet. The slow waves are all but straight
    # over two cells, so their mean there is their value; half a cell further it would be 0.01 and more away.
    fine = place_embedding((8, 6), 8, 64, torch.device("cpu")).view(8, 6, 64)
    coarse = place_embedding((4, 3), 16, 64, torch.device("cpu")).view(4, 3, 64)
    around = fine.view(4, 2, 3, 2, 64).mean(dim=(1, 3))
    slow = torch.arange(64) % 16 >= 6  # by wave, in each of the sines and cosines of x and of y
    torch.testing.assert_close(coarse[..., slow], around[..., slow], atol=2e-3, rtol=0)
    shifted = place_embedding((4, 3), 16, 64, torch.device("cpu")).view(4, 3, 64).roll(1, dims=0)
    assert (coarse - shifted)[..., slow].abs().max() > 0.05
    assert len({tuple(row.tolist()) for row in fine.flatten(0, 1)}) == 48


def test_attention_goes_by_places_and_levels() -> None:
    encoder = _encoder(guided=False).eval()
    same = [torch.ones_like(x) for x in _maps()]  # nothing to go by but where a cell is
    with torch.no_grad():
        for layer in encoder.layers:
            for linear in (layer.query, layer.key):
                linear.weight.mul_(8)
        for project in encoder.project[1:]:
            project.weight.copy_(encoder.project[0].weight[:, :1].expand_as(project.weight))
        asked = encoder(same).context
        encoder.levels[0] += 3
        assert not torch.allclose(encoder(same).context, asked, atol=1e-4)
        assert not torch.allclose(asked[..., 0, 0], asked[..., -1, -1], atol=1e-4)


def test_guidance_that_is_the_same_everywhere_is_none() -> None:
    guided, plain = _encoder().eval(), _encoder(guided=False).eval()
    plain.load_state_dict(guided.state_dict(), strict=False)
    maps = _maps()
    with torch.no_grad():
        assert not torch.allclose(guided(maps).context, plain(maps).context, atol=1e-3)
        for head in guided.cam_heads:
            head.weight.zero_()
        torch.testing.assert_close(guided(maps).context, plain(maps).context)


def test_guidance_draws_attention_to_where_joints_are_likely() -> None:
    encoder, maps = _encoder().eval(), _maps()
    for head in encoder.cam_heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.constant_(head.bias, -20.0)
    maps[2].requires_grad_()
    flat = torch.autograd.grad(encoder(maps).context.square().sum(), maps[2])[0]
    torch.nn.init.constant_(encoder.cam_heads[2].bias, 20.0)  # the coarsest map is full of joints
    drawn = torch.autograd.grad(encoder(maps).context.square().sum(), maps[2])[0]
    assert drawn.abs().sum() > 1.5 * flat.abs().sum()


def test_no_gradient_flows_through_the_guidance() -> None:
    encoder = _encoder()
    encoder(_maps()).context.square().sum().backward()
    assert all(head.weight.grad is None for head in encoder.cam_heads)
    assert encoder.guidance.grad.abs() > 0


def test_the_cells_that_ask_see_every_scale() -> None:
    encoder, maps = _encoder(), _maps()
    for x in maps:
        x.requires_grad_()
    encoder(maps).context[0, :, 0, 0].square().sum().backward()
    for x in maps:
        assert (x.grad[0].abs().sum(dim=0) > 0).all()
        assert (x.grad[1] == 0).all()  # of its own crop only


def test_a_prototype_is_the_mean_of_the_cells_that_a_map_points_at() -> None:
    head, context = _head(), torch.randn(2, 8, 4, 5)
    coarse = torch.full((2, 3, 4, 5), -100.0)
    coarse[:, 0, 1, 2] = 100.0
    coarse[:, 1, 0, 0] = coarse[:, 1, 3, 4] = 100.0
    coarse[:, 2] = 7.0
    _, prototypes = head(context, coarse, torch.zeros(2, 3), torch.randn(2, 6, 8, 10))
    torch.testing.assert_close(prototypes.pooled[:, 0], context[:, :, 1, 2])
    torch.testing.assert_close(prototypes.pooled[:, 1], (context[:, :, 0, 0] + context[:, :, 3, 4]) / 2)
    torch.testing.assert_close(prototypes.pooled[:, 2], context.mean(dim=(2, 3)))


def test_the_map_peaks_where_the_feature_is_the_prototype() -> None:
    head = _head(layers=0).eval()
    context, coarse = torch.randn(1, 8, 4, 5), torch.randn(1, 3, 4, 5)
    with torch.no_grad():
        _, prototypes = head(context, coarse, torch.zeros(1, 3), torch.zeros(1, 6, 8, 10))
        wanted = head.prototype_projection(prototypes.pooled + head.embedding)
        head.feature_projection.weight.copy_(torch.eye(6).view(6, 6, 1, 1))
        head.feature_projection.bias.zero_()
        features = 0.3 * torch.randn(1, 6, 8, 10)
        planted = [(0, 1), (5, 9), (7, 3)]
        for joint, (y, x) in enumerate(planted):
            features[0, :, y, x] = 5 * wanted[0, joint]
        cams, _ = head(context, coarse, torch.zeros(1, 3), features)
        lifted, _ = head(context, coarse, torch.zeros(1, 3), features, 4.0)
    for joint, (y, x) in enumerate(planted):
        assert cams[0, joint].argmax() == y * 10 + x
        assert cams[0, joint, y, x].item() == pytest.approx(10 + head.bias[joint].item(), abs=1e-2)
    torch.testing.assert_close(lifted, cams + 4)


def test_bones_carry_more_of_the_relation_than_other_pairs() -> None:
    context, coarse, features = torch.randn(1, 8, 2, 2), torch.zeros(1, 3, 2, 2), torch.randn(1, 6, 2, 2)
    head = _head(layers=1)
    seen = []
    for gamma in (0.0, 1.0, 30.0):
        torch.nn.init.constant_(head.distance, gamma)
        head.embedding.grad = None
        head(context, coarse, torch.zeros(1, 3), features)[0][:, 0].sum().backward()
        seen.append((head.embedding.grad[1].abs().sum().item(), head.embedding.grad[2].abs().sum().item()))
    assert seen[0][1] > seen[1][1] > seen[2][1] == pytest.approx(0, abs=1e-6)  # a and c have no bone
    assert seen[2][0] > 0  # a and b have one


def test_the_memory_is_part_of_what_is_looked_for_and_told() -> None:
    head = _head(memory=True).eval()
    context, coarse, features = torch.randn(1, 8, 4, 5), torch.randn(1, 3, 4, 5), torch.randn(1, 6, 8, 10)
    with torch.no_grad():
        empty, _ = head(context, coarse, torch.zeros(1, 3), features)
        head.memory[1] = torch.randn(8)
        full, prototypes = head(context, coarse, torch.zeros(1, 3), features)
    assert not torch.allclose(empty[:, 1], full[:, 1], atol=1e-3)
    torch.testing.assert_close(prototypes.memory, head.memory)


def test_the_memory_keeps_the_mean_of_those_who_are_surely_there() -> None:
    head = _head(memory=True)
    context, coarse = torch.randn(4, 8, 4, 5), torch.randn(4, 3, 4, 5)
    presence = torch.tensor([[9.0, -9.0, 0.0]] * 3 + [[-9.0, -9.0, 0.0]])
    features = torch.randn(4, 6, 8, 10)
    _, first = head(context, coarse, presence, features)
    expected = first.pooled[:3, 0].mean(dim=0)
    torch.testing.assert_close(head.memory[0], expected)
    assert (head.memory[1:] == 0).all()
    _, second = head(context + 1, coarse, presence, features)
    torch.testing.assert_close(head.memory[0], 0.99 * expected + 0.01 * second.pooled[:3, 0].mean(dim=0))
    kept = head.memory.clone()
    head.eval()(context, coarse, presence, features)
    torch.testing.assert_close(head.memory, kept)
