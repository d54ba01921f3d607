"""Sharding constraints on activations, by logical axis name. Without a mesh they do nothing."""

import jax
from jax.sharding import PartitionSpec

# Logical axis -> mesh axes. The mesh is (data, fsdp, tensor); the batch is split over the first two.
LOGICAL_AXES = {"batch": ("data", "fsdp"), "heads": "tensor", "hidden": "tensor", "vocab": "tensor"}


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Constrains each axis of `x` to the mesh axes of its logical name (None: replicated).

    Axes that the ambient mesh does not have are left alone, so the same model runs anywhere.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x

    def axes(name: str | None):
        if name is None:
            return None
        wanted = LOGICAL_AXES[name]
        wanted = (wanted,) if isinstance(wanted, str) else wanted
        return tuple(a for a in wanted if a in mesh.axis_names) or None

    return jax.lax.with_sharding_constraint(x, PartitionSpec(*(axes(n) for n in names)))
