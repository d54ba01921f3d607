"""Scenes of one to four coloured shapes with a caption each: a compositional data set that is computed.

Every picture is a pure function of (seed, index): shapes of one size on a constant grey, apart from each
other, their centres on whole pixels, so that a small tokenizer can store them. Captions name objects,
colours, numbers and relations by templates, one for each of GenEval's tasks; 30 words, at most 8 in a
caption.

Some combinations are never shown in training (`is_held_out`): colours of a shape, pairs of shapes, numbers of
a shape, relations of a pair, pairs of coloured shapes. `ask` draws what a caption asks for, of those that are
shown or of those that are held out; `scene_of` draws a scene that is true to it.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from imgen.data.shapes import COLOUR_NAMES, COLOUR_VALUES, SHAPE_NAMES, coverage
from imgen.data.source import Source
from imgen.errors import UserError

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
# How often each is the caption of a training scene: harder ones more often.
WEIGHTS = (0.06, 0.18, 0.22, 0.1, 0.2, 0.24)
NUMBERS = ("a", "two", "three", "four")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = dict(zip(RELATIONS, ("right of", "left of", "below", "above"), strict=True))
GREY = 128.0
RADIUS, GAP = (
    5 / 32,
    2 / 32,
)  # half a shape's side, and the least distance of two, as shares of the side
CLEAR = (
    0.1  # of both sizes: how far apart along an axis centres must be (GenEval's relative_position)
)
START = {"train": 0, "test": 2**40, "held_out": 2**41}  # where a split's indices begin

HELD_KINDS = frozenset((shape, (3 * shape + 1) % 8) for shape in range(6))
HELD_PAIRS = frozenset({(0, 3), (1, 5), (2, 4)})
HELD_COUNTS = frozenset({(3, 2), (1, 2), (4, 3), (5, 3), (0, 4), (2, 4)})


class Thing(NamedTuple):
    """One object: indices of SHAPE_NAMES and COLOUR_NAMES, centre in pixels."""

    shape: int
    colour: int
    x: int
    y: int


class Noun(NamedTuple):
    """`count` objects of a shape, all of one colour where it is not None."""

    shape: int
    colour: int | None = None
    count: int = 1


class Ask(NamedTuple):
    """What a caption asks for: one noun, or two, the first of which stands in a relation to the second."""

    task: str
    nouns: tuple[Noun, ...]
    relation: str | None = None


def caption(ask: Ask) -> str:
    """Words an ask: "three circles", "a red circle left of a blue square"."""
    return f" {ask.relation or 'and'} ".join(map(_phrase, ask.nouns))


def _phrase(noun: Noun) -> str:
    name = SHAPE_NAMES[noun.shape]
    if noun.count > 1:
        name += "es" if name.endswith("s") else "s"
    colour = () if noun.colour is None else (COLOUR_NAMES[noun.colour],)
    return " ".join(
        [NUMBERS[noun.count - 1].replace("a", _article(colour or (name,))), *colour, name]
    )


def _article(words: Sequence[str]) -> str:
    return "an" if words[0][0] in "aeiou" else "a"


def relations(a: Thing, b: Thing, radius: float) -> list[str]:
    """Returns where a stands as seen from b: one of RELATIONS or two. (GenEval's rule for boxes of one
    size.)"""
    dx, dy = a.x - b.x, a.y - b.y
    length, free = np.hypot(dx, dy), 4 * radius * CLEAR
    far = [max(abs(d) - free, 0.0) / max(length, 1e-9) > 0.5 for d in (dx, dy)]
    return [RELATIONS[2 * axis + (d > 0)] for axis, d in enumerate((dx, dy)) if far[axis]]


def held_relation(a: int, relation: str, b: int) -> bool:
    """Says whether a pair of shapes is never shown so; for each pair one relation of the four."""
    if a > b:
        a, relation, b = b, INVERSE[relation], a
    return a != b and RELATIONS.index(relation) == (a + b) % 4


def held_colours(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Says whether two coloured shapes (shape, colour) are never shown together; one pair of eight."""
    (i, c), (j, d) = sorted([a, b])
    return i != j and (3 * c + 5 * d + i + j) % 8 == 0


def is_held_out(things: Sequence[Thing], radius: float) -> bool:
    """Says whether a scene shows a combination that training scenes never show."""
    shapes = [thing.shape for thing in things]
    if any((thing.shape, thing.colour) in HELD_KINDS for thing in things):
        return True
    if any((shape, shapes.count(shape)) in HELD_COUNTS for shape in set(shapes)):
        return True
    for a, b in combinations(things, 2):
        if tuple(sorted((a.shape, b.shape))) in HELD_PAIRS or held_colours(a[:2], b[:2]):
            return True
        if any(held_relation(a.shape, relation, b.shape) for relation in relations(a, b, radius)):
            return True
    return False


def asks_held_out(ask: Ask) -> bool:
    """Says whether every picture that is true to it is held out."""
    for noun in ask.nouns:
        if (noun.shape, noun.colour) in HELD_KINDS or (noun.shape, noun.count) in HELD_COUNTS:
            return True
    if len(ask.nouns) < 2:
        return False
    a, b = ask.nouns
    if tuple(sorted((a.shape, b.shape))) in HELD_PAIRS:
        return True
    if ask.relation and held_relation(a.shape, ask.relation, b.shape):
        return True
    return None not in (a.colour, b.colour) and held_colours(a[:2], b[:2])


