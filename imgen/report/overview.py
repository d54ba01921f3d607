"""What is about to be trained: a table of parameters, and what the compiler says of memory."""

import math

import jax

from imgen.parallel.mesh import Rules, specs
from imgen.params import paths
from imgen.training.task import State


def parameter_table(
    abstract: State, rules: Rules, mesh, notes: dict[str, str] | None = None
) -> str:
    """One line per parameter: path, shape, count, what the optimiser does, sharding; and the sum.

    notes: path -> what the optimiser does (`optim.describe`).
    """
    params = {"params": abstract["params"]}
    found, notes = specs(params, rules, mesh), notes or {}
    rows, trained, total = [], 0, 0
    for path, leaf in paths.flatten(params).items():
        count = math.prod(leaf.shape)
        note = notes.get(path.removeprefix("params/"), "")
        total += count
        trained += count if note != "frozen" else 0
        spec, remark = found[path]
        axes = ", ".join("+".join(a) if isinstance(a, tuple) else str(a or "-") for a in spec)
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append((path, shape, f"{count:,}", note, f"({axes}) {remark}".strip()))
    head = ("parameter", "shape", "count", "optimiser", "sharding")
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip()
        for r in [head, *rows]
    ]
    lines.append(f"{total:,} parameters, {trained:,} of them trained")
    return "\n".join(lines)


def memory_note(compiled: jax.stages.Compiled) -> str:
    """Bytes per device of the compiled step, as far as this backend tells."""
    stats = compiled.memory_analysis()
    if stats is None:
        return "memory unknown"
    mib = 1 / 2**20
    return (
        f"{stats.argument_size_in_bytes * mib:.1f} MiB state and batch, "
        f"{stats.temp_size_in_bytes * mib:.1f} MiB temporary per device"
    )
