"""Training of the classifier of CIFAR-10 whose features are `fd_cifar`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from imgen.evaluation.networks.cifar import CLASSES, SIZE, Classifier
from imgen.report.progress import Progress

SHIFT = 4  # pixels that a training image is moved by at most


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
