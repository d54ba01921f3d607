"""Optimisers, learning-rate schedules, weight decay and freezing by parameter path."""

import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

from imgen.config.construct import construct
from imgen.config.types import check_range
from imgen.errors import UserError
from imgen.params import paths

SCALINGS: dict[str, Callable] = {
    "adamw": lambda b1, b2, eps: optax.scale_by_adam(b1, b2, eps),
    "adam": lambda b1, b2, eps: optax.scale_by_adam(b1, b2, eps),
    "lion": lambda b1, b2, eps: optax.scale_by_lion(b1, b2),
}


def _constant(peak, steps):
    return optax.constant_schedule(peak)


def _cosine(peak, steps, final=0.0):
    return optax.cosine_decay_schedule(peak, max(steps, 1), alpha=final)


def _linear(peak, steps, final=0.0):
    return optax.linear_schedule(peak, peak * final, max(steps, 1))


def _step(peak, steps, factor=0.1, at=()):
    """Multiplies the rate by `factor` at each share of the run in `at`, e.g. (0.5, 0.75)."""
    return optax.piecewise_constant_schedule(peak, {int(share * steps): factor for share in at})


def _wsd(peak, steps, decay_share=0.2, final=0.0, shape="linear"):
    """Warm-up, stable, decay: constant, then `shape` ("linear", "cosine") to `final` over the last
    `decay_share` of the steps after the warm-up."""
    if shape not in ("linear", "cosine"):
        raise UserError(f"schedule 'wsd' ends linear or cosine, not {shape!r}")
    decay = max(int(decay_share * steps), 1)
    return optax.join_schedules(
        [optax.constant_schedule(peak), SCHEDULES[shape](peak, decay, final)], [steps - decay]
    )


SCHEDULES = {
    "constant": _constant,
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "wsd": _wsd,
}


def make_schedule(
    learning_rate: float,
    total_steps: int,
    name: str = "constant",
    warmup_steps: int = 0,
    warmup_share: float | None = None,
    **shape,
) -> optax.Schedule:
    """Learning rate as a function of the updates done before (0 at the first).

    Warm-up is linear and already non-zero at the first step: `learning_rate / warmup_steps`. The
    rest of the run follows the named shape; `final` and `factor` are shares of the peak rate. warmup_share:
    the warm-up as a share of the run, in place of its steps.
    """
    check_range("schedule.warmup_steps", warmup_steps, 0)
    if warmup_share is not None:
        if warmup_steps or not 0 <= warmup_share < 1:
            raise UserError(
                f"schedule: warmup_share {warmup_share} must be in [0, 1), and warmup_steps 0 beside it"
            )
        warmup_steps = round(warmup_share * total_steps)
    if name not in SCHEDULES:
        raise UserError(f"schedule {name!r} is none of {', '.join(SCHEDULES)}")
    after = construct(
        SCHEDULES[name],
        shape,
        f"schedule {name!r}",
        peak=learning_rate,
        steps=total_steps - warmup_steps,
    )
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, after], [warmup_steps])


