"""Published models have the published numbers of parameters, within 1 %."""

import math

import jax
import pytest

from imgen.conditioning import LayerText
from imgen.generators import make_generator, make_xar
from imgen.generators.bit_diffusion import BitDiffusion
from imgen.generators.presets import ELM, INSTELLA, LLAMAGEN, NAR, NAR_VIDEO, TOKEN_SHUFFLE, XAR
from imgen.latents import LatentSpec

VQ16 = LatentSpec("index", (16, 16), 16384)
CLASS = {"name": "class", "num_classes": 1000}
XL_TEXT = {"name": "text", "text_width": 2048, "num_slots": 120}


def build(spec, plan, preset, conditioning=CLASS, options=None, **more):
    return make_generator(
        spec,
        plan=plan,
        plan_options=options or {},
        conditioning=conditioning,
        **{**preset, **more},
    )


def shapes(generator):
    return jax.eval_shape(generator.init_params, jax.random.key(0))


def count(params) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def bits(n, grid=(16, 16)):
    return LatentSpec("bits", grid, n)


VIDEO = LatentSpec("index", (4, 16, 16), 8192)
UCF = {"name": "class", "num_classes": 101}
SUB = {"head": "subcodes", "head_options": {"parts": 2}}
PUBLISHED = [  # millions
    *(
        (f"nar-{size}", build(VQ16, "nar", NAR[size]), millions)
        for size, millions in dict(B=130.6, M=295.5, L=372.5, XL=816.0, XXL=1464).items()
    ),
    ("nar-XL-text", build(VQ16, "nar", NAR["XL"], XL_TEXT), 819.0),
    ("nar-video-L", build(VIDEO, "nar", NAR_VIDEO["L"], UCF), 368.7),
    ("nar-video-LP", build(VIDEO, "nar", NAR_VIDEO["LP"], UCF), 693.6),
    ("par-L", build(VQ16, "par", LLAMAGEN["L"], options={"groups": 4}), 343),
    ("randar-L", build(VQ16, "random", LLAMAGEN["L"]), 343),
    ("randar-XL", build(VQ16, "random", LLAMAGEN["XL"]), 775),
    ("elm-L", build(bits(20), "raster", ELM["L"], **SUB), 315.6),
    ("elm-XL", build(bits(24), "raster", ELM["XL"], **SUB), 757.0),
    ("elm-XXL", build(bits(24), "raster", ELM["XXL"], **SUB), 1390.5),
    ("elm-2B", build(bits(24), "raster", ELM["2B"], **SUB), 1909.5),
    # 4.2 M of the published 881.4 M are a time embedding that is never used.
    ("instella-ar", build(bits(64, (128,)), "raster", INSTELLA, {"name": "layer_text"}), 877.2),
]


@pytest.mark.parametrize(
    "generator, millions", [p[1:] for p in PUBLISHED], ids=[p[0] for p in PUBLISHED]
)
def test_published_sizes(generator, millions):
    assert count(shapes(generator)) / 1e6 == pytest.approx(millions, rel=0.01)


def test_instella_diffusion_has_its_published_size():
    conditioner = LayerText(2048, num_slots=0)
    model = BitDiffusion(
        grid=(128,), bits=64, conditioner=conditioner, width=2048, depth=16, heads=16, hidden=8192
    )
    assert count(shapes(model)) / 1e6 == pytest.approx(1292.5, rel=0.01)


@pytest.mark.parametrize(("size", "millions"), [("B", 172.64), ("L", 608.40), ("H", 1186.0)])
def test_xar_has_the_official_codes_parameters(size, millions):
    model = make_xar(
        LatentSpec("continuous", (16, 16), 16), entity="cell", conditioning=CLASS, **XAR[size]
    )
    assert count(shapes(model)) / 1e6 == pytest.approx(millions, rel=1e-4)


def test_token_shuffle_is_the_published_llama_and_its_windows():
    """2.7B is the language model with the codes among its tied vocabulary; ours unties the image head."""
    spec = LatentSpec("index", (64, 64), 16384)
    text = {"name": "text_tokens"}
    fused = shapes(build(spec, "token_shuffle", TOKEN_SHUFFLE, text))
    plain = shapes(build(spec, "token_shuffle", TOKEN_SHUFFLE, text, window=1))
    llama = {k: v for k, v in plain.items() if k != "head_0"}
    assert count(llama) / 1e9 == pytest.approx(2.7, rel=0.01)
    assert {k: v for k, v in fused.items() if k not in ("fuse", "split_0")} == plain


def test_without_windows_token_shuffle_is_the_plain_model():
    spec = LatentSpec("index", (4, 4), 8)
    small = dict(depth=1, heads=2, width=16, hidden=16)
    assert build(spec, "token_shuffle", small, window=1) == build(spec, "raster", small)
