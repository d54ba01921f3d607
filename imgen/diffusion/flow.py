"""Flow matching in one convention: x_t = (1 - t) x0 + t eps, with velocity v = dx/dt = eps - x0.

t = 1 is noise, t = 0 is data. A network is trained to give v at (x_t, t); sampling starts from noise and
follows v while t falls from 1 to 0. Models published in other conventions (sign of v, integer times)
convert at their own boundary. Everything here is a pure function in float32.

Sources: "Scaling Rectified Flow Transformers" (SD3) for the sampling of times and the shift of time;
apple/ml-flextok, flow_matching/; OliverRensu/xAR, models/sampler.py; "Eliminating Oversaturation and
Artifacts of High Guidance Scales" (APG) for the projected guidance.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError

TIMES = ("logit_normal", "uniform", "mode")
SOLVERS = ("euler", "heun", "euler_maruyama")

Velocity = Callable[[jax.Array, Any], jax.Array]
Both = Callable[[jax.Array, Any], tuple[jax.Array, jax.Array]]


def sample_times(
    rng: jax.Array,
    shape: tuple[int, ...],
    rule: str = "logit_normal",
    stratified: bool = False,
    mode_scale: float = 0.25,
) -> jax.Array:
    """Training times in [0, 1], float32 [*shape].

    rule: "uniform"; "logit_normal": sigmoid of a standard normal; "mode" (SD3, equation 20): u uniform,
        t = 1 - u - mode_scale * (cos^2(pi u / 2) - 1 + u), which favours the middle for positive scales.
    stratified: the first axis, the global batch, is dealt evenly over [0, 1): u_i = (i + U_i) / B.

    Raises UserError for an unknown rule.
    """
    if rule not in TIMES:
        raise UserError(f"time sampling {rule!r} is none of {', '.join(TIMES)}")
    u = jax.random.uniform(rng, shape)
    if stratified:
        strata = jnp.arange(shape[0], dtype=jnp.float32)
        u = (strata.reshape(-1, *(1,) * (len(shape) - 1)) + u) / shape[0]
    if rule == "logit_normal":
        return jax.nn.sigmoid(jax.scipy.special.ndtri(u))
    if rule == "mode":
        return 1 - u - mode_scale * (jnp.square(jnp.cos(jnp.pi / 2 * u)) - 1 + u)
    return u


def interpolate(x0: jax.Array, eps: jax.Array, t: jax.Array) -> jax.Array:
    """x_t = (1 - t) x0 + t eps; t has the leading axes of x0."""
    t = t.reshape(t.shape + (1,) * (x0.ndim - t.ndim))
    return (1 - t) * x0 + t * eps


def squared_error(velocity: jax.Array, x0: jax.Array, eps: jax.Array) -> jax.Array:
    """Mean of (velocity - (eps - x0))^2 over all axes but the first: float32 [B]."""
    error = velocity.astype(jnp.float32) - (eps - x0)
    return jnp.mean(jnp.square(error), axis=range(1, error.ndim))


def linear_times(steps: int) -> np.ndarray:
    """1, (steps - 1) / steps, ..., 0: float64 [steps + 1]. UserError for less than one step."""
    if steps < 1:
        raise UserError(f"steps={steps}: a flow needs at least 1 step from noise to data")
    return np.arange(steps, -1, -1) / steps


def sde_times(steps: int, last: float = 0.04) -> np.ndarray:
    """xAR's grid for Euler-Maruyama: evenly from 1 to `last`, then 0: float64 [steps + 1]. UserError for less
    than one step."""
    if steps < 1:
        raise UserError(f"steps={steps}: a flow needs at least 1 step from noise to data")
    return np.append(np.linspace(1.0, last, steps), 0.0)


def solver_times(solver: str, steps: int) -> np.ndarray:
    """The grid that goes with a solver, float64 [steps + 1]. UserError for an unknown one."""
    if solver not in SOLVERS:
        raise UserError(f"flow solver {solver!r} is none of {', '.join(SOLVERS)}")
    return sde_times(steps) if solver == "euler_maruyama" else linear_times(steps)


def evaluations(solver: str, steps: int) -> int:
    """Network calls of `solve` on `solver_times`."""
    return 2 * steps - 1 if solver == "heun" else steps


def shift_times(times: np.ndarray, factor: float) -> np.ndarray:
    """f t / (1 + (f - 1) t): a factor over 1 spends more steps near the noise (SD3, Ming-UniVision)."""
    return factor * times / (1 + (factor - 1) * times)


@dataclasses.dataclass(frozen=True)
class Solver:
    """How something is drawn from noise: one of SOLVERS (or "ancestral", of `gaussian`) in so many steps.

    shift: of the times, see `shift_times`.
    """

    name: str = "euler"
    steps: int = 16
    shift: float = 1.0

    @classmethod
    def flow(cls, name: str, steps: int, shift: float = 1.0) -> "Solver":
        """Returns one of a flow. Raises UserError for a name, steps or a shift that there can't be."""
        if shift <= 0:
            raise UserError(f"shift {shift} of a flow's times: it must be above 0")
        solver_times(name, steps)
        return cls(name, steps, shift)

    def times(self) -> np.ndarray:
        """Returns the times of a flow's steps, float64 [steps + 1]."""
        return shift_times(solver_times(self.name, self.steps), self.shift)

    @property
    def evaluations(self) -> int:
        """Network calls."""
        return evaluations(self.name, self.steps)


