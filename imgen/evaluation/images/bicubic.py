"""Bicubic resize as PyTorch does it without antialiasing, for samples that are drawn larger than measured.

LlamaGen's models of 384 pixels are measured at 256: the generator's output is resized, then made uint8. Here
it is rounded before too, as metrics are of images as they are saved.

Source: LlamaGen, autoregressive/sample/sample_c2i_ddp.py; PyTorch, UpSampleBicubic2d (A = -0.75, without
align_corners).
"""

import dataclasses

import numpy as np

from imgen.evaluation.images.image_set import Batches, ImageSet

A = -0.75


def matrix(n: int, size: int) -> np.ndarray:
    """The resize of an axis of n pixels: float32 [size, n]. Beyond the ends their pixels go on."""
    at = (np.arange(size) + 0.5) * (n / size) - 0.5
    low = np.floor(at).astype(int)
    found = np.zeros((size, n))
    for tap in range(-1, 3):
        pixel = np.clip(low + tap, 0, n - 1)
        np.add.at(found, (np.arange(size), pixel), _kernel(np.abs(at - low - tap)))
    return found.astype(np.float32)


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """uint8 [B, H, W, C] -> uint8 [B, size, size, C], rounded."""
    batch, height, width, channels = images.shape
    down, across = matrix(height, size), matrix(width, size)
    x = np.matmul(down, images.reshape(batch, height, -1).astype(np.float32))
    x = np.matmul(across, x.reshape(batch, size, width, channels))
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def resized(images: ImageSet, size: int) -> ImageSet:
    """The same set with square images of `size`."""

    def read(batch_size: int) -> Batches:
        for rows, mask in images.read(batch_size):
            yield resize(rows, size), mask

    return dataclasses.replace(images, size=(size, size), read=read)


def _kernel(x: np.ndarray) -> np.ndarray:
    near = ((A + 2) * x - (A + 3)) * x * x + 1
    far = ((A * x - 5 * A) * x + 8 * A) * x - 4 * A
    return np.where(x <= 1, near, far)
