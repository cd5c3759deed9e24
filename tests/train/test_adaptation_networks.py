"""What stands between two domains: shapes, how it starts, and what it is sensitive to."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lfpose_edge.skeleton import COCO17, LSP14, Skeleton
from lfpose_edge.train.networks.adaptation import (
    CrossAttention,
    DomainJudge,
    StructureMemory,
    TopologyGraph,
    joint_features,
    relations,
    reverse_gradient,
)


@pytest.fixture(autouse=True)
def _same_every_time() -> None:
    torch.manual_seed(0)


def test_a_reversed_gradient_changes_nothing_but_its_sign() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(y, x)
    (2 * y).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3, 4), -0.6))


def test_cross_attention_starts_as_nothing_and_gathers_what_is_alike() -> None:
    """PAPERS: 256x16x12 against 192x192; here smaller, and the two maps of different size."""
    attention = CrossAttention(16)
    ours, theirs = torch.randn(2, 16, 4, 3), torch.randn(2, 16, 5, 6)
    assert torch.equal(attention(ours, theirs), ours)
    attention.weight.data.fill_(1.0)
    for convolution in (attention.ask, attention.answer, attention.carry):
        torch.nn.init.dirac_(convolution.weight) if convolution is attention.carry else None
        torch.nn.init.zeros_(convolution.bias)
    attention.answer.weight.data.copy_(attention.ask.weight)
    with torch.no_grad():
        attention.ask.weight *= 30
        gathered = attention(ours, ours) - ours
    # A sharp affinity of a map with itself finds each cell, or one that points the same way and is longer.
    same = F.cosine_similarity(gathered, ours, dim=1)
    assert same.mean() > F.cosine_similarity(gathered.flip(2), ours, dim=1).mean() + 0.1


def test_the_judge_looks_at_every_cell() -> None:
    assert DomainJudge(24)(torch.randn(2, 24, 6, 5)).shape == (2, 1, 6, 5)


@pytest.mark.parametrize("skeleton", [LSP14, COCO17], ids=lambda s: s.name)
def test_the_graph_is_the_skeletons(skeleton: Skeleton) -> None:
    graph = TopologyGraph(20, skeleton)
    nodes, places = graph(torch.randn(3, len(skeleton), 20))
    assert nodes.shape == (3, len(skeleton), 128)
    assert places.shape == (3, len(skeleton), 2)
    assert torch.linalg.eigvalsh(graph.bones).max().item() == pytest.approx(1, abs=1e-5)
    # One layer receives from the neighbours alone.
    graph.layers, graph.norms = graph.layers[:1], graph.norms[:1]
    k, other = skeleton.index("left_elbow"), skeleton.index("right_ankle")
    neighbours = {k, skeleton.index("left_shoulder"), skeleton.index("left_wrist")}
    assert _heard_by(graph, k) == neighbours
    with torch.no_grad():
        graph.residual[k, other] = 1  # and from joints of learned edges
    assert _heard_by(graph, k) == {*neighbours, other}
    assert TopologyGraph(20, skeleton, residual=False).residual is None


def _heard_by(graph: TopologyGraph, joint: int) -> set[int]:
    features = torch.randn(1, len(graph.bones), 20, requires_grad=True)
    (grad,) = torch.autograd.grad(graph(features)[0][0, joint].sum(), features)
    return set(grad[0].abs().sum(dim=1).nonzero()[:, 0].tolist())


def test_what_is_gathered_is_a_mean_over_the_partner() -> None:
    attention = CrossAttention(16)
    with torch.no_grad():
        attention.weight.fill_(1)
        attention.carry.weight.zero_()
        attention.carry.bias.fill_(1)
    ours = torch.randn(2, 16, 4, 3)
    torch.testing.assert_close(attention(ours, torch.randn(2, 16, 5, 6)), ours + 1)


def test_a_joints_feature_is_the_maps_where_the_joint_is() -> None:
    features = torch.randn(2, 5, 6, 7)
    cams = torch.full((2, 3, 6, 7), -30.0)
    cams[:, 0, 2, 3] = cams[:, 1, 5, 6] = cams[:, 2, 0, 0] = 30.0
    found = joint_features(cams, features)
    expected = torch.stack([features[:, :, 2, 3], features[:, :, 5, 6], features[:, :, 0, 0]], dim=1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(joint_features(torch.zeros(2, 1, 6, 7), features)[:, 0], features.mean((2, 3)))


def test_relations_are_cosines_whatever_the_length() -> None:
    nodes = torch.randn(4, 3, 8)
    found = relations(nodes * torch.rand(4, 3, 1).add(0.1))
    torch.testing.assert_close(found, relations(nodes))
    torch.testing.assert_close(found.diagonal(), torch.ones(3))
    torch.testing.assert_close(found[0, 1], F.cosine_similarity(nodes[:, 0], nodes[:, 1], dim=1).mean())


def test_relations_of_those_who_count() -> None:
    nodes = torch.randn(4, 3, 8)
    counted = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    found = relations(nodes, counted)
    torch.testing.assert_close(found[:2, :2][0, 1], relations(nodes[[0, 2]])[0, 1])
    assert not found[2].any()
    torch.testing.assert_close(relations(nodes, torch.ones(4, 3).bool()), relations(nodes))


def test_a_memory_of_joints_is_of_those_located() -> None:
    memory = StructureMemory(3, 8)
    example = torch.randn(5, 3, 8)
    located = torch.tensor([[True, True, False]]).repeat(5, 1)
    located[0, 0] = False
    memory.remember(example, located)
    torch.testing.assert_close(memory.centres[0], example[1:, 0].mean(dim=0))
    assert memory.seen.tolist() == [True, True, False]
    assert not memory.centres[2].any()
    torch.testing.assert_close(memory.alike[0, 1], relations(example[1:])[0, 1])
    # A batch without the joint changes nothing of it; another one is averaged in.
    memory.remember(torch.randn(5, 3, 8), torch.tensor([[False, True, False]]).repeat(5, 1))
    torch.testing.assert_close(memory.centres[0], example[1:, 0].mean(dim=0))
    before = memory.centres[1].clone()
    memory.remember(torch.zeros(5, 3, 8), torch.tensor([[False, True, False]]).repeat(5, 1))
    torch.testing.assert_close(memory.centres[1], 0.9 * before)
    sure = torch.ones(5, 3, dtype=torch.bool)
    alike = memory.centres.expand(5, 3, 8)
    assert memory(alike, sure) < memory(alike.flip(1), sure)
    assert memory(torch.randn(5, 3, 8), ~sure) == 0
    wild = torch.randn(5, 3, 8)
    wild[:, 2] *= 1e4  # a joint that is never located has no effect
    torch.testing.assert_close(
        memory(wild, sure), memory(wild.clone().index_fill_(1, torch.tensor(2), 1), sure)
    )


def test_joints_in_their_places_cost_what_telling_them_apart_does() -> None:
    memory = StructureMemory(2, 4)
    axes = torch.eye(2, 4).expand(3, 2, 4)
    memory.remember(axes, torch.ones(3, 2, dtype=torch.bool))
    left = memory(axes, torch.ones(3, 2, dtype=torch.bool))
    told = -F.log_softmax(torch.tensor([10.0, 0.0]), dim=0)[0]  # cosines 1 and 0 over 0.1
    torch.testing.assert_close(left, 0.5 * told)
    swapped = memory(axes.flip(1), torch.ones(3, 2, dtype=torch.bool))
    torch.testing.assert_close(swapped, 1 + 0.5 * (told + 10))


def test_joints_that_were_never_located_together_are_not_related() -> None:
    memory = StructureMemory(2, 4)
    example = torch.randn(3, 1, 4).expand(3, 2, 4)  # both joints look the same
    for joint in range(2):
        memory.remember(example, torch.arange(2).expand(3, 2) == joint)
    assert memory.seen.all()
    assert not memory.seen_together[0, 1]
    sure = torch.ones(3, 2, dtype=torch.bool)
    alone = memory(example, sure)
    memory.remember(example, sure)
    torch.testing.assert_close(memory.alike[0, 1], torch.tensor(1.0))  # at once, not by a tenth
    torch.testing.assert_close(memory(example, sure), alone)