@dataclasses.dataclass(frozen=True)
class ProjectedGuidance:
    """v = v_c + (scale - 1) d with d = v_c - v_u: classifier-free guidance, and APG by its options.

    scale: 1 means none, and the unconditional network isn't run. A number, a traced scalar, or one
        for each step, [T].
    interval: (low, high): steps that start at a time outside are not guided.
    momentum: d is d + momentum * (the d of the evaluation before, as it was at this point).
    threshold: d is then scaled down to this Euclidean norm, taken over each sample; None for no limit.
    eta: share that is kept of d's component parallel to v_c; 1 keeps all.
    """

    scale: float | jax.Array = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    momentum: float = 0.0
    threshold: float | None = None
    eta: float = 1.0

    def steps(self, times: np.ndarray) -> np.ndarray:
        """Which of the steps between `times` run the unconditional network: bool [T]."""
        low, high = self.interval
        inside = (times[:-1] >= low) & (times[:-1] <= high)
        if not isinstance(self.scale, jax.Array):
            inside &= np.asarray(self.scale) != 1
        return inside


def apg(scale: float | jax.Array = 7.5) -> ProjectedGuidance:
    """Adaptive projected guidance as FlexTok decodes with it."""
    return ProjectedGuidance(scale, momentum=-0.5, threshold=2.5, eta=0.0)


