"""What `imgen.convert` knows of a system: how its published weights become our parameters, and back."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from imgen.interop.table import Row, from_official, to_official

State = Mapping[str, np.ndarray]
Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class System:
    """One value of `--system`.

    to_ours: official state dict -> parameters; raises UserError, naming keys, where it is not of this
    system. like: shapes of these parameters, and to_official: the way back; None where what is written
    keeps a published layout. inside: the key under which published files keep the state dict, "" where
    they are the state dict. sha256: how the hash of the published file begins, "" where that isn't known.
    where: which files to take, for those who have another one. heads_sha256: of the second file
    (--heads), whose state is added to the first one's, where systems are published in two.
    """

    like: Callable[[], Params] | None
    to_ours: Callable[[State], Params]
    to_official: Callable[[Params], State] | None
    inside: str = ""
    sha256: str = ""
    where: str = ""
    heads_sha256: str = ""


def by_table(
    rows: Callable[[], list[Row]],
    like: Callable[[], Params],
    ignored: Sequence[str] = (),
    **published: str,
) -> System:
    """A system that a table converts. published: `inside` and `sha256`."""
    return System(
        like,
        lambda state: from_official(rows(), state, like(), ignored),
        lambda params: to_official(rows(), params),
        **published,
    )
