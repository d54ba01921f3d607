"""Where each leaf of the train state lives: a mesh (data, fsdp, tensor), rules by path."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from imgen.errors import UserError
from imgen.params import paths

AXES = ("data", "fsdp", "tensor")
Rules = Sequence[tuple[str, tuple]]


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices=None) -> Mesh:
    """A mesh over all devices (or those given); an axis of -1 takes what the others leave."""
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    if sizes.count(-1) > 1 or any(s < 1 and s != -1 for s in sizes):
        raise UserError(f"mesh {tuple(sizes)}: sizes are positive, and at most one is -1")
    known = math.prod(s for s in sizes if s != -1)
    sizes = [len(devices) // known if s == -1 else s for s in sizes]
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {len(devices)} devices"
        )
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples are split over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def whole_batch(size: int, mesh: Mesh) -> int:
    """`size` rounded up to what every (data, fsdp) shard gets an equal part of."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-size // shards) * shards


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises UserError unless every (data, fsdp) shard gets equally many examples."""
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        raise UserError(
            f"batch size {batch_size} is not a multiple of data x fsdp = {shards} shards; "
            "change the batch size or the mesh"
        )


def _leader(key: str) -> str:
    """The key that another key is sharded like: "opt" -> "params", "disc_opt" -> "disc"."""
    name, _, kind = key.rpartition("_")
    if kind in ("opt", "ema"):
        return name or "params"
    return key


def _rule_path(path: str, state: dict[str, jax.ShapeDtypeStruct]) -> str:
    """The path whose rule `path` obeys: for moments and EMA that of their parameter.

    "opt/0/mu/blocks/attn/q" ends in the path of the parameter that it belongs to.
    """
    key, *rest = path.split("/")
    leader = _leader(key)
    if leader == key:
        return path
    for i in range(len(rest)):
        candidate = "/".join([leader, *rest[i:]])
        if candidate in state and state[candidate].shape == state[path].shape:
            return candidate
    return path


def _fit(spec: tuple, shape: tuple[int, ...], mesh: Mesh, path: str) -> tuple[PartitionSpec, str]:
    """Pads `spec` on the left for stacked layers; axes that don't divide are dropped and noted."""
    if len(spec) > len(shape):
        raise UserError(f"sharding rule {spec} has more axes than {path!r} with shape {shape}")
    fitted, notes = [None] * (len(shape) - len(spec)), []
    for size, axes in zip(shape[len(fitted) :], spec, strict=True):
        names = (axes,) if isinstance(axes, str) else tuple(axes or ())
        shards = math.prod(mesh.shape[name] for name in names)
        if size % shards:
            notes.append(f"{size} is not divisible by {'x'.join(names)}={shards}: replicated")
            axes = None
        fitted.append(axes)
    return PartitionSpec(*fitted), "; ".join(notes)


def specs(state, rules: Rules, mesh: Mesh) -> dict[str, tuple[PartitionSpec, str]]:
    """(spec, note) of every leaf by path; scalars are replicated, all others must match a rule.

    state: a tree of arrays or shapes, its top level the train state's keys.
    rules: (regex on "params/...", spec); a spec names mesh axes from the last dimension backwards.

    Raises UserError naming the first leaf that no rule matches.
    """
    leaves = paths.flatten(state)
    found = {}
    for path, leaf in leaves.items():
        spec = paths.first_match(_rule_path(path, leaves), rules, "sharding") if leaf.shape else ()
        found[path] = _fit(spec, leaf.shape, mesh, path)
    return found


def shardings(state, rules: Rules, mesh: Mesh):
    """NamedShardings in the shape of `state` (see `specs`)."""
    found = specs(state, rules, mesh)
    return jax.tree_util.tree_map_with_path(
        lambda p, _: NamedSharding(mesh, found[paths.path_of(p)][0]), state
    )
