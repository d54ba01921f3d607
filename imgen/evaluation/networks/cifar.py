"""`fd_cifar`: features of a small classifier of CIFAR-10, trained with this project.

For pictures of CIFAR's kind where Inception's weights are not at hand. A Frechet distance of these features
is no FID and compares with none; it orders models of the same data by the same weights.

Source: He et al. 2016, "Identity Mappings in Deep Residual Networks"; group norms in place of batch norms, so
that an image's features do not depend on its batch.
"""

import functools
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from imgen.errors import UserError
from imgen.evaluation.networks.feature_network import FeatureNetwork
from imgen.params import files as weights
from imgen.params import paths

SIZE, CLASSES = 32, 10
NAME = "fd_cifar"


class Classifier(nn.Module):
    """Residual blocks at 16x16, 8x8 and 4x4, of `width` channels, twice and four times as many.

    precision: of convolutions; None lets the device choose (training).
    """

    width: int = 32
    precision: Any = None

    @nn.compact
    def __call__(self, images: jax.Array) -> dict[str, jax.Array]:
        """uint8 or float [B, 32, 32, 3], 0..255 -> {"pool3": [B, 4 width], "logits": [B, 10]}, float32."""
        conv = functools.partial(nn.Conv, use_bias=False, precision=self.precision)
        norm = functools.partial(nn.GroupNorm, num_groups=8)
        x = conv(self.width, (4, 4), strides=2, name="stem")(
            images.astype(jnp.float32) / 64.0 - 2.0
        )
        for level, channels in enumerate((self.width, 2 * self.width, 4 * self.width)):
            stride = 1 if level == 0 else 2
            h = nn.relu(norm(name=f"norm_{level}_0")(x))
            if stride > 1:
                x = conv(channels, (1, 1), strides=stride, name=f"skip_{level}")(h)
            h = conv(channels, (3, 3), strides=stride, name=f"conv_{level}_0")(h)
            h = nn.relu(norm(name=f"norm_{level}_1")(h))
            x = x + conv(channels, (3, 3), name=f"conv_{level}_1")(h)
        features = nn.relu(norm(name="norm")(x)).mean(axis=(1, 2))
        logits = nn.Dense(CLASSES, precision=self.precision, name="head")(features)
        return {"pool3": features, "logits": logits}


def to_size(images: jax.Array) -> jax.Array:
    """[B, H, W, 3] -> float32 [B, 32, 32, 3], bilinear with antialiasing; of 32x32 unchanged."""
    images = jnp.asarray(images, jnp.float32)
    if images.shape[1:3] == (SIZE, SIZE):
        return images
    shape = (len(images), SIZE, SIZE, images.shape[3])
    return jax.image.resize(images, shape, "linear", precision=jax.lax.Precision.HIGHEST)


def save(path: str | Path, params: Any, width: int, about: dict[str, Any]) -> None:
    """Weights as safetensors; about: what is known of their training, JSON in the file's metadata."""
    arrays = {k: np.asarray(v, np.float32) for k, v in paths.flatten(params).items()}
    metadata = {"network": NAME, "about": json.dumps(about | {"width": width})}
    weights.write(path, arrays, metadata)


def about(path: str | Path) -> dict[str, Any]:
    """What a file of weights says of its training. Raises UserError for another file."""
    if not Path(path).is_file():
        raise UserError(
            f"{path}: no such weights; train them by python -m benchmarks.train_cifar_features"
        )
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except Exception as e:  # safetensors has errors of its own
        raise UserError(f"{path}: not a readable .safetensors file ({e})") from e
    if metadata.get("network") != NAME:
        raise UserError(
            f"{path} holds no {NAME} weights; train them by python -m benchmarks.train_cifar_features"
        )
    return json.loads(metadata["about"])


def load(path: str | Path) -> FeatureNetwork:
    """The network of a file that `save` wrote. Raises UserError for another file."""
    path = Path(path).expanduser()
    model = Classifier(about(path)["width"], precision=jax.lax.Precision.HIGHEST)
    with safe_open(path, "np") as file:
        arrays = {key: file.get_tensor(key) for key in file.keys()}
    params = paths.unflatten(arrays)

    def apply(params: Any, images: jax.Array) -> dict[str, jax.Array]:
        return model.apply({"params": params}, to_size(images))

    return FeatureNetwork(
        name=NAME,
        resize="antialiased_bilinear_32",
        dtype="float32",
        params=params,
        apply=apply,
        widths={"pool3": 4 * model.width, "logits": CLASSES},
        hash=weights.fingerprint(params),
    )
