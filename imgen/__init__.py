"""imgen trains, samples and evaluates autoregressive image generators in JAX/Flax."""

__version__ = "0.1.0"
