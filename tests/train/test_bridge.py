"""Adaptation, batch by batch: what the losses pull on, who is judged, and when it is stopped."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lfpose_edge.errors import LFPoseError
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.bridge import DomainBridge
from lfpose_edge.train.data.crops import Sample
from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.networks import build_network
from lfpose_edge.train.networks.adaptation import joint_features, relations
from lfpose_edge.train.networks.cam_network import CamNetwork, Features, PoseOutput
from lfpose_edge.train.recipe import Adaptation, Recipe
from lfpose_edge.train.view_losses import mass_around_peak

MakeRecipe = Callable[..., Recipe]
WHOLE = {"topology": 0.1, "features": 0.05}
NETWORK = {"backbone": "efficientnet_lite0", "pretrained": False, "widths": [16, 16, 16]}
B, K = 4, len(LSP14)


CROPS = torch.zeros(B, 3, 64, 64, dtype=torch.uint8)
TARGET = torch.ones(B, dtype=torch.bool)


def _source(of_target: torch.Tensor = ~TARGET) -> Sample:
    joints = torch.rand(B, K, 2) * 64
    return Sample(CROPS, joints, torch.rand(B, K) > 0.2, torch.ones(B, K).bool(), of_target)


def _target(of_target: torch.Tensor = TARGET) -> TagSample:
    fields = dict.fromkeys(TagSample._fields, torch.zeros(B, 0))
    return TagSample(**{**fields, "crop": CROPS, "of_target": of_target})


def _output(shift: float = 0.0) -> PoseOutput:
    deep = (torch.randn(B, 112, 4, 4) + shift).requires_grad_()
    fine = torch.randn(B, 16, 8, 8, requires_grad=True)
    return PoseOutput(torch.randn(B, K, 8, 8), torch.zeros(B, K), features=Features(deep, fine))


@pytest.fixture
def make_bridge(make_recipe: MakeRecipe) -> Callable[..., DomainBridge]:
    def make(network: CamNetwork | None = None, **weights: Any) -> DomainBridge:
        torch.manual_seed(0)
        network = network or build_network(make_recipe(network=NETWORK).network, LSP14)
        return DomainBridge(Adaptation.model_validate(weights), network, LSP14)

    return make


@pytest.fixture
def bridge(make_bridge: Callable[..., DomainBridge]) -> DomainBridge:
    return make_bridge(**WHOLE)


def test_a_target_waits_for_the_source(bridge: DomainBridge) -> None:
    output = _output()
    assert bridge(output, _target(), 0.5).item() == 0
    assert bridge(_output(), _source(), 0.5).item() > 0
    loss = bridge(output, _target(), 0.5)
    assert loss.item() > 0
    loss.backward()
    assert output.features.deep.grad.abs().max() > 0
    assert output.features.fine.grad.abs().max() > 0


def test_relations_that_are_the_sources_cost_nothing(bridge: DomainBridge) -> None:
    bridge.judge = None
    output = _output()
    bridge(output, _source(), 0.5)
    assert bridge(output, _target(), 0.5).item() < 1e-9
    assert bridge(_output(), _target(), 0.5).item() > 1e-4


def test_the_judge_learns_and_the_network_learns_against_it(bridge: DomainBridge) -> None:
    """Two domains that differ: the judge tells them apart, and its gradient on the features is turned."""
    bridge.graph = None
    optimizer = torch.optim.Adam(bridge.parameters(), 1e-3)
    costs = []
    for step in range(30):
        sample, shift = (_source(), 0.15) if step % 2 else (_target(), -0.15)
        loss = bridge(_output(shift), sample, 0.5)
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            costs.append(loss.item())
    assert sum(costs[-6:]) < 0.9 * sum(costs[:6])
    told = _output(0.0)
    deep = told.features.deep
    bridge(told, _source(), 0.0).backward()
    assert deep.grad.abs().max() == 0  # it sets in gently
    bridge(told, _source(), 1.0).backward()
    downhill = deep.detach() - 0.1 * deep.grad / deep.grad.abs().mean()  # as an optimiser goes
    moved = told._replace(features=Features(downhill, told.features.fine))
    assert bridge(moved, _source(), 1.0) > bridge(told, _source(), 1.0)  # the judge is worse off


def test_the_attention_does_not_tell_the_judge_the_domain(bridge: DomainBridge) -> None:
    """From two identical domains there is nothing to learn, however long the training."""
    bridge.graph = None
    optimizer = torch.optim.Adam(bridge.parameters(), 3e-3)
    costs = []
    for step in range(150):
        loss = bridge(_output(), _source() if step % 2 else _target(), 0.0)
        if loss.requires_grad:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            costs.append(loss.item() / bridge.weights.features)
    assert sum(costs[-20:]) / 20 > 0.6  # ln 2 is 0.69


def test_the_judge_is_heard_where_the_person_is(bridge: DomainBridge) -> None:
    bridge.graph = bridge.attention = None
    bridge(_output(), _target(), 0.5)
    cams = torch.full((B, K, 8, 8), -30.0)
    cams[:, :, :, :4] = 30.0  # in the crop's left half, which is two columns of the deep map
    output = _output()
    logits = bridge.judge(output.features.deep)
    there = F.binary_cross_entropy_with_logits(logits[..., :2], torch.ones_like(logits[..., :2]))
    loss = bridge(output._replace(cams=cams), _source(), 1.0)
    assert loss.item() == pytest.approx(bridge.weights.features * there.item(), rel=1e-4)


@pytest.mark.parametrize("level", ["nodes", "graphs"])
def test_a_judge_of_the_graph_learns_and_the_network_learns_against_it(level: str, make_bridge: Any) -> None:
    bridge = make_bridge(**{level: 1.0}, places=0.0)
    judge = bridge.node_judge if level == "nodes" else bridge.graph_judge
    optimizer = torch.optim.Adam(bridge.parameters(), 3e-3)

    def output(shift: float) -> PoseOutput:
        made = _output()
        fine = (
            made.features.fine.detach() + shift * torch.linspace(-1, 1, 16)[:, None, None]
        ).requires_grad_()
        return made._replace(features=Features(made.features.deep, fine))

    costs = []
    for step in range(60):
        sample, shift = (_source(), 0.5) if step % 2 else (_target(), -0.5)
        optimizer.zero_grad()
        loss = bridge(output(shift), sample, 0.5)
        loss.backward()
        assert all(p.grad is None or not p.grad.any() for p in bridge.graph.parameters())
        optimizer.step()
        costs.append(loss.item())
    assert sum(costs[-6:]) < 0.8 * sum(costs[:6])
    told = output(0.0)
    assert judge(torch.zeros(B, K, 128)).shape == ((B, K) if level == "nodes" else (B, 1))
    bridge(told, _source(), 0.0).backward()
    assert told.features.fine.grad.abs().max() == 0  # it sets in gently
    bridge(told, _source(), 1.0).backward()
    downhill = (
        told.features.fine.detach() - 0.1 * told.features.fine.grad / told.features.fine.grad.abs().mean()
    )
    moved = told._replace(features=Features(told.features.deep, downhill))
    assert bridge(moved, _source(), 1.0) > bridge(told, _source(), 1.0)  # the judge is worse off


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.5, 1.0])
def test_the_reversed_gradient_sets_in_as_ganin_and_lempitsky_say(
    progress: float, bridge: DomainBridge
) -> None:
    bridge.graph = bridge.attention = None
    bridge(_output(), _target(), progress)
    output = _output()
    grads = []
    for at in (progress, 1.0):
        output.features.deep.grad = None
        bridge(output, _source(), at).backward()
        grads.append(output.features.deep.grad.clone())
    strength, whole = (2 / (1 + math.exp(-10 * p)) - 1 for p in (progress, 1.0))
    torch.testing.assert_close(grads[0], grads[1] * strength / whole)


@pytest.mark.parametrize(("progress", "counts"), [(0.0, True), (1.0, False)])
def test_a_joint_must_be_surer_as_the_training_goes_on(
    progress: float, counts: bool, make_bridge: Any
) -> None:
    bridge = make_bridge(structure=1.0)
    bridge(_output(), _source(TARGET), 0.0)  # what located joints look like
    assert bridge.memory.seen.all()
    cams = torch.zeros(B, K, 16, 16)
    cams[:, :, 8, 8] = 4.5
    around = mass_around_peak(cams.flatten(2).softmax(dim=2), (16, 16), 1.5).sum(dim=2)
    assert 0.3 < around.min() and around.max() < 0.5
    output = _output()
    fine = torch.randn(B, 16, 16, 16)
    output = output._replace(cams=cams, features=Features(output.features.deep, fine))
    assert (bridge(output, _target(), progress).item() > 0) == counts


def test_the_graph_is_the_sources(bridge: DomainBridge) -> None:
    bridge.judge = None
    bridge(_output(), _source(), 0.5)
    output = _output()
    bridge(output, _target(), 0.5).backward()
    assert output.features.fine.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in bridge.parameters())


def test_the_sources_tagged_persons_are_no_target(bridge: DomainBridge) -> None:
    """The judge sees them as the source; nothing of them is taken for a place."""
    bridge.graph = None
    bridge(_output(), _source(), 0.5)
    assert bridge(_output(), _target(~TARGET), 0.5).item() == 0  # there is no target to tell them from
    assert list(bridge._last) == ["source"]


def test_the_targets_joints_are_drawn_to_the_located_ones(
    make_bridge: Callable[..., DomainBridge],
) -> None:
    bridge = make_bridge(structure=1.0)
    output = _output()
    output = output._replace(cams=20 * output.cams)  # which has a peak
    bridge(output, _source(), 0.5)  # the source is no example
    assert not bridge.memory.seen.any()
    assert bridge(output, _target(), 0.5).item() == 0
    bridge(_output(), _source(TARGET), 0.5)
    assert bridge.memory.seen.all()
    optimizer = torch.optim.SGD([output.features.fine], 5.0)
    costs = []
    for _ in range(60):
        loss = bridge(output, _target(), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        costs.append(loss.item())
    assert costs[-1] < 0.5 * costs[0]
    hidden = output._replace(cams=torch.zeros_like(output.cams))  # nobody is sure of a joint
    assert bridge(hidden, _target(), 0.5).item() == 0


def test_batch_norm_keeps_the_targets_statistics(
    make_bridge: Callable[..., DomainBridge], make_recipe: MakeRecipe
) -> None:
    network = build_network(make_recipe(network=NETWORK).network, LSP14).train()
    norm = next(m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
    for weights, kept in (({}, False), ({"statistics": "both"}, True)):
        bridge = make_bridge(network, **weights)
        for sample, moves in ((_source(), kept), (_target(), True), (_source(TARGET), True)):
            before = norm.running_mean.clone()
            bridge.prepare(sample)
            network(torch.randn(2, 3, 64, 64))
            assert torch.equal(norm.running_mean, before) != moves


def test_an_adaptation_that_unlearns_the_source_is_stopped(bridge: DomainBridge) -> None:
    for _ in range(50):
        bridge.watch(_source(), 2.0)
    for _ in range(200):  # what is not the source's may be as hard as it is
        bridge.watch(_target(), 9.0)
        bridge.watch(_source(TARGET), 9.0)
        bridge.watch(_source(), 2.8)
    again = copy.deepcopy(bridge)
    for watching in (bridge, again):
        with pytest.raises(
            LFPoseError, match=r"astray, as the source's location loss is 3.0. nats, and was 2.00"
        ):
            for _ in range(40):
                watching.watch(_source(), 4.0)


def test_what_was_learned_meanwhile_is_not_unlearned_either(bridge: DomainBridge) -> None:
    for loss, batches in ((6.5, 50), (2.0, 400)):  # begun without a trained network
        for _ in range(batches):
            bridge.watch(_source(), loss)
    with pytest.raises(LFPoseError, match=r"location loss is 3.\d\d nats, and was 2.0"):
        for _ in range(100):
            bridge.watch(_source(), 4.0)


def test_a_stage_of_another_size_is_watched_anew(bridge: DomainBridge) -> None:
    for size, loss in (((128, 96), 2.0), ((192, 96), 3.5), ((192, 128), 5.0)):
        crops = torch.zeros(B, 3, *size, dtype=torch.uint8)
        for _ in range(200):
            bridge.watch(_source()._replace(crop=crops), loss)
        assert bridge.watched.tolist() == pytest.approx([200, loss, loss, *size])


def test_the_graph_learns_places_of_labelled_joints_in_parts_of_the_crop(make_bridge: Any) -> None:
    bridge = make_bridge(topology=1.0, places=0.3)
    extent = torch.tensor([96.0, 64.0])
    sample = _source()._replace(crop=torch.zeros(B, 3, 64, 96, dtype=torch.uint8))
    sample = sample._replace(joints=torch.rand(B, K, 2) * extent)
    sample.joints[~sample.labelled] = 1e4
    output = _output()
    loss = bridge(output, sample, 0.5).item()
    _, places = bridge.graph(joint_features(output.cams, output.features.fine))
    off = F.smooth_l1_loss(places, sample.joints / extent, reduction="none").sum(dim=2)
    assert loss == pytest.approx(0.3 * off[sample.labelled].mean().item(), rel=1e-5)
    before, output = bridge.source_relations.clone(), _output()
    bridge(output, sample, 0.5)
    nodes, _ = bridge.graph(joint_features(output.cams, output.features.fine))
    torch.testing.assert_close(bridge.source_relations, 0.98 * before + 0.02 * relations(nodes.detach()))


def test_what_a_located_joint_looks_like_is_seen_where_it_is(make_bridge: Any) -> None:
    bridge = make_bridge(structure=1.0)
    sample = _source(TARGET)
    sample.joints[:, 0] = torch.tensor([44.0, 12.0])  # row 1 and column 5 of 8 x 8 cells
    sample.labelled[:, 0], sample.labelled[:, 1] = True, False
    fine = torch.zeros(B, 16, 8, 8)
    fine[:, 3, 1, 5] = 1
    output = _output()
    bridge(output._replace(features=Features(output.features.deep, fine)), sample, 0.5)
    assert bridge.memory.centres[0, 3] > 0.05
    assert not bridge.memory.seen[1]


def test_the_bridge_moves_what_joints_look_like_and_not_where_they_are(make_bridge: Any) -> None:
    bridge = make_bridge(topology=1.0, features=0.1)
    bridge(_output(), _source(), 0.5)
    output = _output()
    output.cams.requires_grad_()
    bridge(output, _target(), 0.5).backward()
    assert output.cams.grad is None
    assert output.features.fine.grad.abs().sum() > 0


def test_what_is_remembered_comes_back_to_where_the_bridge_is(
    make_bridge: Callable[..., DomainBridge],
) -> None:
    bridge = make_bridge(**WHOLE)
    bridge(_output(), _source(), 0.5)
    kept = bridge.get_extra_state()
    assert kept
    on_a_gpu = make_bridge(**WHOLE).to("meta")
    on_a_gpu.set_extra_state(kept)
    assert {values.device.type for values in on_a_gpu.get_extra_state().values()} == {"meta"}
