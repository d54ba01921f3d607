import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.diffusion import flow
from imgen.errors import UserError

MEAN = np.array([0.7, -0.3], np.float32)
COVARIANCE = np.array([[0.5, 0.3], [0.3, 0.4]], np.float32)


def gaussian_velocity(x, t, mean=MEAN, covariance=COVARIANCE):
    """E[eps - x0 | x_t = x] for x0 ~ N(mean, covariance)."""
    total = (1 - t) ** 2 * covariance + t**2 * jnp.eye(len(mean))
    centred = (x - (1 - t) * mean) @ jnp.linalg.inv(total)
    return t * centred - (mean + (1 - t) * centred @ covariance)


def test_a_constant_velocity_is_solved_exactly():
    x, v = jnp.array([[1.0, -2.0]]), jnp.array([[0.25, 3.0]])
    for solver in ("euler", "heun"):
        out = flow.solve(lambda x, t: v, x, flow.linear_times(8), solver)
        np.testing.assert_array_equal(out, x - v)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2)])
def test_halving_the_step_divides_the_error_as_the_order_says(solver, order):
    deviation = 0.5
    x = jnp.array([[1.3]])
    exact = 0.7 + deviation * x  # a Gaussian's flow moves each quantile to the same quantile

    def error(steps):
        out = flow.solve(
            lambda x, t: gaussian_velocity(x, t, MEAN[:1], jnp.full((1, 1), deviation**2)),
            x,
            flow.linear_times(steps),
            solver,
        )
        return float(jnp.abs(out - exact)[0, 0])

    ratio = error(16) / error(32)
    assert 0.75 * 2**order < ratio < 1.35 * 2**order


def test_euler_maruyama_reaches_the_mean_and_covariance_of_the_data():
    noise_key, step_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(noise_key, (10_000, 2))

    @jax.jit
    def draw(x, key):
        def noise(step):
            return jax.random.normal(jax.random.fold_in(key, step), x.shape)

        times = flow.sde_times(100)
        return flow.solve(gaussian_velocity, x, times, "euler_maruyama", noise=noise)

    out = draw(x, step_key)
    np.testing.assert_allclose(out.mean(0), MEAN, atol=0.02)
    np.testing.assert_allclose(np.cov(out.T), COVARIANCE, atol=0.03)
    # Noise was added: the result is no function of the start alone.
    assert np.abs(out - draw(x, jax.random.key(5))).mean() > 0.1


def test_given_noise_is_that_of_the_steps_but_the_last():
    x, times = jnp.zeros((1, 1)), np.array([1.0, 0.5, 0.25, 0.0])
    xi = jnp.array([1.0, 10.0]).reshape(2, 1, 1)
    out = flow.solve(
        lambda x, t: -x / (2 - t), x, times, "euler_maruyama", noise=xi
    )  # no drift: dt ((2 - t) v + x) = 0
    np.testing.assert_allclose(out, np.sqrt(2 * 1 * 0.5) + 10 * np.sqrt(2 * 0.5 * 0.25), rtol=1e-6)


