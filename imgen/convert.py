"""Published weights -> our parameters: `python -m imgen.convert --system S --checkpoint FILE --out DIR`.

Writes DIR/S.safetensors, whose keys are our parameter paths. FILE is the published one; its SHA-256 is
checked where we know it (--expect_sha256 PREFIX names another, --any_weights checks nothing). Reading .pth,
.pt, .ckpt and .bin takes torch (`pip install 'imgen[convert]'`), whose weights-only loader runs no code of
the file; a .safetensors or .npz file with the official keys does without. --back turns S.safetensors into
DIR/S_official.safetensors. CLIP of any size keeps Hugging Face's keys, whose own .safetensors need no
conversion. LPIPS is published in two files, torchvision's trunk and its own heads, which become one:

    python -m imgen.convert --system lpips_vgg --checkpoint vgg16-397923af.pth --heads vgg.pth --out DIR

With --config, its recipe, a tokenizer becomes a run in DIR instead, which every command takes:

    python -m imgen.convert --system llamagen_vq16 --checkpoint vq_ds16_c2i.pt --config configs/vq.py:vq16 \
        --out VQ16_RUN
    python -m imgen.evaluate --workdir VQ16_RUN
    python -m imgen.train ... --config.init.tokenizer=VQ16_RUN
"""

import argparse
import hashlib
import logging
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgen import config
from imgen.errors import UserError, did_you_mean
from imgen.interop import clip, inception, lpips, tokenizers
from imgen.interop.files import read_arrays
from imgen.interop.system import System
from imgen.params import files as weights
from imgen.params import paths
from imgen.runs import cli
from imgen.runs.experiment import Experiment
from imgen.runs.run import write_tokenizer_run

