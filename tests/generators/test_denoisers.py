"""The MLPs that denoise one token, and the diffusion and the flow around them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen.diffusion import gaussian as diffusion
from imgen.diffusion.flow import Solver
from imgen.errors import UserError
from imgen.generators.denoisers import MAR
from imgen.generators.denoising_heads import DiffusionHead, FlowHead

MANY = 20_000


def small(kind, **options):
    return kind(channels=3, hidden=8, **{"width": 16, "depth": 2, **options})


def noise(step):
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), step + 1), (MANY, 1, 1))


@pytest.mark.parametrize(
    "size, hidden, millions", [("B", 768, 35.8), ("L", 1024, 72.2), ("H", 1280, 151.2)]
)
def test_published_sizes_have_the_published_numbers_of_parameters(size, hidden, millions):
    head = DiffusionHead(channels=16, hidden=hidden, **MAR[size])
    mlp, tokens = head.network(), jnp.zeros((1, 16))
    z = jnp.zeros((1, *head.out_shape))
    shapes = jax.eval_shape(mlp.init, jax.random.key(0), tokens, jnp.zeros(1), z)
    assert sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, abs=0.051)


@pytest.mark.parametrize("head", [small(DiffusionHead), small(FlowHead, ffn="swiglu")])
def test_the_mlp_starts_at_zero_whatever_it_is_told(head):
    mlp, x, z = head.network(), jnp.ones((5, 3)), jnp.ones((5, 8))
    start = jax.jit(mlp.init_with_output)
    output, variables = start(jax.random.key(0), x, 7 * jnp.ones(5), z)
    params = variables["params"]
    assert output.shape == (5, 3 * head.outputs_per_channel) and not output.any()
    width = params["block_0"]["norm"]["scale"].shape[0]
    assert np.std(params["time"]["in"]["kernel"]) == pytest.approx(0.02, rel=0.1)
    # Xavier: uniform up to sqrt(6 / (in + out)).
    assert np.abs(params["condition"]["kernel"]).max() == pytest.approx(
        np.sqrt(6 / (8 + width)), rel=0.05
    )


def test_the_bound_is_zero_for_the_posterior_itself_and_teaches_the_variance_only():
    tables = diffusion.cosine_process().tables()
    t = jnp.array([1, 2, 10, 500, 998])
    x0, eps = jax.random.normal(jax.random.key(0), (2, 5, 4))
    right = np.concatenate([eps, -np.ones((5, 4), np.float32)], axis=-1)
    wrong = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)

    def bound(output):
        terms = diffusion.loss_terms(tables, output, x0, eps, t)
        return terms[1].sum(), terms

    look = jax.jit(jax.grad(bound, has_aux=True))
    np.testing.assert_allclose(look(right)[1], 0, atol=1e-5)
    of_noise, of_variance = np.split(np.asarray(look(wrong)[0]), 2, axis=-1)
    assert not of_noise.any() and (of_variance != 0).all()


def test_at_step_0_the_bound_is_the_probability_of_the_bin_in_bits():
    process = diffusion.cosine_process()
    x0 = jnp.array([[-1.0, -0.3, 0.2, 1.0]])
    eps, predicted = jax.random.normal(jax.random.key(0), (2, 1, 4))
    output = jnp.concatenate([predicted, jnp.ones((1, 4))], axis=-1)  # variance beta
    terms = jax.jit(diffusion.loss_terms)
    _, bound = terms(process.tables(), output, x0, eps, jnp.array([0]))
    beta = process.betas[0]
    mean = x0 + np.sqrt(beta / (1 - beta)) * (eps - predicted)
    low = jnp.where(x0 < -0.999, -jnp.inf, x0 - 1 / 255)
    high = jnp.where(x0 > 0.999, jnp.inf, x0 + 1 / 255)
    cdf = jax.scipy.stats.norm.cdf
    bits = -jnp.log2(cdf(high, mean, np.sqrt(beta)) - cdf(low, mean, np.sqrt(beta)))
    assert float(bound[0]) == pytest.approx(float(bits.mean()), rel=1e-2)


def test_respacing_keeps_the_ends_and_what_is_left_of_the_signal():
    whole = diffusion.cosine_process(1000)
    for steps in (1000, 100, 7):
        part = diffusion.respace(whole, steps)
        assert part.index[0] == 0 and part.index[-1] == 999 and part.steps == steps
        np.testing.assert_allclose(part.alpha_bar, whole.alpha_bar[part.index], rtol=1e-6)
    with pytest.raises(UserError, match="2 to 1000"):
        diffusion.respace(whole, 1)


def test_ancestral_sampling_draws_a_gaussian_from_its_exact_denoiser():
    """For data N(m, 1) the reverse step is Gaussian with variance beta in any number of steps."""
    head, solver = DiffusionHead(channels=1, hidden=1), Solver("ancestral", 30)
    tables, index = diffusion.cosine_process().tables(), head.process(30).index

    def run(method, *args):
        """Told the original step, the denoiser finds its row in the tables of all steps."""
        if method != "denoise":
            return args[0]
        x, told = args
        t = told[0, 0].astype(int)
        eps = tables["spread"][t] * (x - 2.0 * tables["signal"][t])
        return jnp.concatenate([eps, jnp.ones_like(eps)], axis=-1)

    def told_times(method, *args):
        found = run(method, *args)
        return found[:, None] if method == "embed_time" else found

    x = jax.jit(
        lambda: head.sample(told_times, jnp.zeros((MANY, 1, 1)), None, 1.0, noise, solver)
    )()
    assert index[-1] == 999 and x.shape == (MANY, 1, 1)
    assert float(x.mean()) == pytest.approx(2.0, abs=0.03)
    assert float(x.std()) == pytest.approx(1.0, abs=0.02)
    still = head.sample(
        told_times, jnp.zeros((MANY, 1, 1)), None, 1.0, noise, solver, temperature=0.0
    )
    assert float(still.std()) < 0.1  # temperature multiplies what the steps draw


@pytest.mark.parametrize(
    "solver, shift, mean, std", [("euler", 1.0, 0.02, 0.03), ("euler", 3.0, 0.02, 0.04),
                                 ("heun", 1.0, 0.02, 0.01), ("euler_maruyama", 1.0, 0.03, 0.05)]
)  # fmt: skip
def test_flow_sampling_draws_a_gaussian_from_its_exact_velocity(solver, shift, mean, std):
    head, how = FlowHead(channels=1, hidden=1), Solver.flow(solver, 100, shift)

    def run(method, *args):
        """The velocity E[eps - x0 | x_t] of data N(2, 1/4), told 1000 t."""
        if method != "denoise":
            return args[0][:, None] if method == "embed_time" else args[0]
        x, told = args
        t = told / 1000
        variance = (1 - t) ** 2 / 4 + t**2
        return (t - (1 - t) / 4) / variance * (x - (1 - t) * 2.0) - 2.0

    features = jnp.zeros((MANY, 1, 1))
    x = jax.jit(lambda k: head.sample(run, features, None, 1.0, noise, how, k))(1.0)
    assert float(x.mean()) == pytest.approx(2.0, abs=mean)
    assert float(x.std()) == pytest.approx(0.5, abs=std)
    if solver == "heun":  # a deterministic map of the noise at the start
        np.testing.assert_allclose(x, 2 + 0.5 * noise(-1), atol=0.02)
        half = head.sample(run, features, None, 1.0, noise, how, temperature=0.5)
        np.testing.assert_allclose(half, 2 + 0.25 * noise(-1), atol=0.02)


@pytest.mark.parametrize("kind", [DiffusionHead, FlowHead])
def test_a_samples_loss_depends_on_its_key_only_and_averages_its_draws(kind):
    head = small(kind, repeats=64)
    mlp, x, z = head.network(), jnp.ones((3, 5, 3)), jnp.ones((3, 5, 8))
    params = jax.jit(mlp.init)(jax.random.key(0), x, jnp.zeros(()), z)
    keys = jax.random.split(jax.random.key(1), 3)
    loss = jax.jit(lambda x, z, k: head.denoising_loss(lambda *a: mlp.apply(params, *a), z, x, k))
    together = loss(x, z, keys)
    assert together.shape == (3, 5)
    np.testing.assert_allclose(together[1:2], loss(x[1:2], z[1:2], keys[1:2]), rtol=1e-5)
    assert not jnp.allclose(together, loss(x, z, keys[::-1]))
    # The MLP gives 0 at the start: E |eps - x0|^2 = 2 a channel, E |eps|^2 = 1.
    if kind is FlowHead:
        assert float(together.mean()) / 3 == pytest.approx(2.0, abs=0.25)
    else:
        assert float(together.mean()) / 3 > 0.9


@pytest.mark.parametrize("kind", [DiffusionHead, FlowHead])
def test_guidance_acts_on_what_is_predicted_and_1_is_none_bit_for_bit(kind):
    head = small(kind)
    given, null = jax.random.normal(jax.random.key(0), (2, 5, 3 * head.outputs_per_channel))
    np.testing.assert_array_equal(jax.jit(head.combine(1.0))(given, null), given)
    guided = head.combine(3.0)(given, null)
    np.testing.assert_allclose(guided[:, :3], (null + 3 * (given - null))[:, :3], rtol=1e-5)
    np.testing.assert_array_equal(guided[:, 3:], given[:, 3:])  # the variance


@pytest.mark.parametrize(
    "build_it, message",
    [
        (lambda: small(DiffusionHead).solver(None, 1, None), "2 to 1000"),
        (lambda: small(DiffusionHead, train_steps=20).solver(None, 30, None), "2 to 20"),
        (lambda: small(DiffusionHead).solver("heun", None, None), "no solver to choose"),
        (lambda: small(FlowHead).solver(None, 0, None), "at least 1 step"),
        (lambda: small(FlowHead).solver("rk4", None, None), "none of euler"),
        (lambda: small(FlowHead).solver(None, None, -1.0), "shift -1.0"),
        (lambda: small(FlowHead, times="beta"), "one of logit_normal"),
        (lambda: small(FlowHead, ffn="relu"), "none of silu"),
        (lambda: small(DiffusionHead, repeats=0), "repeats 0 must be at least 1"),
    ],
)
def test_impossible_heads_are_refused(build_it, message):
    with pytest.raises(UserError, match=message):
        build_it()
