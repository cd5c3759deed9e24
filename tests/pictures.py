"""Pictures with what tests need in them."""

from __future__ import annotations

import cv2
import numpy as np


def turned_jpeg(image: np.ndarray) -> bytes:
    """A BGR image as a JPEG file whose EXIF entry says: turn it clockwise by 90 degrees."""
    entry = b"\x12\x01" + b"\x03\x00" + b"\x01\x00\x00\x00" + b"\x06\x00\x00\x00"  # orientation: 6
    body = b"Exif\x00\x00" + b"II*\x00\x08\x00\x00\x00" + b"\x01\x00" + entry + b"\x00\x00\x00\x00"
    segment = b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body
    data = cv2.imencode(".jpg", image)[1].tobytes()
    return data[:2] + segment + data[2:]


def red_image(height: int = 40, width: int = 60) -> np.ndarray:
    """A BGR image."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 2] = 200
    return image


def encoded(suffix: str = ".jpg", **size: int) -> bytes:
    """A file of a red image."""
    return cv2.imencode(suffix, red_image(**size))[1].tobytes()


def spots(
    *centers: tuple[float, float], size: tuple[int, int] = (240, 320), sigma: float = 12.0
) -> np.ndarray:
    """A black BGR image with red bumps centred at continuous coordinates."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    red = np.zeros(size)
    for cx, cy in centers:
        red = np.maximum(red, 255 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)))
    image = np.zeros((*size, 3), np.uint8)
    image[..., 2] = red.round()
    return image
