"""Two optimiser steps: gradients, clipping, AdamW with its decay rule, EMA."""

import jax
import jax.numpy as jnp
import numpy as np

from imgen.generators.code_heads import categorical_nll
from imgen.interop.llamagen import rows
from imgen.interop.table import to_official
from imgen.training.generator_task import GeneratorTask
from tests.parity.cases.llamagen import build
from tests.parity.golden import Golden


def train_step(golden: Golden) -> None:
    generator, params = build(golden)
    close = golden.meta["tolerance"]
    ema_decay = 0.99  # said in the file's description
    task = GeneratorTask(
        generator,
        None,
        None,
        total_steps=2,
        condition_dropout=0.0,
        ema_decay=ema_decay,
        ema_warmup=False,
        optimizer=dict(learning_rate=golden.meta["lr"], weight_decay=0.05),
    )
    batches = [
        {"codes": jnp.asarray(codes, jnp.int32), "label": jnp.asarray(labels, jnp.int32)}
        for codes, labels in zip(golden.input("tokens"), golden.input("labels"), strict=True)
    ]
    state = task.init(jax.random.key(0), batches[0])
    state |= {"params": params, "ema": params}

    def loss(p):
        codes = batches[0]["codes"]
        logits = generator.apply({"params": p}, codes, {"label": batches[0]["label"]})
        return categorical_nll(logits, codes).mean()

    gradient = to_official(rows(generator), jax.grad(loss)(params))
    for key, value in golden.outs("grad_step0/").items():
        np.testing.assert_allclose(
            gradient[key], value, rtol=close["grad_rtol"], atol=close["grad_atol"]
        )
    step = jax.jit(task.train_step)
    for i, batch in enumerate(batches):
        state, metrics = step(state, batch, jax.random.key(i))
        np.testing.assert_allclose(metrics["loss"], golden.out("loss")[i], atol=1e-5)
        np.testing.assert_allclose(
            metrics["grad_norm"], golden.out("grad_norm_before_clip")[i], rtol=1e-4
        )
    for name, ours in (("params_after2", state["params"]), ("ema_after2", state["ema"])):
        official = to_official(rows(generator), ours)
        for key, value in golden.outs(f"{name}/").items():
            np.testing.assert_allclose(
                official[key], value, atol=close["params_atol"], rtol=0, err_msg=key
            )


CASES = {"llamagen_train_step": train_step, "nar_train_step": train_step}