def test_the_grids():
    times = flow.linear_times(4)
    np.testing.assert_array_equal(times, [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_array_equal(flow.shift_times(times, 1.0), times)
    shifted = flow.shift_times(times, 3.0)
    assert shifted[0] == 1 and shifted[-1] == 0 and (shifted[1:-1] > times[1:-1]).all()
    np.testing.assert_allclose(flow.sde_times(5), [1, 0.76, 0.52, 0.28, 0.04, 0])


@pytest.mark.parametrize("guidance", [flow.ProjectedGuidance(1.0), flow.apg(1.0)])
def test_guidance_1_is_the_conditional_branch_bit_for_bit(guidance):
    conditional, unconditional = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    guided, _ = flow.guide_velocity(conditional, unconditional, guidance)
    np.testing.assert_array_equal(guided, conditional)

    def never(x, t):
        raise AssertionError("the unconditional network ran")

    solved = flow.solve(
        lambda x, t: x, conditional, flow.linear_times(3), guidance=guidance, both=never
    )
    np.testing.assert_array_equal(
        solved, flow.solve(lambda x, t: x, conditional, flow.linear_times(3))
    )


def test_guidance_extrapolates_and_projected_guidance_keeps_what_is_orthogonal():
    conditional, unconditional = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    guided, _ = flow.guide_velocity(conditional, unconditional, flow.ProjectedGuidance(3.0))
    np.testing.assert_allclose(guided, unconditional + 3 * (conditional - unconditional), atol=1e-5)
    guided, _ = flow.guide_velocity(
        conditional, unconditional, flow.ProjectedGuidance(3.0, threshold=0.5, eta=0.0)
    )
    added = np.asarray(guided - conditional)
    np.testing.assert_allclose((added * conditional).sum((1, 2)), 0, atol=1e-5)
    assert (np.sqrt((added**2).sum((1, 2))) <= 2 * 0.5 + 1e-5).all()
    zero, _ = flow.guide_velocity(jnp.zeros((1, 4)), jnp.zeros((1, 4)), flow.apg())
    np.testing.assert_array_equal(zero, 0)


def test_momentum_runs_through_the_steps():
    """By hand: with v_c = 1 and v_u = 0 the difference is 1, then 1 - 0.5, then 1 - 0.25."""
    guidance = flow.ProjectedGuidance(2.0, momentum=-0.5)
    ones = jnp.ones((1, 1))
    out = flow.solve(
        lambda x, t: ones,
        jnp.zeros((1, 1)),
        flow.linear_times(3),
        guidance=guidance,
        both=lambda x, t: (ones, jnp.zeros((1, 1))),
    )
    np.testing.assert_allclose(out, -(3 + 1 + 0.5 + 0.75) / 3, rtol=1e-6)


def test_only_the_interval_is_guided_and_scales_may_differ_by_step():
    ones = jnp.ones((1, 1))

    def run(**arguments):
        return float(
            flow.solve(
                lambda x, t: ones,
                jnp.zeros((1, 1)),
                flow.linear_times(4),
                guidance=flow.ProjectedGuidance(**arguments),
                both=lambda x, t: (ones, jnp.zeros((1, 1))),
            )[0, 0]
        )

    # Steps start at 1, 0.75, 0.5, 0.25; the velocity is the scale where guided, 1 elsewhere.
    assert run(scale=5.0) == -5.0
    assert run(scale=5.0, interval=(0.3, 0.8)) == -(1 + 5 + 5 + 1) / 4
    assert run(scale=np.array([1.0, 2.0, 3.0, 4.0])) == -(1 + 2 + 3 + 4) / 4


def test_inputs_take_the_place_of_the_times():
    seen = np.array([1000, 750, 500, 250, 0])
    out = flow.solve(
        lambda x, at: at["index"].astype(jnp.float32) * jnp.ones_like(x),
        jnp.zeros((1, 1)),
        flow.linear_times(4),
        inputs={"index": seen},
    )
    np.testing.assert_allclose(out, -seen[:4].sum() / 4)


@pytest.mark.parametrize("rule", flow.TIMES)
def test_training_times_have_the_density_that_their_rule_says(rule):
    t = np.asarray(flow.sample_times(jax.random.key(0), (4000, 2), rule))
    assert t.min() >= 0 and t.max() <= 1
    below = {"uniform": 0.25, "logit_normal": 0.136, "mode": 0.2198}[rule]  # P(t < 1/4)
    for share in ((t < 0.25).mean(0), (t > 0.75).mean(0)):
        np.testing.assert_allclose(share, below, atol=0.02)


def test_stratified_times_fill_every_stratum_once():
    t = flow.sample_times(jax.random.key(0), (64, 3), "uniform", stratified=True)
    for column in np.asarray(t).T:
        np.testing.assert_array_equal(np.floor(column * 64), np.arange(64))


def test_what_cannot_be_is_told():
    for rule in (flow.linear_times, flow.sde_times):
        with pytest.raises(UserError, match="at least 1"):
            rule(0)
    with pytest.raises(UserError, match="draws noise"):
        flow.solve(lambda x, t: x, jnp.zeros((1, 1)), flow.sde_times(2), "euler_maruyama")
    with pytest.raises(UserError, match="none of logit_normal"):
        flow.sample_times(jax.random.key(0), (2,), "cosine")
    with pytest.raises(UserError, match="none of euler"):
        flow.solve(lambda x, t: x, jnp.zeros((1, 1)), flow.linear_times(2), "rk4")
