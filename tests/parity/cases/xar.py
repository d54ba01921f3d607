"""xAR: a training pass with its gradients, and sampling with and without guidance."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.decoding import Sampling, entity_flow
from imgen.decoding.guidance import Guidance
from imgen.diffusion import flow
from imgen.generators.xar import FlowBlock, time_index
from imgen.interop import xar
from imgen.interop.table import from_official, to_official
from tests.parity.compare import assert_close, nchw, nhwc
from tests.parity.golden import Golden


def load(g: Golden):
    model = xar.model_from_config(g.config)
    like = jax.eval_shape(model.init_params, jax.random.key(0))
    rows, official = xar.rows(model), g.params()
    params = from_official(rows, official, like, xar.BUFFERS)
    back = to_official(rows, params)
    assert back.keys() == official.keys()
    for key, value in official.items():
        np.testing.assert_array_equal(back[key], value)
    return model, rows, params


def joined(x: np.ndarray) -> np.ndarray:
    """[N, B, n, C] -> [B, N n, C]."""
    return np.moveaxis(x, 0, 1).reshape(x.shape[1], -1, x.shape[-1])


def forward_case(g: Golden) -> None:
    model, rows, params = load(g)
    atol = g.meta["tolerance"]["atol"]
    labels = jnp.asarray(g.input("labels_dropped"))
    null = labels == g.config["null_label"]
    cond = {"label": jnp.where(null, 0, labels)}
    x0, noise = model.to_codes(nhwc(g.input("latents"))), joined(g.input("noise"))
    t = g.input("time").T  # [B, N]
    of_token, entities = model.entities.of_token, model.entities
    assert_close(x0, g.out("tokens_clean"), 0)
    assert_close(nhwc(g.input("latents")), entities.latents(x0), 0)
    assert_close(noise - x0, g.out("target"), atol)
    x_t = flow.interpolate(x0, noise, t[:, of_token])
    assert_close(x_t, g.out("x_t"), atol)
    np.testing.assert_array_equal(time_index(t).T, g.out("time_index"))
    sees = of_token[:, None] >= of_token
    np.testing.assert_array_equal(sees, g.out("mask").astype(bool))
    positions = model.rotary(np.arange(entities.length))
    assert_close(np.repeat(positions.cos, 2, -1), g.out("rope_cos"), atol)
    assert_close(np.repeat(positions.sin, 2, -1), g.out("rope_sin"), atol)

    def loss_fn(params, t=jnp.asarray(t)):
        velocity, state = model.apply(
            {"params": params}, x_t, t, cond, null, capture_intermediates=True
        )
        return jnp.mean(jnp.square(velocity - (noise - x0))), (velocity, state["intermediates"])

    (loss, (velocity, inside)), gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        params
    )
    assert_close(loss, g.out("loss"), atol)
    assert_close(velocity, g.out("velocity"), atol)
    assert_close(inside["input_norm"]["__call__"][0], g.out("z_proj_ln"), atol)
    assert_close(inside["norm_0"]["__call__"][0], g.out("encoder_out"), atol)
    bound = model.bind({"params": params})
    condition = bound.embed_condition(cond, null)[:, None] + bound.embed_time(time_index(t))
    assert_close(np.moveaxis(condition, 1, 0), g.out("cond"), atol)
    official = to_official(rows, jax.device_get(gradient))
    norms = [np.linalg.norm(official[key]) for key in g.meta["grad_norm_keys"]]
    assert_close(norms, g.out("grad_norms"), atol)
    assert_close(official["pred.weight"], g.out("grad_pred_weight"), atol)
    last = g.config["decoder_depth"] - 1
    assert_close(official["encoder_blocks.0.ada_lin.1.bias"], g.out("grad_enc0_ada_bias"), atol)
    assert_close(
        official[f"decoder_blocks.{last}.mlp.fc1_g.bias"], g.out("grad_dec_last_fc1_g_bias"), atol
    )
    layer = jax.tree.map(lambda x: x[0], params["stack_0"])
    entered = jnp.asarray(inside["input_norm"]["__call__"][0])
    visible = (entities.starts + entities.sizes)[of_token]
    block, _ = FlowBlock(model.block, entities.sizes).apply(
        {"params": layer}, entered, condition, positions, visible
    )
    assert_close(block, g.out("encoder_block0"), atol)


def sample_case(g: Golden) -> None:
    model, _, params = load(g)
    atol, steps = g.meta["tolerance"]["atol"], g.meta["num_steps"]
    cond = {"label": jnp.asarray(g.input("labels"))}
    eps = g.input("eps")  # [N, T - 1, B, n, C]
    xi = np.stack([joined(eps[:, i]) for i in range(steps - 1)])
    start = joined(g.input("init_noise"))
    noise = entity_flow.given_noise(start, xi, model.entities.starts)
    guidance = Guidance(g.meta["cfg_scale"], "linear")
    np.testing.assert_allclose(
        entity_flow.weights(model, guidance), g.meta["cfg_per_cell"], rtol=1e-6
    )
    sde, ode = Sampling(guidance, steps=steps), Sampling(guidance, steps=steps, solver="euler")
    times, ode_times = (entity_flow.solver_of(how).times() for how in (sde, ode))
    assert_close(times, g.meta["sde_times"], 1e-6)
    assert_close(ode_times, g.meta["ode_times"], 1e-6)
    np.testing.assert_array_equal(time_index(times)[:-1], g.meta["sde_time_index"])
    np.testing.assert_array_equal(time_index(ode_times)[:-1], g.meta["ode_time_index"])
    for name, how in (
        ("sde_tokens", sde),
        ("ode_tokens", ode),
        ("sde_cfg1_tokens", Sampling(steps=steps)),
    ):
        drawn = jax.jit(
            lambda params, how=how: model.to_latents(
                entity_flow.sample_from(model, params, cond, noise, how)
            )
        )(params)
        assert_close(nchw(drawn), g.out(name), atol)
    check_velocities(g, model, params, cond, start, xi, times)


def check_velocities(g: Golden, model, params, cond, start, xi, times) -> None:
    """The network's outputs inside the guided loop, here without a cache: the finished cells at time 0."""
    entities, batch = model.entities, len(start)
    done = model.to_codes(nhwc(g.out("sde_tokens")))
    null = jnp.arange(2 * batch) >= batch
    both = {"label": jnp.tile(cond["label"], 2)}
    run = jax.jit(lambda x, t: model.apply({"params": params}, x, t, both, null))
    for name, expected in g.outs("velocity_").items():
        number, step = (int(part[1:]) for part in name.split("_"))
        own = entities.of_token == number
        weight = g.meta["cfg_per_cell"][number]

        def velocity(x, at, own=own, number=number):
            t = np.zeros((2 * batch, entities.count), np.float32)
            t[:, number] = at / 1000  # the index as a time: floor(1000 t) gives it back
            tokens = np.where(own[:, None], 0, done) + jnp.zeros_like(done).at[:, own].set(x)
            return run(jnp.tile(tokens, (2, 1, 1)), jnp.asarray(t))[:, own]

        x = jnp.asarray(start[:, own])
        for i in range(step + 1):
            v = velocity(x, np.float32(time_index(times)[i] + 0.5))
            guided = v[batch:] + weight * (v[:batch] - v[batch:])
            dt = times[i + 1] - times[i]
            if i < step:
                spread = np.sqrt(2 * times[i] * -dt)
                x = x + dt * ((2 - times[i]) * guided + x) + spread * xi[i][:, own]
        assert_close(v, expected, g.meta["tolerance"]["atol"])


CASES = {"xar_forward": forward_case, "xar_sample": sample_case}
