"""Rendering the source's pictures as the target's camera would have, estimated from unlabelled crops.

A camera is modelled by a tone curve for each channel, a loss of detail that depends on the spatial frequency,
and noise. All three can be estimated from crops of two domains, regardless of the people in them; so a
located person of the source can be shown as by the target's camera, with the joints in place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfpose_edge.opencv import cv2

Floats = NDArray[np.float64]

_LEVELS = np.arange(256)
_AROUND = 16  # pixels of padding, so that the circular filter does not mix opposite edges of a crop
_PATCH = 32  # pixels a side of the patches from which noise is estimated
_TOO_COARSE = 3  # periods in a patch: below, a flat patch's spectrum is that of its illumination
_MIDDLE = (0.3, 0.8)  # quantiles of the patches' brightness; the darkest have less noise
_FLATTEST, _LEAST = 0.05, 8  # part of those patches that is used, and the least number
_SEEN = 0.25  # lower bound of the seen share of a filter's support, by which its result is divided


class Pictures(NamedTuple):
    """Crops of a domain.

    Attributes:
        crops: (N, 3, H, W) uint8.
        inside: (N, H, W) bool, the rectangle of each crop that is in the image; crops may reach beyond it.
    """

    crops: NDArray[np.uint8]
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Appearance:
    """What distinguishes a target's pictures from the source's.

    Attributes:
        tones: (3, 256), the new value of each grey level of a channel.
        kept: (3, H + 32, (W + 32) // 2 + 1), the part of the amplitude that is kept at every frequency of a
            crop with 16 pixels around it.
        noise: the same shape, the root mean square of the noise's amplitude there, per pixel.
        chance: probability that a batch of the source is shown so.
    """

    tones: Floats
    kept: Floats
    noise: Floats
    chance: float

    def of_target(
        self, crop: NDArray[np.uint8], inside: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Render a crop of the source as the target's camera would have.

        Args:
            crop: (3, H, W).
            inside: (H, W), the pixels that are wholly in the image. Their direct neighbours are computed from
                them; the others were never seen by a camera and stay unchanged.
            rng: draws the noise.
        """
        toned = np.take_along_axis(self.tones[:, None], crop.reshape(1, 3, -1).swapaxes(0, 1), axis=2)
        seen = np.pad(inside.astype(float), _AROUND)
        light = np.pad(toned.reshape(crop.shape) * inside, ((0, 0), (_AROUND, _AROUND), (_AROUND, _AROUND)))
        # Normalised over the seen pixels; otherwise the edges of the image would be darker.
        blurred, share = (
            np.fft.irfft2(np.fft.rfft2(plane) * self.kept, s=seen.shape) for plane in (light, seen)
        )
        noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=light.shape)) * self.noise, s=seen.shape)
        shown = (blurred / np.maximum(share, _SEEN) + noise)[:, _AROUND:-_AROUND, _AROUND:-_AROUND]
        touched = cv2.dilate(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        return np.where(touched, np.clip(shown + 0.5, 0, 255).astype(np.uint8), crop)


def estimate_appearance(source: Pictures, target: Pictures, chance: float = 1.0) -> Appearance:
    """Compare crops of two domains, of one size that is a multiple of 32.

    Only pixels inside the images are used. The tone curve maps the source's distribution of levels to the
    target's. Power spectra are means over crops and directions; the noise spectrum is that of the flattest
    patches, and zero if there are too few of them. The square of the kept amplitude is the target's power
    without noise over the source's power without noise, at most 1: nothing is sharpened.
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
        share[0] = 1  # the mean level, which the tone curve sets
        added = np.maximum(foreign - share * own, 0)
        tones.append(curve)
        kept.append(np.sqrt(np.interp(frequency, at, share)))
        noise.append(np.sqrt(np.interp(frequency, at, added)) * (frequency > 0))
    return Appearance(np.stack(tones), np.stack(kept), np.stack(noise), chance)


def _distribution(levels: NDArray[np.uint8]) -> Floats:
    """(256,) cumulative distribution of pixels' grey levels, counting half of those at each level."""
    count = np.bincount(levels, minlength=256) + 1e-3
    return (np.cumsum(count) - count / 2) / count.sum()


def _spectrum(pictures: NDArray[Any], inside: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """R frequencies, and the mean power there of pictures (N, H, W) inside their images."""
    windows = _hann(inside, 1)[:, :, None] * _hann(inside, 2)[:, None, :]
    at, powers = _spectra(pictures, windows)
    return at, powers.sum(axis=0) / np.maximum(np.square(windows).sum(), 1e-9)


def _hann(inside: NDArray[np.bool_], axis: int) -> Floats:
    """(N, L) Hann windows along an axis of pictures (N, H, W), over what is inside their images."""
    seen = np.any(inside, axis=3 - axis)
    place = seen.cumsum(axis=1) / (seen.sum(axis=1, keepdims=True) + 1)
    window: Floats = seen * np.sin(np.pi * place) ** 2
    return window


def _spectra(pictures: NDArray[Any], windows: Floats) -> tuple[Floats, Floats]:
    """R frequencies in periods per pixel, and the power (N, R) of pictures (N, h, w) there.

    The power of noise is its variance times the sum of the window's squares.
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
    """The noise spectrum of pictures (N, H, W): that of their flattest patches of medium brightness.

    It is slightly underestimated, as the flattest patches also have the least noise by chance.
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
    """(M, s, s) patches of a grid over each picture (N, H, W), all wholly inside its image."""
    found = []
    for picture, seen in zip(pictures, inside, strict=True):
        image = picture[seen.any(axis=1)][:, seen.any(axis=0)]
        down, across = (extent // _PATCH for extent in image.shape)
        image = image[: down * _PATCH, : across * _PATCH].reshape(down, _PATCH, across, _PATCH)
        found.append(image.swapaxes(1, 2).reshape(-1, _PATCH, _PATCH))
    return np.concatenate(found)


def _without_slope(patches: NDArray[Any]) -> Floats:
    """Square patches (N, s, s) without their illumination, i.e. mean level and linear slope."""
    side = patches.shape[1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    plane = np.stack([np.ones(side * side), y.ravel(), x.ravel()], axis=1)
    flat = patches.reshape(len(patches), -1)
    rest: Floats = flat - flat @ np.linalg.pinv(plane).T @ plane.T
    return rest.reshape(patches.shape)
