"""A camera is known again by what it does to other pictures of other people."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lfpose_edge.train.data.appearance import Pictures, estimate_appearance

SIZE, PERSONS = 64, 96
ALL = np.ones((SIZE, SIZE), bool)


def _crops(seed: int) -> np.ndarray:
    """Pictures (N, 3, H, W) with edges of all directions and textures of all finenesses."""
    rng = np.random.default_rng(seed)
    crops = np.empty((PERSONS, SIZE, SIZE, 3), np.uint8)
    for crop in crops:
        crop[:] = rng.integers(60, 200, 3)
        for _ in range(12):
            points = rng.integers(0, SIZE, (3, 2)).astype(np.int32)
            cv2.fillPoly(crop, [points], rng.integers(20, 250, 3).tolist(), cv2.LINE_AA)
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))


def _whole(crops: np.ndarray) -> Pictures:
    return Pictures(crops, np.ones((len(crops), SIZE, SIZE), bool))


def _through(crops: np.ndarray, gain: float, blur: float, noise: float, seed: int = 9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    seen = np.stack([[cv2.GaussianBlur(channel, (0, 0), blur) for channel in crop] for crop in crops]) * gain
    return np.clip(seen + rng.normal(0, noise, seen.shape) + 0.5, 0, 255).astype(np.uint8)


def test_tones_blur_and_noise_are_found_in_other_peoples_pictures() -> None:
    target = _through(_crops(1), gain=0.6, blur=1.2, noise=6.0)
    found = estimate_appearance(_whole(_crops(0)), _whole(target))
    levels = np.arange(60, 200)
    np.testing.assert_allclose(found.tones[:, levels], np.tile(0.6 * levels, (3, 1)), atol=12)
    frequency = np.hypot(np.fft.fftfreq(SIZE + 32)[:, None], np.fft.rfftfreq(SIZE + 32))
    blurred = np.exp(-2 * (np.pi * 1.2 * frequency) ** 2)
    told = (frequency > 0.05) & (frequency < 0.25)  # beyond, noise is all there is
    assert np.abs(found.kept[:, told] - blurred[told]).mean() < 0.06
    assert found.noise[:, frequency > 0.1].mean() == pytest.approx(6.0, abs=1.0)


def test_a_dark_camera_is_found_whatever_of_the_crops_is_beyond_the_image() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = (rng.integers(0, 256, (PERSONS, 1, SIZE, SIZE)).repeat(3, axis=1) for _ in range(2))
    dark = (255 * 0.6 * (theirs / 255) ** 1.5).round().astype(np.uint8)
    source, target = _whole(ours.astype(np.uint8)), _whole(dark)
    for pictures, width in ((source, 20), (target, 2)):
        pictures.crops[..., :width] = 0
        pictures.inside[..., :width] = False
    levels = np.arange(256)
    tones = estimate_appearance(source, target).tones
    truth = 255 * 0.6 * (levels / 255) ** 1.5
    np.testing.assert_allclose(tones, np.tile(truth, (3, 1)), atol=1.5)


def test_a_crop_is_shown_as_the_target_looks_and_nobody_moves() -> None:
    source, target = _crops(0), _through(_crops(1), 0.6, 1.2, 6.0)
    appearance = estimate_appearance(_whole(source), _whole(target))
    rng = np.random.default_rng(0)
    shown = np.stack([appearance.of_target(crop, ALL, rng) for crop in source])
    assert shown.dtype == np.uint8
    assert shown.shape == source.shape
    truth = _through(source, 0.6, 1.2, 0.0).astype(int)
    assert np.abs(shown - truth).mean() < 8  # the noise, mostly; 40 before
    for statistic in (np.mean, np.std, lambda crops: np.abs(np.diff(crops.astype(int), axis=3)).mean()):
        ours, theirs, before = (statistic(crops) for crops in (shown, target, source))
        assert abs(ours - theirs) < 0.2 * abs(before - theirs)


def test_pictures_of_the_same_camera_stay_as_they_are() -> None:
    appearance = estimate_appearance(_whole(_crops(0)), _whole(_crops(0)))
    shown = appearance.of_target(_crops(0)[0], ALL, np.random.default_rng(0))
    assert np.abs(shown.astype(int) - _crops(0)[0]).max() <= 1


def test_what_lies_beyond_the_image_is_no_part_of_the_camera() -> None:
    ours, theirs = _whole(_crops(0)), _whole(_through(_crops(1), 0.6, 1.2, 6.0))
    truth = estimate_appearance(ours, theirs)
    for pictures, persons in ((ours, slice(None)), (theirs, slice(0, PERSONS, 2))):
        pictures.crops[persons, :, :, :28] = 0
        pictures.inside[persons, :, :28] = False
    found = estimate_appearance(ours, theirs)
    np.testing.assert_allclose(found.tones[:, 60:200], truth.tones[:, 60:200], atol=3)
    frequency = np.hypot(np.fft.fftfreq(SIZE + 32)[:, None], np.fft.rfftfreq(SIZE + 32))
    told = (frequency > 0.05) & (frequency < 0.25)
    assert np.abs(found.kept[:, told] - truth.kept[:, told]).mean() < 0.05
    fine = found.noise[:, frequency > 0.1].mean()
    assert fine == pytest.approx(truth.noise[:, frequency > 0.1].mean(), rel=0.1)


def test_crops_with_no_room_for_a_patch_tell_nothing_of_noise() -> None:
    pictures = _whole(_through(_crops(1), 1.0, 0.5, 9.0))
    pictures.inside[:, :, 31:] = False
    found = estimate_appearance(_whole(_crops(0)), pictures)
    assert not found.noise.any()
    assert np.isfinite(found.kept).all()


def test_crops_of_no_image_at_all_tell_nothing() -> None:
    nothing = Pictures(_crops(1), np.zeros((PERSONS, SIZE, SIZE), bool))
    found = estimate_appearance(_whole(_crops(0)), nothing)
    assert np.isfinite(found.kept).all()
    assert not found.noise.any()


def test_edges_of_the_image_stay_as_bright_and_nothing_is_shown_beyond() -> None:
    appearance = estimate_appearance(_whole(_crops(0)), _whole(_through(_crops(1), 1.0, 2.0, 0.0)))
    appearance = replace(appearance, tones=np.tile(np.arange(256.0), (3, 1)), noise=0 * appearance.noise)
    crop = np.zeros((3, SIZE, SIZE), np.uint8)
    crop[:, :, 20:] = 100
    crop[:, :10] = 7
    inside = np.zeros((SIZE, SIZE), bool)
    inside[10:, 20:] = True
    shown = appearance.of_target(crop, inside, np.random.default_rng(0))
    assert (np.abs(shown[:, inside].astype(int) - 100) <= 1).all()
    beyond = np.zeros((SIZE, SIZE), bool)
    beyond[:9] = beyond[:, :19] = True
    np.testing.assert_array_equal(shown[:, beyond], crop[:, beyond])


def test_the_left_edge_does_not_show_what_is_at_the_right() -> None:
    appearance = estimate_appearance(_whole(_crops(0)), _whole(_through(_crops(1), 1.0, 2.0, 0.0)))
    appearance = replace(appearance, tones=np.tile(np.arange(256.0), (3, 1)), noise=0 * appearance.noise)
    crop = np.full((3, SIZE, SIZE), 20, np.uint8)
    crop[:, :, SIZE // 2 :] = 220
    shown = appearance.of_target(crop, ALL, np.random.default_rng(0)).astype(int)
    assert np.abs(shown[:, :, :8] - 20).max() <= 4
    assert np.abs(shown[:, :, -8:] - 220).max() <= 4
