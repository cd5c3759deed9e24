"""A step minimises the sum of terms that the recipe defines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lfpose_edge.geometry import crop_affines
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.bridge import DomainBridge
from lfpose_edge.train.data.crops import Sample
from lfpose_edge.train.data.tagged_crops import TagSample
from lfpose_edge.train.data.tags import NO, YES
from lfpose_edge.train.losses import supervised_loss
from lfpose_edge.train.map_losses import agreement_loss, concentration_loss, contrast_loss, separation_loss
from lfpose_edge.train.networks import PoseOutput, build_network
from lfpose_edge.train.networks.prototypes import Prototypes
from lfpose_edge.train.objective import Objective
from lfpose_edge.train.recipe import Recipe
from lfpose_edge.train.tag_losses import tag_loss
from lfpose_edge.train.view_losses import equivariance_loss, teacher_loss

PEOPLE = {"annotations": "people.json", "images": "."}
B, K, CELLS, STRIDE, PROGRESS = 4, len(LSP14), 8, 8, 0.5
MIRROR = torch.from_numpy(LSP14.flip_permutation)
NETWORK = {
    "backbone": "efficientnet_lite0",
    "pretrained": False,
    "widths": [8, 8],
    "context": {"width": 8, "layers": 1},
    "prototypes": {"layers": 1, "heads": 1},
}


def _output(rows: int, seed: int) -> PoseOutput:
    """The output of a network that is sure of everybody, with peaks sharp enough to serve as a teacher."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return 3 * torch.randn(*shape, generator=generator)

    prototypes = Prototypes(noise(rows, 6, 4, 4), noise(rows, K, 6), noise(K, 6))
    coarse = (noise(rows, K, 4, 4),)
    return PoseOutput(3 * noise(rows, K, CELLS, CELLS), 5 + noise(rows, K).abs(), coarse, prototypes)


def _tagged() -> TagSample:
    generator = torch.Generator().manual_seed(3)
    box = torch.tensor([[10.0, 20.0, 74.0, 84.0]])
    hard, easy = (
        torch.from_numpy(crop_affines(box.numpy().astype(float), (64, 64), padding=1.25, **view)).float()
        for view in ({"rotation_deg": 20.0}, {})
    )
    answers = torch.where(torch.rand(B, 2, K, generator=generator) < 0.5, YES, NO).to(torch.int8)
    answers[:, 0] = YES
    crops = torch.randint(256, (2, B, 3, 64, 64), dtype=torch.uint8, generator=generator)
    tile = torch.tensor([[10.0, 20.0, 50.0, 60.0]])
    return TagSample(
        crop=crops[0],
        affine=hard.expand(B, -1, -1),
        regions=torch.stack([box, tile], dim=1).expand(B, -1, -1),
        whole=torch.tensor([[True, False]]).expand(B, -1),
        answers=answers,
        rates=torch.full((B, K), 0.6),
        easy=crops[1],
        easy_affine=easy.expand(B, -1, -1),
    )


def _located() -> Sample:
    generator = torch.Generator().manual_seed(4)
    crops = torch.randint(256, (B, 3, 64, 64), dtype=torch.uint8, generator=generator)
    everything = torch.ones(B, K, dtype=torch.bool)
    return Sample(crops, 64 * torch.rand(B, K, 2, generator=generator), everything, everything)


@pytest.mark.parametrize("kind", [Sample, TagSample])
@pytest.mark.parametrize(
    "term", [None, "agreement", "concentration", "separation", "contrast", "equivariance", "teacher"]
)
def test_a_term_is_added_with_its_weight(
    make_recipe: Callable[..., Recipe], term: str | None, kind: type
) -> None:
    changes: dict[str, Any] = {"data": {"train": PEOPLE, "target": PEOPLE, "val": PEOPLE}}
    weights = {} if term is None else {term: 0.3}
    recipe = make_recipe(network=NETWORK, loss={**weights, "teacher_sure": 0.01}, **changes)
    network = build_network(recipe.network, recipe.joints)
    tagged = kind is TagSample
    sample = _tagged() if tagged else _located()
    both = tagged and term == "equivariance"  # the views are looked at in one pass, the easy one last
    output, taught = _output(2 * B if both else B, 1), _output(B, 2)
    first = PoseOutput(output.cams[:B], output.presence[:B], (output.coarse_cams[0][:B],))
    seen: list[Tensor] = []

    def model(crops: Tensor) -> PoseOutput:
        seen.append(crops)
        return output

    def teacher(crops: Tensor) -> PoseOutput:
        torch.testing.assert_close(crops, network.normalize(sample.easy))
        return taught

    total = Objective(recipe, network, MIRROR)(model, teacher, sample, PROGRESS).total
    shown = torch.cat([sample.crop, sample.easy]) if both else sample.crop
    torch.testing.assert_close(seen, [network.normalize(shown)])
    labels = (tag_loss if tagged else supervised_loss)(first, sample, MIRROR, STRIDE, recipe.loss).total
    second = PoseOutput(output.cams[B:], output.presence[B:])
    terms: dict[str | None, Callable[[], Tensor | float]] = {
        None: lambda: 0.0,
        "agreement": lambda: agreement_loss(output, PROGRESS),
        "concentration": lambda: concentration_loss(output),
        "separation": lambda: separation_loss(output),
        "contrast": lambda: contrast_loss(output),
        "equivariance": lambda: equivariance_loss(first, second, sample, MIRROR) if tagged else 0.0,
        "teacher": lambda: (
            teacher_loss(first, taught, sample, MIRROR, STRIDE, recipe.loss) if tagged else 0.0
        ),
    }
    extra = terms[term]()
    assert (float(extra) > 0.01) == (term is not None and (tagged or term not in {"equivariance", "teacher"}))
    torch.testing.assert_close(total, labels + 0.3 * extra)


@pytest.mark.parametrize(
    ("statistics", "of_target", "taught"),
    [("target", True, True), ("target", False, False), ("both", False, True)],
)
def test_an_adaptations_teacher_is_not_asked_about_people_whom_he_sees_by_others_statistics(
    statistics: str, of_target: bool, taught: bool, make_recipe: Callable[..., Recipe]
) -> None:
    """Those are the source's people with tags or no labels at all, seen with the target's statistics."""
    data = {"train": PEOPLE, "target": PEOPLE}
    recipe = make_recipe(data=data, network=NETWORK, loss={"teacher": 1.0}, adapt={"statistics": statistics})
    network = build_network(recipe.network, recipe.joints)
    sample = _tagged()._replace(of_target=torch.full((B,), of_target))
    asked: list[int] = []

    def teacher(crops: Tensor) -> PoseOutput:
        asked.append(len(crops))
        return _output(B, 2)

    objective = Objective(recipe, network, MIRROR, DomainBridge(recipe.adapt, network, LSP14))
    objective(lambda crops: _output(B, 1), teacher, sample, PROGRESS)
    assert asked == [B] * taught
