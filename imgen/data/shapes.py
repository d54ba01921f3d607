"""Captioned coloured shapes: a data set that is computed, not stored.

Every picture is a pure function of (seed, index): one anti-aliased shape in a named colour on a
light or dark background with a soft gradient. The class label is shape * len(COLOURS) + colour, so
`imgen.evaluation.prompts.shapes_check` can say without any learning whether a generated picture is what was
asked for.
"""

from collections.abc import Callable

import numpy as np

from imgen.data.source import Source
from imgen.errors import UserError

COLOURS = {
    "red": (214, 32, 38),
    "orange": (250, 130, 10),
    "yellow": (250, 224, 40),
    "green": (36, 150, 60),
    "cyan": (40, 205, 225),
    "blue": (35, 70, 215),
    "purple": (130, 40, 170),
    "pink": (250, 130, 195),
}
COLOUR_NAMES = tuple(COLOURS)
COLOUR_VALUES = np.array(list(COLOURS.values()), np.float32)  # [8, 3]

# Half the side of a shape's bounding square, as a share of the picture's side.
MIN_RADIUS, MAX_RADIUS = 0.28, 0.40
MARGIN = 0.065  # background around a shape, as a share of the side; smooth tips reach into it
_TEST_START = 2**40  # the test split's indices begin here, so the two can't meet


def _circle(x, y):
    return np.hypot(x, y) - 1.0


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - 0.88


def _triangle(x, y):
    """Upright, apex (0, -1), base from (-1, 0.85) to (1, 0.85)."""
    slope = 1.85
    side = (slope * np.abs(x) - (y + 1.0)) / np.sqrt(1.0 + slope**2)
    return np.maximum(side, y - 0.85)


def _star(x, y):
    """Five points; the folded half-plane construction for a star with inner radius 0.42."""
    c, s = np.cos(np.pi / 5), np.sin(np.pi / 5)
    x, y = np.abs(x), -y
    for kx in (c, -c):  # fold the plane into one of the ten mirror sectors
        inside = 2.0 * np.maximum(kx * x - s * y, 0.0)
        x, y = x - inside * kx, y + inside * s
    x, y = np.abs(x), y - 1.0
    edge_x, edge_y = 0.42 * s, 0.42 * c - 1.0  # from an outer point to the next inner point
    return (x * -edge_y + y * edge_x) / np.hypot(edge_x, edge_y)


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - 0.34, np.maximum(x, y) - 1.0)


def _ring(x, y):
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


# Name -> signed distance (negative inside) to the shape of radius 1 at the origin, y pointing down.
SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
}
SHAPE_NAMES = tuple(SHAPES)
NUM_CLASSES = len(SHAPES) * len(COLOURS)
CLASS_NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)


def coverage(shape: str, centre_x, centre_y, radius, size: int) -> np.ndarray:
    """Anti-aliased masks [..., size, size] in [0, 1]; centre and radius [...] are in pixels."""
    at = np.arange(size, dtype=np.float32) + 0.5
    cx, cy, r = (np.asarray(v, np.float32)[..., None, None] for v in (centre_x, centre_y, radius))
    distance = SHAPES[shape]((at - cx) / r, (at[:, None] - cy) / r) * r
    return np.clip(0.5 - distance, 0.0, 1.0)


def _background(colour: np.ndarray, size: int, draws: np.ndarray) -> np.ndarray:
    """Float [size, size, 3]: nearly grey, dark behind light colours and light behind dark ones."""
    luminance = colour @ np.array([0.299, 0.587, 0.114], np.float32)
    # With the strongest ramp (14.2 in a corner) and tint (4) these levels stay within [0, 255].
    level = (20.0 if luminance > 135 else 195.0) + 40.0 * draws[0]
    angle, strength = 2 * np.pi * draws[1], 6.0 * draws[2]
    at = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    slope_x, slope_y = np.float32(strength * np.cos(angle)), np.float32(strength * np.sin(angle))
    ramp = slope_x * at + slope_y * at[:, None]
    tint = 4.0 * (draws[3:6] - 0.5)
    return (level + tint).astype(np.float32) + ramp[..., None]


def _describe(shape: str, colour: str, x: float, y: float, radius: float) -> str:
    """A caption; x, y and radius are shares of the side."""
    size = "small" if radius < 0.32 else "large" if radius > 0.36 else "medium"
    vertical = "top" if y < 0.45 else "bottom" if y > 0.55 else ""
    horizontal = "left" if x < 0.45 else "right" if x > 0.55 else ""
    place = f"{vertical} {horizontal}".strip()
    where = f"at the {place}" if place else "in the centre"
    return f"a {size} {colour} {shape} {where}"


class Shapes(Source):
    """The data source "shapes".

    split: "train" or "test"; their index ranges don't overlap.
    size: side of the pictures in pixels. num: how many pictures the split has.
    """

    num_classes = NUM_CLASSES
    class_names = CLASS_NAMES
    captions = True

    def __init__(self, split: str, *, size: int = 32, num: int | None = None, seed: int = 0):
        if split not in ("train", "test"):
            raise UserError(f"the shapes have the splits train and test, not {split!r}")
        if size < 16:
            raise UserError(f"shapes need a size of at least 16 pixels, not {size}")
        if num is None:
            num = 100_000 if split == "train" else 4_800
        if num < 1:
            raise UserError(f"num must be at least 1, not {num}")
        self.name = f"shapes/{split}"
        self.size, self.num, self.seed = size, num, seed
        self._start = 0 if split == "train" else _TEST_START

    def __len__(self) -> int:
        return self.num

    def fingerprint(self) -> str:
        """Says all that the pictures depend on."""
        return f"{self.name}:{self.num} of {self.size} pixels, seed {self.seed}"

    def __getitem__(self, index: int) -> dict:
        """{"image": uint8 [size, size, 3], "label": int, "caption": str}; labels take turns."""
        if not 0 <= index < self.num:
            raise IndexError(index)
        label = index % NUM_CLASSES
        shape, colour = SHAPE_NAMES[label // len(COLOURS)], COLOUR_NAMES[label % len(COLOURS)]
        draws = np.random.default_rng((self.seed, self._start + index)).random(9)
        radius = MIN_RADIUS + (MAX_RADIUS - MIN_RADIUS) * draws[0]
        reach = radius + MARGIN
        x, y = reach + (1.0 - 2.0 * reach) * draws[1:3]
        value = COLOUR_VALUES[label % len(COLOURS)]
        mask = coverage(shape, *np.array([x, y, radius]) * self.size, self.size)
        background = _background(value, self.size, draws[3:])
        image = background + mask[..., None] * (value - background)
        return {
            "image": (image + 0.5).astype(np.uint8),
            "label": label,
            "caption": _describe(shape, colour, x, y, radius),
        }
