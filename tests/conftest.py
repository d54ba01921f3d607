"""Eight CPU devices for every test, and quick compilation: to be said before jax is imported.

Which tests are quick: all but those in `SLOW`.
"""

import logging
import os
from importlib.metadata import version
from pathlib import Path

import pytest

HERE = Path(__file__).parent

FLAGS = ["--xla_force_host_platform_device_count=8", "--xla_backend_optimization_level=0"]
# The older emitters compile a training step in a third of the time. An XLA that does not know a flag kills
# the process, so only the version gets it that was tried.
if version("jaxlib").startswith("0.10."):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
# What one test, worker or command has compiled the next one loads, and so does the next run of the tests
# (`pytest --cache-clear` empties the folder).
CACHE = HERE.parent / ".pytest_cache" / "d" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

# Folders and files that `pytest -m quick` leaves out: they train, compile much or start processes.
SLOW = [
    "benchmarks", "commands", "extending", "parity", "systems",
    "conditioning/text/test_encoders.py",
    "decoding/test_continuous_heads.py", "decoding/test_entity_flow.py", "decoding/test_generate.py",
    "decoding/test_masked.py", "decoding/test_models.py",
    "evaluation/networks", "evaluation/detectors",
    "generators/test_backbones.py", "generators/test_bit_diffusion.py",
    "tokenizers/losses/test_adversary.py",
    "tokenizers/test_binary_1d.py", "tokenizers/test_conv_tokenizers.py", "tokenizers/test_dynamic.py",
    "tokenizers/test_flextok.py", "tokenizers/test_mingtok.py", "tokenizers/test_titok.py",
    "tokenizers/test_tokenizer_task.py",
    "training/test_best.py", "training/test_feature_metrics.py", "training/test_generator_task.py",
    "training/test_loop.py", "training/test_reconstructions.py", "training/test_resume.py",
    "training/test_sampling.py", "training/test_tasks_sharded.py", "training/test_warm_start.py",
    "test_configs.py",
]  # fmt: skip


def pytest_collection_modifyitems(items):
    slow = [HERE / name for name in SLOW]
    for item in items:
        if not any(item.path.is_relative_to(path) for path in slow):
            item.add_marker("quick")


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