def guide_velocity(
    conditional: jax.Array,
    unconditional: jax.Array,
    guidance: ProjectedGuidance,
    scale: jax.Array | float | None = None,
    running: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The guided velocity, and the running difference to hand to the next call.

    conditional, unconditional: [B, ...].   scale: in place of the guidance's own.
    running: what the last call returned; None at the first.
    With scale 1 the result is `conditional`, bit for bit.
    """
    axes = tuple(range(1, conditional.ndim))
    v, scale = conditional.astype(jnp.float32), guidance.scale if scale is None else scale

    def dot(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(a * b, axis=axes, keepdims=True)

    difference = v - unconditional.astype(jnp.float32)
    if running is not None:
        difference = difference + guidance.momentum * running
    running = difference
    tiny = jnp.finfo(jnp.float32).tiny
    if guidance.threshold is not None:
        norm = jnp.sqrt(dot(difference, difference))
        difference = difference * jnp.minimum(1, guidance.threshold / jnp.maximum(norm, tiny))
    if guidance.eta != 1:
        parallel = dot(difference, v) / jnp.maximum(dot(v, v), tiny) * v
        difference = difference - (1 - guidance.eta) * parallel
    return v + (scale - 1) * difference, running


def solve(
    velocity: Velocity,
    x: jax.Array,
    times: np.ndarray,
    solver: Literal["euler", "heun", "euler_maruyama"] = "euler",
    *,
    inputs: Any = None,
    guidance: ProjectedGuidance | None = None,
    both: Both | None = None,
    noise: jax.Array | Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """x [B, ...] at times[0] -> float32 x at times[-1], in one `lax.scan` over the T steps of `times`.

    velocity: (x, at) -> v, where `at` is the time, or the row of `inputs` for it.
    times: T + 1 falling times, known on the host.
    solver: "euler"; "heun": a second evaluation corrects each step but one that ends at 0, where
        networks are seldom trained; "euler_maruyama": the stochastic sampler whose diffusion is
        sqrt(2 t), x += dt ((2 - t) v + x) + sqrt(2 t |dt|) xi, without noise in the last step.
    inputs: arrays [T + 1, ...], one row a time: integer times, condition vectors made beforehand, ...
    guidance, both: on the steps that are guided, both(x, at) -> (conditional, unconditional) takes
        the place of `velocity`. The scan is cut where guidance begins and ends.
    noise: xi of Euler-Maruyama: [T - 1, B, ...], or a function of the step's number (traced), from 0.

    Raises UserError for an unknown solver, and for Euler-Maruyama without noise.
    """
    if solver not in SOLVERS:
        raise UserError(f"flow solver {solver!r} is none of {', '.join(SOLVERS)}")
    if solver == "euler_maruyama" and noise is None:
        raise UserError("euler_maruyama draws noise at every step: give `noise`")
    times = np.asarray(times, np.float64)
    guided = np.zeros(len(times) - 1, bool) if guidance is None else guidance.steps(times)
    rows = _rows(x, times, inputs, guidance, noise)
    remembers = bool(guided.any()) and guidance.momentum != 0

    def step(with_guidance: bool, corrects: bool, carry: tuple, row: dict) -> tuple[tuple, None]:
        x, running = carry

        def field(x: jax.Array, at: Any) -> jax.Array:
            nonlocal running
            if not with_guidance:
                return velocity(x, at).astype(jnp.float32)
            v, last = guide_velocity(*both(x, at), guidance, row["scale"], running)
            running = last if remembers else None
            return v

        v = field(x, row["at"])
        if corrects:
            v = (v + field(x + row["dt"] * v, row["next"])) / 2
        if solver == "euler_maruyama":
            xi = noise(row["number"]) if callable(noise) else row["xi"]
            x = x + row["dt"] * ((2 - row["t"]) * v + x) + row["spread"] * xi
        else:
            x = x + row["dt"] * v
        return (x, running), None

    x = x.astype(jnp.float32)
    corrects = (times[1:] != 0) & (solver == "heun")
    carry = (x, jnp.zeros_like(x) if remembers else None)
    return _scan(step, carry, rows, zip(guided.tolist(), corrects.tolist(), strict=True))[0]


def _rows(
    x: jax.Array,
    times: np.ndarray,
    inputs: Any,
    guidance: ProjectedGuidance | None,
    noise: jax.Array | Callable[[jax.Array], jax.Array] | None,
) -> dict[str, Any]:
    """Returns what each step of `solve` reads, arrays [T, ...]: its number, time and change of time, how far
    noise spreads, the networks' inputs at both ends, and guidance's scale and the noise where given."""
    count, deltas = len(times) - 1, np.diff(times)
    inputs = (
        jnp.asarray(times, jnp.float32) if inputs is None else jax.tree.map(jnp.asarray, inputs)
    )
    spread = np.sqrt(-2 * times[:-1] * deltas)
    spread[-1] = 0.0
    host = {"t": times[:-1], "dt": deltas, "spread": spread}
    rows = {name: jnp.asarray(table, jnp.float32) for name, table in host.items()}
    rows["number"] = jnp.arange(count)
    rows["at"] = jax.tree.map(lambda a: a[:-1], inputs)
    rows["next"] = jax.tree.map(lambda a: a[1:], inputs)
    if guidance is not None:
        rows["scale"] = jnp.broadcast_to(jnp.asarray(guidance.scale, jnp.float32), count)
    if noise is not None and not callable(noise):
        rows["xi"] = jnp.concatenate([noise, jnp.zeros_like(x)[None]]).astype(jnp.float32)
    return rows


def _scan(
    step: Callable[..., tuple[Any, None]], carry: Any, rows: dict, kinds: Iterable[tuple]
) -> Any:
    """Returns the carry after all rows, in a `lax.scan` over each stretch of steps that are of one kind.

    step: (*kind, carry, row) -> (carry, None).   kinds: one a row, known on the host.
    """
    start = 0
    for kind, group in itertools.groupby(kinds):
        stop = start + len(list(group))
        part = jax.tree.map(lambda a, s=slice(start, stop): a[s], rows)
        carry, _ = jax.lax.scan(lambda c, r, k=kind: step(*k, c, r), carry, part)
        start = stop
    return carry