def asks(task: str, colours_too: bool = False) -> Iterator[Ask]:
    """Lists all of a task, as GenEval asks: colours in colors and color_attr only. colours_too: those of
    counting and position with colours besides."""
    shapes, colours = range(len(SHAPE_NAMES)), range(len(COLOUR_NAMES))
    some = (None, *colours) if colours_too else (None,)
    if task == "single_object":
        yield from (Ask(task, (Noun(s),)) for s in shapes)
    elif task == "colors":
        yield from (Ask(task, (Noun(s, c),)) for s in shapes for c in colours)
    elif task == "counting":
        yield from (Ask(task, (Noun(s, c, n),)) for s in shapes for n in (2, 3, 4) for c in some)
    else:
        inked = colours if task == "color_attr" else some if task == "position" else (None,)
        for a in shapes:
            for b in shapes:
                for c in inked:
                    for d in inked if c is not None else (None,):
                        if a != b and (c is None) == (d is None):
                            told = RELATIONS if task == "position" else (None,)
                            nouns = Noun(a, c), Noun(b, d)
                            yield from (Ask(task, nouns, relation) for relation in told)


def scene_of(ask: Ask, rng: np.random.Generator, size: int = 32) -> list[Thing]:
    """Draws a scene that shows what is asked for and nothing else; colours that are not named are drawn, of
    equal shapes one colour for all or one for each."""
    radius = round(RADIUS * size)
    while True:
        places = _places(sum(noun.count for noun in ask.nouns), rng, size)
        kinds = [kind for noun in ask.nouns for kind in _coloured(noun, rng)]
        things = [Thing(*kind, *at) for kind, at in zip(kinds, places, strict=True)]
        if ask.relation is None or ask.relation in relations(things[0], things[1], radius):
            return things


def _coloured(noun: Noun, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draws (shape, colour) of each object."""
    drawn = rng.integers(len(COLOUR_NAMES), size=noun.count)
    if noun.colour is not None:
        drawn[:] = noun.colour
    elif rng.random() < 0.5:
        drawn[:] = drawn[0]
    return [(noun.shape, int(colour)) for colour in drawn]


def _places(count: int, rng: np.random.Generator, size: int) -> list[tuple[int, int]]:
    """Draws whole-pixel centres of squares that are GAP apart, each drawn from all that the others leave."""
    radius, apart = round(RADIUS * size), 2 * round(RADIUS * size) + max(round(GAP * size), 1)
    at = np.arange(radius, size - radius + 1)
    grid = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    while True:
        free, places = np.ones(len(grid), bool), []
        while len(places) < count and free.any():
            place = grid[rng.choice(np.flatnonzero(free))]
            places.append((int(place[0]), int(place[1])))
            free &= np.abs(grid - place).max(1) >= apart
        if len(places) == count:
            return places


def render(things: Sequence[Thing], size: int = 32) -> np.ndarray:
    """Draws uint8 [size, size, 3], edges anti-aliased."""
    image = np.full((size, size, 3), GREY, np.float32)
    for thing in things:
        mask = coverage(SHAPE_NAMES[thing.shape], thing.x, thing.y, round(RADIUS * size), size)
        image += mask[..., None] * (COLOUR_VALUES[thing.colour] - image)
    return (image + 0.5).astype(np.uint8)


class Scenes(Source):
    """The data source "scenes".

    split: "train" or "test", of what is shown in training, or "held_out". size: side of the pictures in
    pixels. num: how many pictures the split has.
    """

    captions = True

    def __init__(self, split: str, *, size: int = 32, num: int | None = None, seed: int = 0):
        if split not in START:
            raise UserError(f"the scenes have the splits {', '.join(START)}, not {split!r}")
        if size < 32 or size % 32:
            raise UserError(f"scenes need a size that is a multiple of 32 pixels, not {size}")
        num = (60_000 if split == "train" else 2_400) if num is None else num
        if num < 1:
            raise UserError(f"num must be at least 1, not {num}")
        self.name = f"scenes/{split}"
        self.split, self.size, self.num, self.seed = split, size, num, seed
        self._asks = {task: _of(split, task) for task in TASKS}

    def __len__(self) -> int:
        return self.num

    def fingerprint(self) -> str:
        """Says all that the pictures depend on."""
        return f"{self.name}:{self.num} of {self.size} pixels, seed {self.seed}"

    def train_transform(self, size: int, crop: str = "random", flip: bool = True) -> Callable:
        """As of any source, without flips: captions say left and right."""
        return super().train_transform(size, crop, flip=False)

    def __getitem__(self, index: int) -> dict:
        """Returns {"image": uint8 [size, size, 3], "label": 0, "caption": str}."""
        ask, things = self.scene(index)
        return {"image": render(things, self.size), "label": 0, "caption": caption(ask)}

    def scene(self, index: int) -> tuple[Ask, list[Thing]]:
        """Returns what a picture's caption asks for, and its objects."""
        if not 0 <= index < self.num:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, START[self.split] + index))
        tasks = [
            task for task in TASKS if self._asks[task]
        ]  # a single object has nothing to hold out
        weights = np.array([WEIGHTS[TASKS.index(task)] for task in tasks])
        found = self._asks[tasks[rng.choice(len(tasks), p=weights / weights.sum())]]
        while True:
            ask = found[rng.integers(len(found))]
            things = scene_of(ask, rng, self.size)
            if self.split == "held_out" or not is_held_out(things, round(RADIUS * self.size)):
                return ask, things


def _of(split: str, task: str) -> list[Ask]:
    """Returns the asks of a split; those without colours weigh as much as all with colours."""
    found = [ask for ask in asks(task, True) if asks_held_out(ask) == (split == "held_out")]
    plain = [ask for ask in found if all(noun.colour is None for noun in ask.nouns)]
    if task in ("counting", "position") and plain:
        found += plain * max((len(found) - len(plain)) // len(plain) - 1, 0)
    return found
