"""The source's pictures as the target's camera would have given them, as far as crops without labels tell.

A camera is taken to be three things: a tone curve for each channel, a loss of detail that depends on how fine
it is, and noise. All three show in the crops of two domains, whoever is on them; so a located person of the
source can be shown as the target's camera would, with the joints where they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.opencv import cv2

Floats = NDArray[np.float64]

_LEVELS = np.arange(256)
_AROUND = 16  # pixels; what a filter reaches from one edge of a crop is not to come from the other
_PATCH = 32  # pixels a side, of what is looked through for noise
_TOO_COARSE = 3  # periods in a patch: below, a flat patch's spectrum is of its light
_MIDDLE = (0.3, 0.8)  # of the patches by brightness; the darkest have less noise
_FLATTEST, _LEAST = 0.05, 8  # of those, and no fewer than
_SEEN = 0.25  # of what a filter reaches, for a pixel to be made of it


class Pictures(NamedTuple):
    """Crops of a domain.

    Attributes:
        crops: (N, 3, H, W) uint8.
        inside: (N, H, W) bool, what of them is in the image, a rectangle; a crop reaches beyond it.
    """

    crops: NDArray[np.uint8]
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Appearance:
    """What distinguishes a target's pictures from the source's.

    Attributes:
        tones: (3, 256), what becomes of a channel's grey levels.
        kept: (3, H + 32, (W + 32) // 2 + 1), of the amplitude at every frequency of a crop and 16 pixels
            around it.
        noise: the same shape, the root mean square of its amplitude there, of a pixel.
        chance: of a batch of the source being shown so.
    """

    tones: Floats
    kept: Floats
    noise: Floats
    chance: float

    def of_target(
        self, crop: NDArray[np.uint8], inside: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """A crop of the source as the target's camera would have given it.

        Args:
            crop: (3, H, W).
            inside: (H, W), the pixels that are wholly in the image. Those beside them are made of them; the
                rest no camera has seen, and it stays as it is.
            rng: of the noise.
        """
        toned = np.take_along_axis(self.tones[:, None], crop.reshape(1, 3, -1).swapaxes(0, 1), axis=2)
        seen = np.pad(inside.astype(float), _AROUND)
        light = np.pad(toned.reshape(crop.shape) * inside, ((0, 0), (_AROUND, _AROUND), (_AROUND, _AROUND)))
        # Over what is seen alone, or the edges of the image would be darker.
        blurred, share = (
            np.fft.irfft2(np.fft.rfft2(plane) * self.kept, s=seen.shape) for plane in (light, seen)
        )
        noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=light.shape)) * self.noise, s=seen.shape)
        shown = (blurred / np.maximum(share, _SEEN) + noise)[:, _AROUND:-_AROUND, _AROUND:-_AROUND]
        touched = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        return np.where(touched, np.clip(shown + 0.5, 0, 255).astype(np.uint8), crop)


def estimate_appearance(source: Pictures, target: Pictures, chance: float = 1.0) -> Appearance:
    """Compare crops of two domains, of one size that is a multiple of 32.

    All is of what is inside the images. The tone curve takes the source's distribution of levels to the
    target's. Power spectra are means over crops and directions; the noise's is that of the flattest patches,
    and none where there are too few to tell. What of the target's is not noise, over what of the source's is
    not, is the square of what is kept of detail; nothing is sharpened.
    """
    height, width = (extent + 2 * _AROUND for extent in source.crops.shape[2:])
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    tones, kept, noise = [], [], []
    for channel in range(3):
        ours, theirs = source.crops[:, channel], target.crops[:, channel]
        curve = np.interp(_distribution(ours[source.inside]), _distribution(theirs[target.inside]), _LEVELS)
        toned = curve[ours]
        pair = ((toned, source.inside), (theirs, target.inside))
        (at, power), (_, other) = (_spectrum(*pictures) for pictures in pair)
        own, foreign = (np.interp(at, *_noise(*pictures)) for pictures in pair)
        share = np.clip((other - foreign) / np.maximum(power - own, 1e-3), 0, 1)
        share[0] = 1  # the level, which is the curve's
        added = np.maximum(foreign - share * own, 0)
        tones.append(curve)
        kept.append(np.sqrt(np.interp(frequency, at, share)))
        noise.append(np.sqrt(np.interp(frequency, at, added)) * (frequency > 0))
    return Appearance(np.stack(tones), np.stack(kept), np.stack(noise), chance)


def _distribution(levels: NDArray[np.uint8]) -> Floats:
    """(256,) how much of some pixels is darker than each level."""
    count = np.bincount(levels, minlength=256) + 1e-3
    return (np.cumsum(count) - count / 2) / count.sum()


def _spectrum(pictures: NDArray[Any], inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """R frequencies, and the mean power there of what pictures (N, H, W) have inside their images."""
    windows = _hann(inside, 1)[:, :, None] * _hann(inside, 2)[:, None, :]
    at, powers = _spectra(pictures, windows)
    return at, powers.sum(axis=0) / np.maximum(np.square(windows).sum(), 1e-9)


def _hann(inside: NDArray[np.bool_], axis: int) -> Floats:
    """(N, L) along an axis of pictures (N, H, W), a Hann window over what is inside their images."""
    seen = np.any(inside, axis=3 - axis)
    place = seen.cumsum(axis=1) / (seen.sum(axis=1, keepdims=True) + 1)
    window: Floats = seen * np.sin(np.pi * place) ** 2
    return window


def _spectra(pictures: NDArray[Any], windows: Floats) -> tuple[Floats, Floats]:
    """R frequencies, periods a pixel, and pictures' (N, h, w) power there, (N, R).

    Of noise it is the variance, times the sum of the window's squares.
    """
    height, width = pictures.shape[1:]
    level = (pictures * windows).sum(axis=(1, 2), keepdims=True)
    level /= np.maximum(windows.sum(axis=(1, 2), keepdims=True), 1e-9)
    power = np.abs(np.fft.rfft2((pictures - level) * windows)) ** 2
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    side = max(height, width)
    rings, ring = np.unique(np.round(frequency * side).astype(int), return_inverse=True)
    members = np.eye(len(rings))[ring.ravel()]
    return rings / side, power.reshape(len(power), -1) @ (members / members.sum(axis=0))


def _noise(pictures: NDArray[Any], inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The spectrum of the flattest patches among those of middle brightness, of pictures (N, H, W).

    The flattest have the least noise by chance, too: it comes out a little low.
    """
    patches = _patches(pictures, inside)
    level = patches.mean(axis=(1, 2))
    low, high = np.quantile(level, _MIDDLE) if len(level) else (0, 0)
    patches = patches[(level >= low) & (level <= high)]
    if len(patches) < _LEAST:
        return np.zeros(1), np.zeros(1)
    patches = _without_slope(patches)
    window = np.outer(*[np.hanning(_PATCH + 2)[1:-1]] * 2)
    at, powers = _spectra(patches, window[None])
    fine = at * _PATCH >= _TOO_COARSE
    flattest = np.argsort(powers[:, fine].mean(axis=1))[: max(_LEAST, round(_FLATTEST * len(patches)))]
    power = powers[flattest].mean(axis=0) / np.square(window).sum()
    power[~fine] = power[fine][0]
    return at, power


def _patches(pictures: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[Any]:
    """(M, s, s), those of a grid that each picture (N, H, W) has wholly inside its image."""
    found = []
    for picture, seen in zip(pictures, inside, strict=True):
        image = picture[seen.any(axis=1)][:, seen.any(axis=0)]
        down, across = (extent // _PATCH for extent in image.shape)
        image = image[: down * _PATCH, : across * _PATCH].reshape(down, _PATCH, across, _PATCH)
        found.append(image.swapaxes(1, 2).reshape(-1, _PATCH, _PATCH))
    return np.concatenate(found)


def _without_slope(patches: NDArray[Any]) -> Floats:
    """Square patches (N, s, s) without their light: level and slope."""
    side = patches.shape[1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    plane = np.stack([np.ones(side * side), y.ravel(), x.ravel()], axis=1)
    flat = patches.reshape(len(patches), -1)
    rest: Floats = flat - flat @ np.linalg.pinv(plane).T @ plane.T
    return rest.reshape(patches.shape)
