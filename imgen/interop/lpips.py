"""LPIPS weights <-> our parameters.

Official keys are those of the LPIPS module: net.slice{1..5}.{index}.{weight, bias} with torchvision's index,
and lin{0..4}.model.1.weight. The convolutions may also be named as torchvision's VGG16 and AlexNet do
(features.{index}.weight): the trunk is published in a file of theirs, the heads in one of LPIPS'.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from imgen.errors import UserError
from imgen.interop.files import read_arrays
from imgen.interop.system import System
from imgen.interop.table import CONV, Row, Transform, from_official, to_official
from imgen.tokenizers.losses.lpips import TRUNKS, VGG16, Params, Trunk, abstract_params

IGNORED = (
    r"scaling_layer\.(shift|scale)",
    r"lin\d\.model\.1\.bias",
    r"lins\.\d\..*",  # the heads once more
    r"classifier\..*",
)
HEADS = "lpips/weights/v0.1/{net}.pth of richzhang/PerceptualSimilarity on GitHub"
HOW = (
    "get torchvision's trunk (vgg16-397923af.pth or alexnet-owt-7be5be79.pth of download.pytorch.org/models) "
    f"and LPIPS' heads ({HEADS.format(net='vgg')}, or alex.pth) and convert them once: python -m "
    "imgen.convert --system lpips_vgg (or lpips_alex) --checkpoint TRUNK.pth --heads HEADS.pth --out DIR; "
    "then give DIR/lpips_vgg.safetensors"
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
    return convert(_read(path), trunk=trunk)


def load_any(path: str | Path) -> tuple[str, Params]:
    """A file of LPIPS by either trunk: the trunk's name in TRUNKS, and parameters.

    Raises UserError, in one line that says which files to get, where it is of none.
    """
    state = _read(path)
    first = [state[key] for key in ("features.0.weight", "net.slice1.0.weight") if key in state]
    sizes = {trunk.kernel[0]: name for name, trunk in TRUNKS.items()}
    name = sizes.get(first[0].shape[-1]) if first and first[0].ndim == 4 else None
    if name is None:
        raise UserError(f"{path} holds no weights of LPIPS: {HOW}")
    return name, convert(state, trunk=TRUNKS[name])


def system(net: str, sha256: str, heads_sha256: str) -> System:
    """What `imgen.convert` makes of the two published files: one in the layout of the LPIPS module, which the
    readers above take. net: of TRUNKS. sha256: of torchvision's file; heads_sha256: of LPIPS' own."""
    trunk = TRUNKS[net]

    def joined(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not any(key.startswith("lin") for key in state):
            raise UserError(
                f"the checkpoint is a trunk without LPIPS' heads: give them too, with --heads {net}.pth "
                f"({HEADS.format(net=net)})"
            )
        return to_official(rows(trunk), convert(state, trunk=trunk))

    return System(None, joined, None, sha256=sha256, heads_sha256=heads_sha256)


SYSTEMS = {
    "lpips_vgg": system("vgg", "397923af", "a78928a0"),
    "lpips_alex": system("alex", "7be5be79", "df73285e"),
}


def _read(path: str | Path) -> dict[str, np.ndarray]:
    path = Path(path).expanduser()
    if path.is_file() and path.suffix not in (".safetensors", ".npz"):
        raise UserError(f"{path} has to be converted first: {HOW}")
    return read_arrays(path)


def _module_names(state: Mapping[str, np.ndarray], trunk: Trunk) -> dict[str, np.ndarray]:
    slice_of = {index: k + 1 for k, slice_ in enumerate(trunk.slices) for index in slice_}
    out = {}
    for key, value in state.items():
        match = re.fullmatch(r"features\.(\d+)\.(weight|bias)", key)
        if match and int(match[1]) in slice_of:
            key = f"net.slice{slice_of[int(match[1])]}.{match[1]}.{match[2]}"
        out[key] = value
    return out
