"""Eight CPU devices for every test, and quick compilation: to be said before jax is imported."""

import os

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
)


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """Compiled programs pile up to gigabytes over the whole suite."""
    yield
    import jax

    jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def checkpoints_are_written_whole():
    """On eight fake devices Orbax would cut every replicated array in eight, each cut compiled anew."""
    import jax
    from orbax.checkpoint import type_handlers

    whole = type_handlers.ArrayHandler(use_replica_parallel=False)
    type_handlers.register_type_handler(jax.Array, whole, override=True)
