"""Images and texts through a frozen CLIP: the unit embeddings of CMMD, CLIPScore and zero-shot heads.

Everything is float32 with float32 products, whatever the device would do by itself. Weights come from
`imgen.interop.clip.load`, the tokenizer from `imgen.conditioning.clip_bpe.load`: the user has both as files.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from imgen.conditioning import clip_bpe
from imgen.conditioning.clip import CLIP, normalised, size_name, to_unit
from imgen.errors import UserError
from imgen.evaluation.clip_images import resize_then_square, square_then_resize
from imgen.evaluation.clip_score import PERCENT, clip_score

CMMD_NETWORK = "clip_l14_336"
Params = dict[str, Any]


def embed_images(model: CLIP, params: Params, images: jax.Array) -> jax.Array:
    """uint8 images [B, S, S, 3] of the network's size -> unit embeddings [B, D]. Pure, to be jitted."""
    with jax.default_matmul_precision("highest"):
        features = model.apply({"params": params}, normalised(images), method="encode_image")
        return to_unit(features)


def embed_texts(model: CLIP, params: Params, ids: jax.Array) -> jax.Array:
    """Ids [B, T] with start and end -> unit embeddings [B, D]. Pure, to be jitted."""
    with jax.default_matmul_precision("highest"):
        return to_unit(model.apply({"params": params}, ids, method="encode_text"))


def network_name(model: CLIP) -> str:
    """As `Protocol.network`: the published size or the image tower's, with "_gelu" if it isn't quick_gelu."""
    image = model.image
    name = size_name(model) or f"clip_w{image.width}_d{image.depth}_p{image.patch}_{image.size}"
    return name if image.activation == "quick_gelu" else f"{name}_{image.activation}"


class Embedder:
    """A CLIP on all devices of this process, which take equal parts of each batch.

    tokenizer: None where no texts are asked for. batch_size: rounded up to a multiple of the devices.
    """

    def __init__(
        self,
        model: CLIP,
        params: Params,
        tokenizer: clip_bpe.Tokenizer | None = None,
        batch_size: int = 64,
    ):
        if tokenizer is not None and len(tokenizer.ids) > model.text.vocab:
            raise UserError(
                f"the vocabulary has {len(tokenizer.ids)} tokens, this CLIP {model.text.vocab}: name the one "
                "that belongs to the weights"
            )
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        self.model, self.tokenizer, self.name = model, tokenizer, network_name(model)
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        self._mesh = mesh
        self._rows = NamedSharding(mesh, PartitionSpec("data"))
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._image_step = jax.jit(functools.partial(embed_images, model))
        self._text_step = jax.jit(functools.partial(embed_texts, model))

    @functools.cached_property
    def hash(self) -> str:
        """The first 8 hex digits of the SHA-256 of the weights, the same from either layout."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self._params):
            digest.update(np.ascontiguousarray(leaf))
        return digest.hexdigest()[:8]

    def images(
        self,
        images: Iterable[np.ndarray],
        prepare: Callable[[np.ndarray, int], np.ndarray] = resize_then_square,
    ) -> np.ndarray:
        """uint8 images [H, W, 3] of any sizes, taken one by one -> unit embeddings, float32 [N, D].

        prepare: of `clip_images`; CMMD's is `square_then_resize`.
        """
        size = self.model.image.size
        return self._run(self._image_step, (prepare(image, size) for image in images))

    def texts(self, texts: Iterable[str], prefix: str = "") -> np.ndarray:
        """Unit embeddings, float32 [N, D], of texts behind a prefix; what is too long is cut."""
        if self.tokenizer is None:
            raise UserError(f"no vocabulary of CLIP is named; {clip_bpe.WHERE}")
        length = self.model.text.length
        ids = self.tokenizer([f"{prefix} {text}" if prefix else text for text in texts], length)
        return self._run(self._text_step, iter(ids))

    def _run(self, step: Callable, rows: Iterator[np.ndarray]) -> np.ndarray:
        found = []
        while batch := list(itertools.islice(rows, self.batch_size)):
            padding = [np.zeros_like(batch[0])] * (self.batch_size - len(batch))
            with jax.set_mesh(self._mesh):
                out = step(self._params, jax.device_put(np.stack(batch + padding), self._rows))
            found.append(np.asarray(out)[: len(batch)])
        return np.concatenate(found) if found else np.zeros((0, self.model.width), np.float32)


def cmmd_embeddings(embedder: Embedder, images: Iterable[np.ndarray]) -> np.ndarray:
    """What `cmmd` compares, float32 [N, D]. It is the published metric where the embedder is CMMD_NETWORK."""
    return embedder.images(images, square_then_resize)


def clip_scores(
    embedder: Embedder,
    images: Iterable[np.ndarray],
    captions: Sequence[str],
    prefix: str = "",
    scale: float = PERCENT,
) -> np.ndarray:
    """CLIPScore of each image with its caption, float64 [N]; see `clip_score` and `score_name`."""
    return clip_score(embedder.images(images), embedder.texts(captions, prefix), scale)
