"""Trains the network of `--features fd_cifar`.

    python -m imgen.evaluation.train_cifar_features --data_dir TFDS_DIR --out fd_cifar.safetensors

The file names its test accuracy in its metadata, and results that use it carry its hash.
"""

import functools
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgen import cli
from imgen.data import make_source
from imgen.data.loader import eval_batches
from imgen.data.preprocess import EvalImages
from imgen.evaluation.cifar_features import CLASSES, SIZE, Classifier, save
from imgen.training.progress import Progress

log = logging.getLogger("imgen.evaluate")
SHIFT = 4  # pixels that a training image is moved by at most


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(
        prog="imgen.evaluation.train_cifar_features", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS folder (default: TFDS_DATA_DIR)")
    parser.add_argument("--dataset", default="cifar10", help="its name there")
    parser.add_argument("--out", required=True, metavar="FILE", help=".safetensors to write")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--width", type=int, default=32, help="channels at 16x16")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.steps, args.batch_size) < 1 or args.width < 8 or args.width % 8:
        parser.error("--steps and --batch_size must be at least 1, --width a multiple of 8")
    cli.use_compilation_cache()
    out = Path(args.out)
    cli.make_workdir(out.parent, "--out")
    train, test = (_read(split, args) for split in ("train", "test"))
    began = time.monotonic()
    model, params = fit(*train, steps=args.steps, batch_size=args.batch_size, width=args.width,
                        learning_rate=args.learning_rate, seed=args.seed)  # fmt: skip
    accuracy = accuracy_on(model, params, *test)
    settings = {
        k: getattr(args, k) for k in ("dataset", "steps", "batch_size", "learning_rate", "seed")
    }
    save(out, params, args.width, settings | {"test_accuracy": round(accuracy, 4)})
    log.info("test accuracy %.4f after %.0f s: %s", accuracy, time.monotonic() - began, out)


def _read(split: str, args) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels int32 [N] of a split."""
    source = make_source("tfds", split, dataset=args.dataset, data_dir=args.data_dir)
    images, labels = [], []
    for batch in eval_batches(source, EvalImages(SIZE), batch_size=500):
        read = batch["mask"] > 0
        images.append(batch["image"][read])
        labels.append(batch["label"][read])
    return np.concatenate(images), np.concatenate(labels)


def fit(
    images, labels, *, steps, batch_size, width, learning_rate, seed
) -> tuple[Classifier, dict]:
    """The classifier and its parameters, the average of the last steps (decay 0.995)."""
    model = Classifier(width)
    key = jax.random.key(seed)
    params = jax.jit(model.init)(key, jnp.zeros((1, SIZE, SIZE, 3)))["params"]
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(100, steps // 4), steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.05)
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, images, labels, key):
        params, opt, average = state

        def loss_fn(params):
            logits = model.apply({"params": params}, augment(images, key))["logits"]
            targets = optax.smooth_labels(jax.nn.one_hot(labels, CLASSES), 0.1)
            return optax.softmax_cross_entropy(logits, targets).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        updates, opt = optimizer.update(gradient, opt, params)
        params = optax.apply_updates(params, updates)
        return (params, opt, optax.incremental_update(params, average, 0.005)), loss

    state = (params, optimizer.init(params), jax.tree.map(jnp.copy, params))
    rng, progress = np.random.default_rng(seed), Progress("fd_cifar", steps)
    order = np.empty(0, np.int64)
    for number in range(steps):
        while len(order) < batch_size:
            order = np.concatenate([order, rng.permutation(len(images))])
        rows, order = order[:batch_size], order[batch_size:]
        state, loss = step(state, images[rows], labels[rows], jax.random.fold_in(key, number))
        progress.update(number + 1, f"loss {float(loss):.3f}" if number % 50 == 0 else "")
    progress.close()
    averaged = state[2] if steps >= 1000 else state[0]
    return model, jax.device_get(averaged)


def augment(images: jax.Array, key: jax.Array) -> jax.Array:
    """uint8 [B, 32, 32, 3] mirrored half of the time and moved by up to SHIFT pixels."""
    flip_key, shift_key = jax.random.split(key)
    flip = jax.random.bernoulli(flip_key, 0.5, (len(images), 1, 1, 1))
    images = jnp.where(flip, images[:, :, ::-1], images)
    padded = jnp.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="reflect")
    at = jax.random.randint(shift_key, (len(images), 2), 0, 2 * SHIFT + 1)

    def crop(image, at):
        return jax.lax.dynamic_slice(image, (at[0], at[1], 0), (SIZE, SIZE, 3))

    return jax.vmap(crop)(padded, at)


def accuracy_on(model: Classifier, params, images, labels, batch_size: int = 500) -> float:
    """Share of images whose largest logit is their label's."""
    predict = jax.jit(lambda p, x: model.apply({"params": p}, x)["logits"].argmax(-1))
    right = 0
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        right += int(np.sum(np.asarray(predict(params, images[rows])) == labels[rows]))
    return right / len(images)


if __name__ == "__main__":
    sys.exit(cli.run(main))
