"""KL autoencoders of LDM (model.ckpt) and MAR (kl16.ckpt) <-> our `kl`, in taming's layout.

Sources: CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py; LTH14/mar, models/vae.py. LDM's
files hold the state dict under "state_dict", MAR's under "model".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from imgen.interop.table import from_official, to_official
from imgen.interop.taming import IGNORED, autoencoder

MAR_SCALE = 0.2325  # MAR multiplies latents with it: about one over their deviation on ImageNet


def convert(
    state: Mapping[str, np.ndarray], like: Mapping[str, Any], scale: float = MAR_SCALE
) -> dict[str, Any]:
    """Official state dict -> parameters of the shapes of `like`.

    scale: of the latents. No checkpoint holds it, whoever publishes one names it.
    Raises UserError, naming keys, where the state dict is not of this model.
    """
    halves = {name: tree for name, tree in like.items() if name != "quantizer"}
    quantizer = {"scale": np.float32(scale), "shift": np.float32(0.0)}
    return {**from_official(autoencoder(), state, halves, IGNORED), "quantizer": quantizer}


def convert_back(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters -> official state dict, which leaves the scale out."""
    halves = {name: tree for name, tree in params.items() if name != "quantizer"}
    return to_official(autoencoder(), halves)