log = logging.getLogger("imgen.convert")
TORCH_FILES = (".pth", ".pt", ".ckpt", ".bin")
SYSTEMS: dict[str, System] = {
    "inception": inception.SYSTEM,
    "clip": clip.SYSTEM,
    **lpips.SYSTEMS,
    **tokenizers.SYSTEMS,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = _parser()
    args, overrides = parser.parse_with_overrides(argv)
    _check_flags(parser, args, overrides)
    experiment = None
    if args.config:
        experiment = Experiment.build(config.load_config(args.config, overrides))
        if "tokenizer" not in experiment.stages:
            raise UserError("--config must be a tokenizer's recipe, with config.train.tokenizer")
    for flag, file in (("checkpoint", args.checkpoint), ("heads", args.heads)):
        if file and not Path(file).is_file():
            raise UserError(f"--{flag} {file}: no such file")
    out = cli.make_workdir(args.out, "--out")
    if args.back:
        return _write_official(args, out)
    if experiment is None:
        params, about = _convert(args, SYSTEMS[args.system])
        return _write(out / f"{args.system}.safetensors", paths.flatten(params), about)
    if (out / "config.json").exists():
        raise UserError(f"{out} holds a run already: choose another --out")
    params, about = _convert(args, tokenizers.of_size(args.system, experiment.tokenizer))
    write_tokenizer_run(out, experiment.settings, params, about)
    log.info("%s is a run of %s now", out, args.config)


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="imgen.convert", description=__doc__.splitlines()[0])
    parser.add_argument("--system", required=True, help=f"one of {', '.join(SYSTEMS)}")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="published weights")
    parser.add_argument(
        "--heads",
        metavar="FILE",
        help=f"of {', '.join(lpips.SYSTEMS)}: the heads, vgg.pth or alex.pth",
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    check = parser.add_mutually_exclusive_group()
    check.add_argument(
        "--expect_sha256",
        metavar="PREFIX",
        help="how the SHA-256 of FILE begins (8 digits or more)",
    )
    check.add_argument("--any_weights", action="store_true", help="take a FILE of any SHA-256")
    check.add_argument(
        "--back", action="store_true", help="FILE is ours; write the official layout"
    )
    parser.add_argument(
        "--config", metavar="FILE.py[:ARG]",
        help="of a tokenizer: DIR becomes a run of this config (--config.key=value changes it)",
    )  # fmt: skip
    return parser


def _check_flags(parser: cli.Parser, args: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Ends with a complaint about flags that do not go together."""
    if args.system not in SYSTEMS:
        hint = did_you_mean(args.system, list(SYSTEMS))
        parser.error(f"--system {args.system!r} is none of {', '.join(SYSTEMS)} {hint}")
    if overrides and not args.config:
        parser.error(f"{overrides[0]} goes with --config")
    if args.config and (args.back or args.system not in tokenizers.LAYOUTS):
        parser.error(f"--config goes with a tokenizer's weights: {', '.join(tokenizers.LAYOUTS)}")
    if args.heads and not SYSTEMS[args.system].heads_sha256:
        parser.error(f"--heads goes with {', '.join(lpips.SYSTEMS)}")
    if args.back and SYSTEMS[args.system].like is None:
        parser.error(f"--back: {args.system}.safetensors has a published layout as it is")


def _about(args: argparse.Namespace) -> dict[str, str]:
    """Where weights are from, as files of them say."""
    file = Path(args.checkpoint)
    return {"system": args.system, "source": file.name, "source_sha256": sha256(file)}


def _write_official(args: argparse.Namespace, out: Path) -> None:
    """Writes weights of ours in the published layout."""
    system, file = SYSTEMS[args.system], Path(args.checkpoint)
    arrays = system.to_official(weights.read(file, system.like(), args.system)[0])
    _write(out / f"{args.system}_official.safetensors", arrays, _about(args))


def _convert(args: argparse.Namespace, system: System) -> tuple[Any, dict[str, str]]:
    """Reads published weights, whose hash is checked: our parameters, and where they are from."""
    file, about = Path(args.checkpoint), _about(args)
    check_hash(file, about["source_sha256"], system.sha256, args.expect_sha256, args.any_weights)
    state = read_state(file, system)
    if args.heads:
        heads = Path(args.heads)
        about |= {"heads": heads.name, "heads_sha256": sha256(heads)}
        check_hash(heads, about["heads_sha256"], system.heads_sha256, None, args.any_weights)
        state = {**state, **read_state(heads, system)}
    return system.to_ours(state), about


def _write(target: Path, arrays: Mapping[str, np.ndarray], about: dict[str, str]) -> None:
    weights.write(target, arrays, about)
    log.info("wrote %s (%d tensors)", target, len(arrays))


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_hash(
    file: Path, found: str, published: str, expected: str | None, any_weights: bool
) -> None:
    """Raises UserError where `found`, the SHA-256 of the file, doesn't begin as `expected` or, if that is
    None, as the published one's; "" where that isn't known."""
    if expected is not None:
        expected = expected.lower()
        if len(expected) < 8 or not set(expected) <= set("0123456789abcdef"):
            raise UserError(
                f"--expect_sha256 {expected!r}: give the first 8 or more hexadecimal digits"
            )
    elif any_weights or not published:
        return
    elif file.suffix not in TORCH_FILES:
        log.info(
            "%s is not the file that was published, so its hash cannot be checked (it is %s)",
            file,
            found,
        )
        return
    expected = expected or published
    if not found.startswith(expected):
        raise UserError(
            f"{file} has the SHA-256 {found[:16]}..., not {expected}...: fetch it again; or, if these are "
            "the weights that you mean, pass --any_weights"
        )


def read_state(file: Path, system: System) -> Mapping[str, np.ndarray]:
    """The official state dict in a file, as numpy arrays."""
    if file.suffix not in TORCH_FILES:
        if file.suffix not in (".safetensors", ".npz"):
            known = ", ".join((*TORCH_FILES, ".safetensors", ".npz"))
            raise UserError(f"{file}: weights are read from {known} files")
        return read_arrays(file)
    if _is_torchscript(file):
        raise UserError(
            f"{file} is TorchScript, a program with weights in it, and is not opened: take its state dict, "
            f"saved by itself{system.where and f', or {system.where}'}"
        )
    state: Any = read_torch(file)
    if system.inside and isinstance(state, Mapping) and system.inside in state:
        state = state[system.inside]
    if not isinstance(state, Mapping):
        raise UserError(f"{file} holds a {type(state).__name__}, not a state dict")
    tensors = {key: value for key, value in state.items() if hasattr(value, "detach")}
    if len(tensors) < len(state):
        odd = min(str(key) for key in state if key not in tensors)
        raise UserError(f"{file}: {odd} is not a tensor; is it a state dict of this system?")
    return {key: _array(value) for key, value in tensors.items()}


def _is_torchscript(file: Path) -> bool:
    """torch.jit's archives hold their constants beside the data."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torch(file: Path) -> Any:
    """What torch's weights-only loader finds in a file, which it does not let run code."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{file}: reading it takes torch: pip install 'imgen[convert]', or save its tensors as "
            ".safetensors where torch is at hand"
        ) from error
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, by what is wrong with the file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} cannot be read as weights of torch: {reason}") from error


def _array(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()


if __name__ == "__main__":
    sys.exit(cli.run(main))
