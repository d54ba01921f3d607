"""LPIPS weights <-> our parameters.

Official keys are those of the LPIPS module: net.slice{1..5}.{index}.{weight, bias} with
torchvision's index, and lin{0..4}.model.1.weight. A file may also name the convolutions as
torchvision's VGG16 and AlexNet do (features.{index}.weight), so that it can be put together from the two
published files.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imgen.errors import UserError
from imgen.interop.files import read_arrays
from imgen.interop.table import CONV, Row, Transform, from_official
from imgen.tokenizers.lpips import TRUNKS, VGG16, Params, Trunk, abstract_params

IGNORED = (
    r"scaling_layer\.(shift|scale)",
    r"lin\d\.model\.1\.bias",
    r"lins\.\d\..*",  # the heads once more
    r"classifier\..*",
)
HOW = (
    "one .safetensors file with torchvision's trunk (vgg16-397923af.pth or alexnet-owt-*.pth, its features.*)"
    " and LPIPS' heads (lpips/weights/v0.1/vgg.pth or alex.pth of richzhang/PerceptualSimilarity), or with"
    " the state dict of lpips.LPIPS(net='vgg') or (net='alex')"
)

HEAD = Transform(lambda w: w.reshape(-1), lambda v: v.reshape(1, -1, 1, 1))


def rows(trunk: Trunk = VGG16) -> list[Row]:
    """The table: official LPIPS module <-> `tokenizers.lpips`."""
    table = [Row("lin{k}.model.1.weight", "lin_{k}", HEAD)]
    for k, slice_ in enumerate(trunk.slices):
        for index in slice_:
            official = f"net.slice{k + 1}.{index}"
            table.append(Row(f"{official}.weight", f"conv_{index}/kernel", CONV))
            table.append(Row(f"{official}.bias", f"conv_{index}/bias"))
    return table


def convert(
    state: Mapping[str, np.ndarray], widths: Sequence[int] | None = None, trunk: Trunk = VGG16
) -> Params:
    """State dict of the LPIPS module (or with torchvision's names for the trunk) -> parameters.

    Raises UserError for missing, unknown or misshapen keys.
    """
    like = abstract_params(widths, trunk)
    return from_official(rows(trunk), _module_names(state, trunk), like, IGNORED)


def load(path: str | Path, trunk: Trunk = VGG16) -> Params:
    """Reads a .safetensors or .npz file. Raises UserError where it isn't LPIPS of this trunk."""
    return convert(read_arrays(path), trunk=trunk)


def load_any(path: str | Path) -> tuple[str, Params]:
    """A file of LPIPS by either trunk: the trunk's name in TRUNKS, and parameters.

    Raises UserError, in one line that says which files to get, where it is of none.
    """
    state = read_arrays(path)
    first = [state[key] for key in ("features.0.weight", "net.slice1.0.weight") if key in state]
    sizes = {trunk.kernel[0]: name for name, trunk in TRUNKS.items()}
    name = sizes.get(first[0].shape[-1]) if first and first[0].ndim == 4 else None
    if name is None:
        raise UserError(f"{path} holds no weights of LPIPS: give {HOW}")
    return name, convert(state, trunk=TRUNKS[name])


def _module_names(state: Mapping[str, np.ndarray], trunk: Trunk) -> dict[str, np.ndarray]:
    slice_of = {index: k + 1 for k, slice_ in enumerate(trunk.slices) for index in slice_}
    out = {}
    for key, value in state.items():
        match = re.fullmatch(r"features\.(\d+)\.(weight|bias)", key)
        if match and int(match[1]) in slice_of:
            key = f"net.slice{slice_of[int(match[1])]}.{match[1]}.{match[2]}"
        out[key] = value
    return out
