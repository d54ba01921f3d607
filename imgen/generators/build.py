"""From a config's settings to a model of latents."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from imgen.conditioning import CONDITIONERS
from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.generators import xar
from imgen.generators.backbones import BACKBONES
from imgen.generators.bit_diffusion import BitDiffusion
from imgen.generators.code_heads import BernoulliHead, CategoricalHead, SubCodeHead
from imgen.generators.denoising_heads import DiffusionHead, FlowHead
from imgen.generators.entities import ENTITIES
from imgen.generators.generator import Generator
from imgen.generators.head import Head
from imgen.generators.lexinvariant import lexinvariant as make_lexinvariant
from imgen.generators.model import LatentModel
from imgen.generators.orders import masked, next_neighbour, parallel_groups, random_order, raster
from imgen.generators.plan import Kind, Plan
from imgen.generators.positions import check_position
from imgen.generators.schemes import SCHEMES
from imgen.generators.transformer import BlockSpec, FullAttention, Transformer
from imgen.generators.windows import WindowHead, coarse_grid
from imgen.generators.xar import XAR
from imgen.latents import LatentSpec
from imgen.nn.mlp import swiglu_hidden
from imgen.nn.stack import check_remat


class Order(NamedTuple):
    """plan: (grid, num_cond, options) -> Plan.   schemes: keys of SCHEMES that go with it, its own first.
    window: side of the windows."""

    plan: Callable[..., Plan]
    schemes: tuple[str, ...] = ("fixed",)
    window: int = 1


ANY_ORDER = ("fixed", "random", "annealed")  # of plans that read each code before its slot


PLANS = {
    "raster": Order(raster, ANY_ORDER),
    "nar": Order(next_neighbour),
    "par": Order(parallel_groups),
    "random": Order(random_order, ("random",)),
    "masked": Order(masked, ("masked",)),
    "token_shuffle": Order(raster, ANY_ORDER, window=2),
}
# No plan, but the same choice: Instella's diffusion over all bits at once.
BIT_DIFFUSION = "bit_diffusion"

HEADS = {
    "categorical": CategoricalHead,
    "subcodes": SubCodeHead,
    "bernoulli": BernoulliHead,
    "diffusion": DiffusionHead,
    "flow": FlowHead,
}
LATENTS = {
    "categorical": "index",
    "subcodes": "bits",
    "bernoulli": "bits",
    "diffusion": "continuous",
    "flow": "continuous",
}
DEFAULT_HEADS = {"index": "categorical", "bits": "bernoulli", "continuous": "flow"}


def build_model(settings: Mapping[str, Any], spec: LatentSpec) -> LatentModel:
    """Returns the model that a config's group `generator` describes, over the latents of `spec`.

    settings: `name` ("plan", the default, or "xar") and the arguments of `make_generator` or `make_xar`; the
    dtype as text. Raises UserError.
    """
    arguments = dict(settings)
    dtype = arguments.get("dtype", "float32")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"generator.dtype {dtype!r} is neither float32 nor bfloat16")
    arguments["dtype"] = jnp.dtype(dtype)
    name = arguments.pop("name", "plan")
    if name not in GENERATORS:
        raise UserError(f"generator.name {name!r} is none of {', '.join(GENERATORS)}")
    return construct(GENERATORS[name], arguments, "generator", spec=spec)


def make_generator(
    spec: LatentSpec,
    *,
    plan: str,
    plan_options: dict,
    conditioning: dict,
    width: int,
    scheme: str | None = None,
    scheme_options: dict | None = None,
    head: str | None = None,
    head_options: dict | None = None,
    window: int | None = None,
    shuffle_blocks: int = 2,
    lexinvariant: float | None = None,
    **arguments,
) -> LatentModel:
    """Returns a model over the latents of `spec`.

    plan: key of PLANS, or BIT_DIFFUSION; plan_options: further arguments of that function.
    conditioning: {"name": key of CONDITIONERS, ...the conditioner's own arguments}.
    scheme: key of SCHEMES, by default the plan's own; scheme_options: its fields.
    head: key of HEADS, by default "categorical" for indices, "bernoulli" for bits and "flow" for continuous
        latents; head_options: its further arguments.
    window: window x window codes are fused in a slot (Token-Shuffle); the plan is then over windows.
    shuffle_blocks: residual MLPs on either side of the windows.
    lexinvariant: share of the codes whose vectors are drawn anew for each sequence, 1 for all; the output
        is then tied to the vectors. None: learned vectors, an output of its own.
    The other arguments are those of `plan_model`.
    """
    if plan == BIT_DIFFUSION:
        if plan_options or scheme or head or head_options or window or lexinvariant:
            raise UserError(
                f"plan {plan} has neither options nor a scheme, a head or windows: leave them out"
            )
        return _bit_diffusion(spec, conditioning, width, arguments)
    if plan not in PLANS:
        raise UserError(f"generator.plan {plan!r} is none of {', '.join((*PLANS, BIT_DIFFUSION))}")
    order = PLANS[plan]
    scheme = scheme or order.schemes[0]
    if scheme not in SCHEMES:
        raise UserError(f"generator.scheme {scheme!r} is none of {', '.join(SCHEMES)}")
    if scheme not in order.schemes:
        raise UserError(f"plan {plan} goes with scheme {' or '.join(order.schemes)}, not {scheme}")
    conditioner = _conditioner(conditioning, width, arguments)
    window = order.window if window is None else window
    if lexinvariant is not None and window > 1:
        raise UserError("lexinvariant vectors have a categorical head and no windows")
    slots = dict(grid=coarse_grid(spec.grid, window), num_cond=conditioner.num_slots)
    around = (window, shuffle_blocks, lexinvariant)
    return construct(
        plan_model, arguments, "generator",
        spec=spec, conditioner=conditioner, width=width,
        plan=construct(order.plan, plan_options, "generator.plan_options", **slots),
        scheme=construct(SCHEMES[scheme], scheme_options or {}, "generator.scheme_options"),
        head=functools.partial(_head, spec, head, head_options or {}, *around),
    )  # fmt: skip


def plan_model(
    *,
    spec: LatentSpec,
    plan: Plan,
    scheme,
    conditioner,
    head: Callable[..., Head],
    width: int,
    depth: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    backbone: str = "transformer",
    backbone_options: dict | None = None,
    dropout: float = 0.1,
    drop_path: float = 0.0,
    position: str = "rope",
    rope_base: float = 10000.0,
    cond_rope: str = "zero",
    ffn: str = "swiglu",
    norm: str = "rms",
    qk_norm: bool | str = False,
    use_bias: bool = False,
    modulation: str = "none",
    inner_dropout: bool = False,
    norm_eps: float = 1e-5,
    init_std: float | str = 0.02,
    remat: str = "none",
    dtype=jnp.float32,
) -> Generator:
    """Returns a Generator.   head: fields of `Head` -> the head.

    depth: blocks below the first exit; exit h follows depth + h blocks (NAR's nested heads).
    hidden: feed-forward width, by default Llama's rule.   backbone: "transformer" or a key of BACKBONES,
    whose arguments are backbone_options.
    dropout: on the embedded slots, after attention and after the feed-forward (LlamaGen: 0.1).
    inner_dropout: also of attention's weights and inside of the feed-forward, not on the slots (RAR).
    drop_path: greatest stochastic depth rate; if not 0 it replaces the two inner dropouts, as published.
    ffn, norm, qk_norm, use_bias: see `BlockSpec`.   position, modulation, cond_rope: see `Generator`.
    """
    check_position(position, cond_rope)
    shared = dict(init_std=init_std, dtype=dtype)
    plain = backbone == "transformer"
    norms = norm_eps if plain and modulation == "none" else None
    made = head(hidden=width, exits=plan.heads, norm_eps=norms, **shared)
    block = dict(
        heads=heads, hidden=hidden or swiglu_hidden(width), kv_heads=kv_heads, ffn=ffn, norm=norm,
        norm_eps=norm_eps, qk_norm=qk_norm, use_bias=use_bias, modulated=modulation != "none",
        drop_path=drop_path, **_dropouts(0.0 if drop_path else dropout, inner_dropout), **shared,
    )  # fmt: skip
    if plain:
        network = _transformer(plan, width, depth, remat, position, **block)
    else:
        given = dict(dropout=dropout, remat=remat, dtype=dtype)
        network = _network(backbone, plan, given, backbone_options or {})
    return Generator(
        spec, plan, made, conditioner, network, width, heads or 1, scheme,
        dropout if plain and not inner_dropout else 0.0, position if plain else "block",
        modulation, rope_base, cond_rope, **shared,
    )  # fmt: skip


def _dropouts(rate: float, inner: bool) -> dict[str, float]:
    """Fields of `BlockSpec`: after both branches, or also inside of them (attention drops its output too)."""
    within = rate if inner else 0.0
    return dict(
        attention_dropout=within, residual_dropout=rate - within, hidden_dropout=within,
        ffn_dropout=rate,
    )  # fmt: skip


def _transformer(
    plan: Plan, width: int, depth: int | None, remat: str, position: str, **block
) -> Transformer:
    """The transformer of a plan, of blocks with these fields of `BlockSpec`. Raises UserError."""
    if depth is None or block["heads"] is None:
        raise UserError("generator lacks depth or heads of its transformer")
    if width % block["heads"]:
        raise UserError(f"generator width {width} is not divisible by {block['heads']} heads")
    check_remat(remat)
    rows = plan.num_cond + plan.positions if position == "block" else 0
    depths = tuple(depth + h for h in range(plan.heads))
    return Transformer(BlockSpec(position_rows=rows, **block), depths, remat, block["modulated"])


def _head(
    spec: LatentSpec,
    name: str | None,
    options: dict,
    window: int,
    blocks: int,
    lexinvariant: float | None,
    **fields,
) -> Head:
    """The head of a name and options, with what is put around it; fields: of `Head`."""
    head = make_head(spec, name, options, **fields)
    if lexinvariant is not None:
        return make_lexinvariant(head, lexinvariant)
    return head if window == 1 else WindowHead(inner=head, window=window, blocks=blocks, **fields)


def make_head(spec: LatentSpec, name: str | None, options: Mapping[str, Any], **given: Any) -> Head:
    """Returns a head for the latents of `spec`: key of HEADS, by default that of DEFAULT_HEADS, and its
    options; given: the fields of `Head`. Raises UserError for one that doesn't fit."""
    name = name or DEFAULT_HEADS[spec.kind]
    if name not in HEADS:
        raise UserError(f"generator.head {name!r} is none of {', '.join(HEADS)}")
    if spec.kind != LATENTS[name]:
        fitting = [head for head, kind in LATENTS.items() if kind == spec.kind]
        raise UserError(
            f"a {name} head needs {LATENTS[name]} latents; this tokenizer gives {spec.kind} "
            f"(heads for those: {', '.join(fitting)})"
        )
    size = {"index": "size", "bits": "bits", "continuous": "channels"}[spec.kind]
    return construct(HEADS[name], options, "generator.head_options", **{size: spec.size}, **given)


def _network(backbone: str, plan: Plan, given: dict, options: dict) -> FullAttention:
    """A backbone of its own. Raises UserError where a plan needs a cache."""
    if backbone not in BACKBONES:
        raise UserError(
            f"generator.backbone {backbone!r} is none of {', '.join(('transformer', *BACKBONES))}"
        )
    if Kind.STATE not in plan.fed:
        raise UserError(f"backbone {backbone} sees all slots: it goes with plan masked only")
    check_remat(given["remat"])
    network = construct(BACKBONES[backbone], options, "generator.backbone_options", **given)
    return FullAttention(network)


def _conditioner(conditioning: dict, width: int, arguments: dict):
    conditioning = dict(conditioning)
    name = conditioning.pop("name", None)
    if name not in CONDITIONERS:
        raise UserError(
            f"generator.conditioning.name {name!r} is none of {', '.join(CONDITIONERS)}"
        )
    dtype = arguments.get("dtype", jnp.float32)
    return construct(
        CONDITIONERS[name], conditioning, "generator.conditioning", width=width, dtype=dtype
    )


def _bit_diffusion(spec: LatentSpec, conditioning: dict, width: int, arguments: dict):
    conditioner = _conditioner(conditioning, width, arguments)
    if spec.kind != "bits" or "context" not in conditioner.gives:
        raise UserError(
            f"plan {BIT_DIFFUSION} needs bits and a text for every layer (conditioning layer_text), "
            f"not {spec.kind} and {conditioning['name']}"
        )
    return construct(
        BitDiffusion, arguments, "generator",
        grid=spec.grid, bits=spec.size, conditioner=conditioner.clone(num_slots=0), width=width,
    )  # fmt: skip


def make_xar(
    spec: LatentSpec,
    *,
    entity: str,
    conditioning: dict,
    width: int,
    entity_options: dict | None = None,
    **arguments,
) -> XAR:
    """Returns a next-X flow model over the continuous latents of `spec`.

    entity: key of ENTITIES; entity_options: further arguments of that function, such as a cell's side.
    conditioning: as for `make_generator`.   The other arguments are those of `XAR`.
    """
    if spec.kind != "continuous":
        raise UserError(f"xar generates continuous latents; this tokenizer gives {spec.kind}")
    if entity not in ENTITIES:
        raise UserError(f"generator.entity {entity!r} is none of {', '.join(ENTITIES)}")
    where = "generator.entity_options"
    entities = construct(ENTITIES[entity], entity_options or {}, where, grid=spec.grid)
    conditioner = _conditioner(conditioning, width, arguments)
    model = construct(
        XAR, arguments, "generator",
        entities=entities, channels=spec.size, conditioner=conditioner, width=width,
    )  # fmt: skip
    xar.check(model)
    return model


GENERATORS = {"plan": make_generator, "xar": make_xar}
