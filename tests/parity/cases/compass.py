"""CoMPaSS: TENOR's attention and SCOP's filters."""

import json

import numpy as np

from imgen.conditioning.text.tenor import CrossAttention, sinusoid
from imgen.data import scop
from tests.parity.golden import Golden


def tenor_cross_attention(g: Golden) -> None:
    state, close, c = g.params(), g.meta["tolerance"], g.config
    params = {name: {"kernel": state[f"to_{name}.weight"].T} for name in "qkv"}
    params["out"] = {"kernel": state["to_out.0.weight"].T, "bias": state["to_out.0.bias"]}
    np.testing.assert_allclose(sinusoid(c["L"], c["text_dim"]), g.out("pe"), **close)
    ours = CrossAttention(c["heads"], tenor=True).apply(
        {"params": params}, g.input("hidden"), g.input("text")
    )
    np.testing.assert_allclose(ours, g.out("attn"), **close)


def scop_filters(g: Golden) -> None:
    names = {
        "min_bbox_area": "area", "visual_significance": "significance", "spatial_clarity": "clarity",
        "minimal_overlap": "overlap", "size_balance": "balance",
    }  # fmt: skip
    filters = scop.Filters(**{names[key]: value for key, value in g.config.items()})
    boxes = g.input("boxes_xywh")
    size = g.input("width"), g.input("height")
    found = scop.checks(boxes, g.input("category_id"), *size, filters)
    for name, ours in found.items():
        np.testing.assert_array_equal(ours, g.out(name), err_msg=name)
    assert [scop.relations(*pair) for pair in boxes] == json.loads(str(g.out("relations")))


CASES = {"tenor_cross_attention": tenor_cross_attention, "scop_filters": scop_filters}
