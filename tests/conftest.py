"""Eight CPU devices for every test, and quick compilation: to be said before jax is imported."""

import logging
import os
from importlib.metadata import version

import pytest

FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
# The older emitters compile a training step in a third of the time. An XLA that does not know a flag kills
# the process, so only the version gets it that was tried.
if version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])


@pytest.fixture(autouse=True)
def warnings_reach_caplog():
    """A command that an earlier test ran in this process has turned them to the terminal alone."""
    logger = logging.getLogger("imgen")
    logger.handlers, logger.propagate = [], True


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
