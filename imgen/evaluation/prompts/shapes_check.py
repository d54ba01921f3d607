"""Says which shape in which colour a picture shows, by measurement and not by a trained network.

For the pictures of `imgen.data.shapes`. The border gives the background (a plane per colour
channel), what differs from it is the figure, its typical colour is compared with the named ones,
and its soft mask with those that the data set itself would draw with the same area and centroid.
"""

import functools

import numpy as np

from imgen.data.shapes import COLOUR_VALUES, COLOURS, SHAPE_NAMES, coverage

# Radii tried around the one that gives the measured area: blur and clipping bias the area a little.
RADIUS_FACTORS = (0.92, 1.0, 1.08)
CHUNK = 256  # pictures measured at a time, to bound memory


@functools.cache
def _unit_moments(shape: str) -> tuple[float, float]:
    """Area / radius^2 and the centroid's y offset / radius; every shape is symmetric in x."""
    side, radius = 256, 100.0
    mask = coverage(shape, side / 2, side / 2, radius, side)
    y = np.arange(side) + 0.5 - side / 2
    return float(mask.sum() / radius**2), float((mask.sum(1) @ y) / mask.sum() / radius)


def _background(images: np.ndarray) -> np.ndarray:
    """Float [N, S, S, 3]: the least-squares plane through the outermost pixels of `images`."""
    side = images.shape[1]
    at = np.linspace(-1.0, 1.0, side)
    plane = np.stack([np.ones((side, side)), *np.meshgrid(at, at)], -1)  # [S, S, 3 coefficients]
    border = np.ones((side, side), bool)
    border[1:-1, 1:-1] = False
    coefficients = np.linalg.pinv(plane[border]) @ images[:, border]  # [N, 3 coefficients, 3]
    return np.einsum("yxk,nkc->nyxc", plane, coefficients)


def _figure(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Soft mask [N, S, S] in [0, 1] and colour [N, 3] of whatever is not background."""
    difference = images - _background(images)  # [N, S, S, 3]
    strength = np.linalg.norm(difference, axis=-1)
    n, pixels = len(images), strength[0].size
    # The figure covers at least a twentieth of the picture; its colour is the median over the
    # pixels that differ about as much as that twentieth does.
    level = np.partition(strength.reshape(n, pixels), -pixels // 20, axis=1)[:, -pixels // 20]
    core = strength > 0.8 * level[:, None, None]
    core_pixels = np.where(core[..., None], images, np.nan).reshape(n, pixels, 3)
    core_difference = np.where(core[..., None], difference, np.nan).reshape(n, pixels, 3)
    colour = np.nanmedian(core_pixels, axis=1)
    offset = np.nanmedian(core_difference, axis=1)  # [N, 3] figure minus background
    along = np.einsum("nyxc,nc->nyx", difference, offset)
    alpha = along / np.maximum((offset**2).sum(-1), 1e-6)[:, None, None]
    # Below 0.25 it is noise: a sharp edge has few such pixels, the background would have many.
    return np.where(alpha < 0.25, 0.0, np.clip(alpha, 0.0, 1.0)), colour


def _shape_scores(mask: np.ndarray) -> np.ndarray:
    """Best soft intersection over union of each mask [N, S, S] with each shape: [N, shapes]."""
    side = mask.shape[1]
    area = np.maximum(mask.sum((1, 2)), 1.0)
    at = np.arange(side) + 0.5
    x, y = mask.sum(1) @ at / area, mask.sum(2) @ at / area
    scores = np.zeros((len(mask), len(SHAPE_NAMES)))
    for k, shape in enumerate(SHAPE_NAMES):
        unit_area, unit_y = _unit_moments(shape)
        for factor in RADIUS_FACTORS:
            radius = factor * np.sqrt(area / unit_area)
            template = coverage(shape, x, y - unit_y * radius, radius, side)
            union = np.maximum(mask, template).sum((1, 2))
            overlap = np.minimum(mask, template).sum((1, 2)) / union
            scores[:, k] = np.maximum(scores[:, k], overlap)
    return scores


def classify(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, S, S, 3] -> shape index [N] and colour index [N], int64, as in `data.shapes`.

    Some answer is given for every picture, also for one that shows nothing.
    """
    shapes, colours = [], []
    for start in range(0, len(images), CHUNK):
        mask, colour = _figure(np.asarray(images[start : start + CHUNK], np.float64))
        shapes.append(_shape_scores(mask).argmax(1))
        distance = np.linalg.norm(colour[:, None] - COLOUR_VALUES, axis=-1)
        colours.append(distance.argmin(1))
    return np.concatenate(shapes), np.concatenate(colours)


def class_accuracy(images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Share of uint8 [N, S, S, 3] that show the class, shape and colour of `labels` [N]."""
    shape, colour = classify(images)
    labels = np.asarray(labels)
    right_shape, right_colour = shape == labels // len(COLOURS), colour == labels % len(COLOURS)
    return {
        "class_accuracy": float((right_shape & right_colour).mean()),
        "shape_accuracy": float(right_shape.mean()),
        "colour_accuracy": float(right_colour.mean()),
    }
