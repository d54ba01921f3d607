"""A small random feature network, and sets of images that are arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.images.image_set import ImageSet, padded
from imgen.evaluation.networks.cifar import Classifier, save
from imgen.evaluation.networks.feature_network import FeatureNetwork


def toy_network(width=6, broken=False, name="toy", hash="00000000"):
    """Features of an image's mean colours in its quarters; broken: not finite where an image begins in 7."""
    rng = np.random.default_rng(1)
    params = {k: rng.standard_normal((12, w)) for k, w in (("pool3", width), ("logits", 5))}

    def apply(params, images):
        x = images.astype(jnp.float32) / 255.0
        if broken:
            x = jnp.where(images[:, :1, :1, :1] == 7, jnp.nan, x)
        b, h, w, c = x.shape
        means = x.reshape(b, 2, h // 2, 2, w // 2, c).mean((2, 4)).reshape(b, 12)
        features = {k: jnp.matmul(means, v, precision="highest") for k, v in params.items()}
        spatial = means[:, :4].reshape(b, 2, 2)
        return {**features, "spatial": spatial, "embedding": features["pool3"]}

    params = {k: v.astype(np.float32) for k, v in params.items()}
    widths = {"pool3": width, "logits": 5, "spatial": 4, "embedding": width}
    return FeatureNetwork(name, "none", "float32", params, apply, widths, hash)


def images_of(pixels, name="toys"):
    """A set of uint8 [N, H, W, 3] in memory, for one process."""

    def read(batch_size):
        for start in range(0, len(pixels), batch_size):
            yield padded(pixels[start : start + batch_size], batch_size)

    return ImageSet(name, len(pixels), pixels.shape[1:3], read)


def untrained_weights(path) -> str:
    """Writes weights of the network fd_cifar, random ones."""
    shapes = jax.eval_shape(Classifier(8).init, jax.random.key(0), np.zeros((1, 32, 32, 3)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape), shapes["params"])
    save(path, params, 8, {})
    return str(path)


def pictures(num=50, size=8, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 200, (num, 1, 1, 3))
    return (level + rng.integers(0, 56, (num, size, size, 3))).astype(np.uint8)
