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

Floats = NDArray[np.float64]

_LEVELS = np.arange(256)
_PATCH = 32  # pixels a side, of what is looked through for noise
_TOO_COARSE = 3  # periods in a patch: below, a flat patch's spectrum is of its light
_MIDDLE = (0.3, 0.8)  # of the patches by brightness; the darkest have less noise
_FLATTEST, _LEAST = 0.05, 8  # of those, and no fewer than


class Pictures(NamedTuple):
    """Crops of a domain.

    Attributes:
        crops: (N, 3, H, W) uint8.
        inside: (N, H, W) bool, what of them is in the image; a crop reaches beyond it.
    """

    crops: NDArray[np.uint8]
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class Appearance:
    """What distinguishes a target's pictures from the source's.

    Attributes:
        tones: (3, 256), what becomes of a channel's grey levels.
        kept: (3, H, W // 2 + 1), of the amplitude at every frequency of a crop.
        noise: the same shape, the root mean square of its amplitude there, of a pixel.
        chance: of a batch of the source being shown so.
    """

    tones: Floats
    kept: Floats
    noise: Floats
    chance: float

    def of_target(self, crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        """A (3, H, W) crop of the source as the target's camera would have given it."""
        toned = np.take_along_axis(self.tones[:, None], crop.reshape(1, 3, -1).swapaxes(0, 1), axis=2)
        spectrum = np.fft.rfft2(toned.reshape(crop.shape)) * self.kept
        scale = np.sqrt(crop[0].size / 2)
        spectrum += (
            (rng.normal(size=spectrum.shape) + 1j * rng.normal(size=spectrum.shape)) * self.noise * scale
        )
        shown = np.fft.irfft2(spectrum, s=crop.shape[1:])
        return np.clip(shown + 0.5, 0, 255).astype(np.uint8)


def estimate_appearance(source: Pictures, target: Pictures, chance: float = 1.0) -> Appearance:
    """Compare crops of two domains, of one size that is a multiple of 32.

    The tone curve takes the source's distribution of levels, inside the images, to the target's. Power
    spectra are means over crops and directions; the noise's is that of the flattest patches. What of the
    target's is not noise, over what of the source's is not, is the square of what is kept of detail; nothing
    is sharpened.
    """
    height, width = source.crops.shape[2:]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    tones, kept, noise = [], [], []
    for channel in range(3):
        ours, theirs = source.crops[:, channel], target.crops[:, channel]
        curve = np.interp(_distribution(ours[source.inside]), _distribution(theirs[target.inside]), _LEVELS)
        toned = curve[ours]
        at, powers = _spectra(toned)
        power, other = powers.mean(axis=0), _spectra(theirs)[1].mean(axis=0)
        own, foreign = (np.interp(at, *_noise(pictures)) for pictures in (toned, theirs))
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


def _spectra(pictures: NDArray[Any]) -> tuple[Floats, Floats]:
    """R frequencies, periods a pixel, and pictures' (N, h, w) power there, (N, R): of noise its variance."""
    height, width = pictures.shape[1:]
    window = np.outer(*(np.hanning(extent + 2)[1:-1] for extent in (height, width)))
    level = (pictures * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    seen = (pictures - level) * window
    power = np.abs(np.fft.rfft2(seen)) ** 2 / (window**2).sum()
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    side = max(height, width)
    rings, ring = np.unique(np.round(frequency * side).astype(int), return_inverse=True)
    members = np.eye(len(rings))[ring.ravel()]
    return rings / side, power.reshape(len(power), -1) @ (members / members.sum(axis=0))


def _noise(pictures: NDArray[Any]) -> tuple[Floats, Floats]:
    """The spectrum of the flattest patches among those of middle brightness, of pictures (N, H, W)."""
    count, height, width = pictures.shape
    rows, columns = height // _PATCH, width // _PATCH
    patches = (
        pictures.reshape(count, rows, _PATCH, columns, _PATCH).swapaxes(2, 3).reshape(-1, _PATCH, _PATCH)
    )
    level = patches.mean(axis=(1, 2))
    low, high = np.quantile(level, _MIDDLE)
    patches = _without_slope(patches[(level >= low) & (level <= high)])
    at, powers = _spectra(patches)
    fine = at * _PATCH >= _TOO_COARSE
    flattest = np.argsort(powers[:, fine].mean(axis=1))[: max(_LEAST, round(_FLATTEST * len(patches)))]
    power = powers[flattest].mean(axis=0)
    power[~fine] = power[fine][0]
    return at, power


def _without_slope(patches: NDArray[Any]) -> Floats:
    """Square patches (N, s, s) without their light: level and slope."""
    side = patches.shape[1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    plane = np.stack([np.ones(side * side), y.ravel(), x.ravel()], axis=1)
    flat = patches.reshape(len(patches), -1)
    rest: Floats = flat - flat @ np.linalg.pinv(plane).T @ plane.T
    return rest.reshape(patches.shape)
