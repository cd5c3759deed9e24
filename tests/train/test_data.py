"""Cutting crops, and the random changes of a training crop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lfpose_edge.coco import read_coco_keypoints
from lfpose_edge.persons import joined
from lfpose_edge.skeleton import LSP14
from lfpose_edge.train.data.augment import coarsen, intrude, random_crop_affine, random_part, random_pixels
from lfpose_edge.train.data.crops import CropView, PersonCrops
from lfpose_edge.train.recipe import Augment


def _figures(root: Path) -> Any:
    return read_coco_keypoints(root / "train" / "annotations.json", root / "train" / "images", LSP14)


def test_the_plain_crop_has_its_joints_where_the_picture_has_them(figures: Path) -> None:
    crops = PersonCrops(_figures(figures), CropView((128, 128), 1.25))
    sample = crops[0]
    assert sample.crop.shape == (3, 128, 128)
    k = LSP14.index("left_elbow")
    x, y = np.round(sample.joints[k].numpy() - 0.5).astype(int).tolist()
    # Left limbs are drawn green; the crop is RGB.
    assert sample.crop[:, y, x].argmax() == 1
    assert sample.crop[1, y, x] > 150


def test_a_mirrored_crop_swaps_left_and_right(figures: Path) -> None:
    persons = _figures(figures)
    always = Augment(rotation_deg=0, scale=0, shift=0, flip=1, color=0, cutout=0)
    plain = PersonCrops(persons, CropView((128, 128), 1.25))[0]
    mirrored = PersonCrops(persons, CropView((128, 128), 1.25, always))[0]
    swap = LSP14.flip_permutation
    np.testing.assert_allclose(mirrored.joints[:, 0], 128 - plain.joints[swap, 0], atol=1e-3)
    np.testing.assert_allclose(mirrored.joints[:, 1], plain.joints[swap, 1], atol=1e-3)
    difference = mirrored.crop.float() - plain.crop.flip(2).float()
    assert difference.abs().max() <= 1


def test_what_is_known_of_a_joint_changes_sides_with_it(figures: Path) -> None:
    folder = figures / "train"
    persons = read_coco_keypoints(folder / "annotations.json", folder / "images", LSP14, unlabelled="unknown")
    assert not persons.labelled.all()
    always = Augment(rotation_deg=0, scale=0, shift=0, flip=1, color=0, cutout=0)
    plain, mirrored = (PersonCrops(persons, CropView((64, 64), 1.25, augment)) for augment in (None, always))
    for one, other in zip(plain, mirrored, strict=True):
        for column, swapped in ((one.labelled, other.labelled), (one.known, other.known)):
            assert torch.equal(swapped, column[LSP14.flip_permutation])


STILL = {"rotation_deg": 0, "scale": 0, "shift": 0, "flip": 0, "color": 0, "cutout": 0}
ONE_EACH = {
    **{"rotation_deg": 30, "turn": 1, "scale": 0.5, "shift": 0.2, "zoom": 1, "flip": 1},
    **{"color": 0.5, "cutout": 1, "hide": 0.5, "coarse": 1, "intruder": 1, "crowd": 1},
}


@pytest.mark.parametrize("key", ONE_EACH)
def test_every_augmentation_changes_what_is_seen(figures: Path, key: str) -> None:
    assert set(ONE_EACH) == set(Augment.model_fields)
    views = [CropView((64, 64), 1.25, Augment(**{**STILL, **more})) for more in ({}, {key: ONE_EACH[key]})]
    still, changed = (PersonCrops(_figures(figures), view) for view in views)
    assert any(not torch.equal(still[i].crop, changed[i].crop) for i in range(4))


def test_samples_depend_on_seed_and_index_only(figures: Path) -> None:
    crops = PersonCrops(_figures(figures), CropView((64, 64), 1.25, Augment(), (0, 5)))
    again = crops.with_view(seed=(0, 5))
    other = crops.with_view(seed=(0, 6))
    assert all(bool((a == b).all()) for a, b in zip(crops[3], again[3], strict=True))
    assert not bool((crops[3].crop == other[3].crop).all())


def test_joints_outside_the_crop_count_as_unlabelled(figures: Path) -> None:
    crops = PersonCrops(_figures(figures), CropView((64, 64), 0.5))
    sample = crops[0]
    inside = ((sample.joints >= 0) & (sample.joints < 64)).all(dim=1)
    assert not bool((sample.labelled & ~inside).any())
    assert int(sample.labelled.sum()) < len(LSP14)


def test_several_tables_are_one(figures: Path) -> None:
    val = read_coco_keypoints(
        figures / "val" / "annotations.json", figures / "val" / "images", LSP14, unlabelled="unknown"
    )
    train = _figures(figures)
    both = joined([train, val])
    assert len(both) == len(both.images) == 32
    assert both.known[:24].all()
    assert (both.known[24:] == val.labelled).all()
    crops = PersonCrops(both, CropView((64, 64), 1.25))
    sample, own = crops[24], PersonCrops(val, CropView((64, 64), 1.25))[0]
    assert all(bool((a == b).all()) for a, b in zip(sample, own, strict=True))
    # Out of the crop is known to be absent from it; without a location nothing is known.
    narrow = PersonCrops(val, CropView((64, 64), 0.5))[0]
    assert (narrow.known.numpy() == val.labelled[0]).all()
    assert narrow.labelled.sum() < narrow.known.sum()


def test_a_crop_may_be_turned_by_any_angle() -> None:
    box, rng = np.array([0.0, 0.0, 100.0, 100.0]), np.random.default_rng(0)
    turned = Augment(rotation_deg=0, turn=1, scale=0, shift=0, flip=0)
    affines = [random_crop_affine(box, (64, 64), 1.0, turned, rng)[0] for _ in range(200)]
    angles = np.degrees([np.arctan2(a[1, 0], a[0, 0]) for a in affines])
    assert np.histogram(angles, bins=4, range=(-180, 180))[0].min() > 30


def test_pixel_changes_keep_shape_and_type_and_leave_the_input_alone() -> None:
    crop = np.full((3, 32, 32), 128, np.uint8)
    out = random_pixels(crop, Augment(color=0.5, cutout=1.0), np.random.default_rng(0))
    assert out.shape == crop.shape
    assert out.dtype == np.uint8
    assert (crop == 128).all()
    assert len(np.unique(out)) > 10  # noise in the covered rectangle


def test_parts_are_hidden_whole_and_as_often_as_asked() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (3, 33, 48), dtype=np.uint8)
    still = {"color": 0.0, "cutout": 0.0}
    hidden = 0
    for seed in range(50):
        seen = random_pixels(crop, Augment(**still, hide=0.3), np.random.default_rng(seed))
        same = (seen == crop).all(axis=0)
        parts = [part for band in np.array_split(same, 4) for part in np.array_split(band, 4, axis=1)]
        covered = [not part.all() for part in parts]
        hidden += sum(covered)
        grey = seen.reshape(3, -1)[:, ~same.ravel()]
        assert (grey == crop.mean(axis=(1, 2)).astype(np.uint8)[:, None]).all()
    assert 0.25 < hidden / (50 * 16) < 0.35
    assert (random_pixels(crop, Augment(**still), np.random.default_rng(0)) == crop).all()


def test_a_coarse_crop_is_the_crop_with_less_detail() -> None:
    stripes = np.zeros((3, 48, 64), np.uint8)
    stripes[:, :, ::2] = 200
    contrasts = []
    for seed in range(30):
        out = coarsen(stripes, np.random.default_rng(seed))
        assert (out.shape, out.dtype) == (stripes.shape, stripes.dtype)
        assert abs(float(out.mean()) - 100) < 8
        contrasts.append(float(out.astype(np.float64).std()))
    assert min(contrasts) < 5  # of 100
    assert max(contrasts) > 40
    steady = np.full((3, 48, 64), 77, np.uint8)
    assert (coarsen(steady, np.random.default_rng(0)) == 77).all()


def test_an_intruder_covers_one_side_with_his_own_pixels() -> None:
    crop, other = np.zeros((3, 40, 50), np.uint8), np.full((3, 40, 50), 200, np.uint8)
    other[:, :, :8] = other[:, :, -8:] = 100  # his surroundings, which do not come along
    sides = set()
    for seed in range(40):
        out = intrude(crop, other, np.random.default_rng(seed))
        covered = (out[0] == 200).nonzero()
        assert set(np.unique(out)) <= {0, 200}
        columns = np.unique(covered[1])
        sides.add(columns.min() == 0)
        assert columns.min() == 0 or columns.max() == 49
        assert 0.15 * 50 - 1 <= len(columns) <= 0.4 * 50
        assert len(np.unique(covered[0])) >= 19
    assert sides == {True, False}
    assert not crop.any()


@pytest.mark.parametrize("key", ["intruder", "crowd"])
def test_others_come_as_often_as_the_recipe_says(figures: Path, key: str) -> None:
    def crops(chance: float) -> PersonCrops:
        still = Augment(rotation_deg=0, scale=0, shift=0, flip=0, color=0, cutout=0, **{key: chance})
        return PersonCrops(_figures(figures), CropView((64, 64), 1.25, still))

    alone, crowded, some = crops(0), crops(1), crops(0.5)
    changed = [not bool((a.crop == b.crop).all()) for a, b in zip(alone, crowded, strict=True)]
    assert sum(changed) >= {"intruder": 24, "crowd": 20}[key]  # of 24; not everybody finds a place in a crowd
    assert all(bool((a.joints == b.joints).all()) for a, b in zip(alone, crowded, strict=True))
    assert all(bool((a.labelled == b.labelled).all()) for a, b in zip(alone, crowded, strict=True))
    number = sum(not bool((a.crop == b.crop).all()) for a, b in zip(alone, some, strict=True))
    assert 5 <= number <= 19  # of 24


def test_a_part_of_a_box_lies_inside_it() -> None:
    rng = np.random.default_rng(0)
    box = np.array([10.0, 20.0, 110.0, 220.0])
    parts = np.array([random_part(box, rng) for _ in range(100)])
    assert (parts[:, :2] >= box[:2]).all()
    assert (parts[:, 2:] <= box[2:]).all()
    share = (parts[:, 2:] - parts[:, :2]) / (box[2:] - box[:2])
    assert share.min() >= 0.4
    assert share.max() <= 0.8
