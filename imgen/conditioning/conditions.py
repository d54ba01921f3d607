"""What a conditioner gives, and what samples are asked for: conditions, one for each image of a set."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from imgen.errors import UserError

LABELS = ("balanced", "random")


class Condition(NamedTuple):
    """What the model is told; None for what isn't given.

    slots [B, T, D]: in the sequence.   valid [B, T] bool: which are real, None if all are.
    context [L, B, C, R]: features that layer l turns into keys and values.   context_valid [B, C].
    vector [B, D]: for adaLN.
    """

    slots: jax.Array | None = None
    valid: jax.Array | None = None
    context: jax.Array | None = None
    context_valid: jax.Array | None = None
    vector: jax.Array | None = None


class Conditions(Protocol):
    """Conditions of N images."""

    def __len__(self) -> int: ...

    def rows(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the conditioner's inputs for images `ids` [B], arrays [B, ...]; ids beyond N begin anew."""

    def names(self, ids: np.ndarray) -> list[str]:
        """Returns what a picture of each shows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The class of each image, int [N].   class_names: of all classes."""

    labels: np.ndarray
    class_names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        return {"label": np.asarray(self.labels, np.int32)[np.asarray(ids) % len(self.labels)]}

    def names(self, ids: np.ndarray) -> list[str]:
        labels = self.rows(ids)["label"]
        return [self.class_names[n] if self.class_names else f"class {n}" for n in labels]


def sample_labels(num: int, classes: int, how: str = "balanced", seed: int = 0) -> np.ndarray:
    """Returns the class of each sample, int32 [num]: "balanced", each in turn, as MAR and 1d-tokenizer have
    equally many of each; "random", drawn, as LlamaGen. The first ones don't depend on `num`."""
    if how not in LABELS:
        raise UserError(f"labels {how!r} are neither of {', '.join(LABELS)}")
    if how == "balanced":
        return np.arange(num, dtype=np.int32) % classes
    return np.random.default_rng((seed, classes)).integers(classes, size=num, dtype=np.int32)


def conditions_for(
    conditioner, num: int, class_balance: str = "balanced", seed: int = 0
) -> Conditions:
    """Returns the conditions of `num` images that a model is asked for by default.

    class_balance: see `sample_labels`. Raises UserError where a model has no such conditions.
    """
    found = conditioner.default_conditions(num, class_balance, seed)
    if found is None:
        raise UserError(
            "this run is conditioned on text features; samples are drawn of classes only so far"
        )
    return found


def chosen_labels(
    conditioner, labels: str | None, num: int, class_names: Sequence[str] | None = None
) -> Conditions:
    """Returns conditions of `num` images of these classes in turn, by default of all.

    labels: names of classes or, where none is called so, their numbers, joined by commas. Raises UserError
    for a class that there isn't, or a model without classes.
    """
    default = conditions_for(conditioner, num)
    if labels is None:
        return default
    classes = getattr(conditioner, "num_classes", None)
    if classes is None:
        raise UserError(f"--labels {labels}: the run has no classes; leave it out")
    names = list(class_names or ())
    chosen = []
    for text in labels.split(","):
        text = text.strip()
        if text in names:
            chosen.append(names.index(text))
        elif text.isdecimal() and int(text) < classes:
            chosen.append(int(text))
        else:
            called = (
                f", called {', '.join(names[:10])}{' ...' if classes > 10 else ''}" if names else ""
            )
            raise UserError(
                f"--labels {labels}: {text!r} is no class; the run's classes are 0 to {classes - 1}{called}"
            )
    return Labels(np.resize(chosen, num).astype(np.int32), class_names)