def _decay_weights(weight_decay: float, decay: Sequence[tuple[str, float]]):
    """Decoupled decay: adds weight_decay * factor * parameter to the update."""

    def update(updates, state, params):
        def leaf(path, u, p):
            factor = paths.first_match(paths.path_of(path), decay, "weight-decay")
            return u + weight_decay * factor * p if factor else u

        return jax.tree_util.tree_map_with_path(leaf, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_frozen(path: str, frozen: Sequence[str]) -> bool:
    return any(re.search(pattern, path) for pattern in frozen)


def _skip_large(inner: optax.GradientTransformation, norm: float, after: int = 100):
    """`inner`, not called where the gradient's norm is above `norm`, from the update number `after` on."""
    guarded = optax.conditionally_mask(
        inner, lambda step, size: (step < after) | (size <= norm), forward_extra_args=True
    )

    def update(updates, state, params=None):
        return guarded.update(updates, state, params, size=optax.tree.norm(updates))

    return optax.GradientTransformation(guarded.init, update)


def make_optimizer(
    *,
    learning_rate: float,
    total_steps: int,
    name: str = "adamw",
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay: Sequence[tuple[str, float]] = ((".*", 1.0),),
    frozen: Sequence[str] = (),
    clip_norm: float | None = 1.0,
    skip_norm: float | None = None,
    schedule: Mapping = {"name": "constant"},  # noqa: B006 (never written to)
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser and its learning rate as a function of the step, for the log.

    decay: ordered (regex on the parameter's path, factor on `weight_decay`); every parameter must
      match one. Not by number of axes: stacked layers (`nn.scan`) give biases two of them.
    frozen: regexes; a parameter that matches any is never changed (by no decay either) and has no
      moments. Its gradient does not count in the norm that is clipped.
    clip_norm: largest global norm of the trained parameters' gradient, None or 0 for no clipping.
    skip_norm: after the first 100 steps, an update whose gradient has a larger norm is left out, moments
      and schedule included (RandAR); None or 0 for all updates.
    schedule: `name` and the arguments of that schedule (see `make_schedule`).
    """
    if name not in SCALINGS:
        raise UserError(f"optimizer {name!r} is none of {', '.join(SCALINGS)}")
    if name == "adam" and weight_decay:
        raise UserError("optimizer 'adam' has no weight decay; use 'adamw' or weight_decay=0")
    if len(betas) != 2:
        raise UserError(f"optimizer.betas {tuple(betas)}: two numbers are needed")
    for beta in betas:
        check_range("betas", beta, 0.0, below=1.0)
    sizes = dict(learning_rate=learning_rate, eps=eps, weight_decay=weight_decay)
    sizes |= dict(clip_norm=clip_norm or 0.0, skip_norm=skip_norm or 0.0)
    for field, size in sizes.items():
        check_range(field, size, 0.0)
    lr = make_schedule(learning_rate, total_steps, **schedule)
    # The same state with and without clipping: a run may go on with another clip_norm.
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    steps = [clip, SCALINGS[name](*betas, eps)]
    if weight_decay:
        steps.append(_decay_weights(weight_decay, decay))
    optimizer = optax.chain(*steps, optax.scale_by_learning_rate(lr))
    if skip_norm:
        optimizer = _skip_large(optimizer, skip_norm)
    if not frozen:
        return optimizer, lr

    def labels(params):
        return jax.tree_util.tree_map_with_path(
            lambda p, _: "frozen" if _is_frozen(paths.path_of(p), frozen) else "trained", params
        )

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels), lr


def describe(
    params,
    *,
    weight_decay: float = 0.0,
    decay: Sequence[tuple[str, float]] = ((".*", 1.0),),
    frozen: Sequence[str] = (),
    **_,
) -> dict[str, str]:
    """What `make_optimizer`, given the same arguments, does to each parameter, by path."""

    def note(path):
        if _is_frozen(path, frozen):
            return "frozen"
        factor = paths.first_match(path, decay, "weight-decay") if weight_decay else 0.0
        return f"decay {weight_decay * factor:g}" if factor else "no decay"

    return {path: note(path) for path in paths.flatten(params)}


def doubts(
    learning_rate: float, total_steps: int, schedule: Mapping | None = None, **_
) -> list[str]:
    """Lists, in lines, what of an optimiser's arguments will not do what it looks like in a run."""
    warmup_steps = (schedule or {}).get("warmup_steps", 0)
    if warmup_steps < total_steps:
        return []
    return [
        f"the warm-up of {warmup_steps} steps is no shorter than the run of {total_steps}: its learning rate "
        f"never gets to {learning_rate:g}"
    ]


def schedule_position(opt_state: optax.OptState) -> jax.Array:
    """Returns how many updates the schedule has counted, without those that `skip_norm` left out."""
    states = jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState)
    )
    return next(s.count for s in states if isinstance(s, optax.ScaleByScheduleState))


def ema_decay_at(decay: float, step: jax.Array, warmup: bool = True) -> float | jax.Array:
    """Returns the decay of the average after update number `step`, from 1 on: at most
    (1 + step) / (10 + step), so that a short run's average forgets the initial weights. Without warm-up it is
    `decay` from the start."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if warmup else decay


def ema_update(ema, params, decay: float | jax.Array, frozen: Sequence[str] = ()):
    """decay * ema + (1 - decay) * params, in float32; what is frozen (regexes) stays as it is to the bit."""

    def leaf(path, e, p):
        if _is_frozen(paths.path_of(path), frozen):
            return e
        return decay * e + (1.0 - decay) * p.astype(jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, ema, params)
