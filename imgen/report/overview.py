"""What is about to be trained: a table of parameters, and what the compiler says of memory."""

import dataclasses
import math
from collections.abc import Mapping

import jax
from clu.parameter_overview import make_table

from imgen.parallel.mesh import Rules, specs
from imgen.params import paths


@dataclasses.dataclass(frozen=True)
class Row:
    """A parameter's line in the table."""

    parameter: str
    shape: str
    count: int
    optimiser: str
    sharding: str


def parameter_table(
    state: Mapping, rules: Rules, mesh, notes: Mapping[str, str] | None = None
) -> str:
    """Returns one line per parameter: path, shape, count, what the optimiser does, sharding; and the sum.

    state: a train state, or its shapes. notes: path -> what the optimiser does (`optim.describe`).
    """
    params = {"params": state["params"]}
    found, notes = specs(params, rules, mesh), notes or {}
    rows = []
    for path, leaf in paths.flatten(params).items():
        spec, remark = found[path]
        axes = ", ".join("+".join(a) if isinstance(a, tuple) else str(a or "-") for a in spec)
        rows.append(
            Row(
                parameter=path,
                shape="x".join(map(str, leaf.shape)) or "scalar",
                count=math.prod(leaf.shape),
                optimiser=notes.get(path.removeprefix("params/"), ""),
                sharding=f"({axes}) {remark}".strip(),
            )
        )
    total = sum(row.count for row in rows)
    trained = sum(row.count for row in rows if row.optimiser != "frozen")
    return f"{make_table(rows)}\n{total:,} parameters, {trained:,} of them trained"


def memory_note(compiled: jax.stages.Compiled) -> str:
    """Returns bytes per device of the compiled step, as far as this backend tells."""
    stats = compiled.memory_analysis()
    if stats is None:
        return "memory unknown"
    mib = 1 / 2**20
    return (
        f"{stats.argument_size_in_bytes * mib:.1f} MiB state and batch, "
        f"{stats.temp_size_in_bytes * mib:.1f} MiB temporary per device"
    )
