"""The data of a run: its sources, what is done to their examples, batches and sets of images."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from imgen.config.types import check_range
from imgen.data import make_source, source_class
from imgen.data.loader import TrainBatches, Transform, eval_batches, train_batches
from imgen.data.source import Source
from imgen.data.teacher import WithTeacher
from imgen.errors import UserError
from imgen.evaluation.images.image_set import ImageSet, of_source, open_images

SPLITS = ("train", "eval")  # of a run's data


class RunData:
    """The images, or stored latents, that a run is trained and measured on; opened when they are asked for.

    The arguments are those of `config.data`. source: {"name": key of SOURCES, ...what both splits share}.
    train, eval: further arguments of each, such as "split"; eval may have "num_examples", how many are
    evaluated, and train "teacher", a file of features (`data.teacher`). image_size: pixels a side.   crop,
    flip: see `data.preprocess`.   class_names: of the data, kept with the run.
    num_workers, max_bad_share: see `data.loader`.

    Raises UserError for what does not fit together.
    """

    def __init__(
        self,
        *,
        source: dict,
        train: dict,
        eval: dict,
        image_size: int,
        crop: str = "random",
        flip: bool = True,
        class_names: tuple[str, ...] | None = None,
        num_workers: int = 0,
        max_bad_share: float = 0.01,
    ):
        self._source, self._parts = source, {"train": train, "eval": eval}
        self.image_size, self._crop, self._flip = image_size, crop, flip
        self._class_names = class_names
        self.reading = dict(num_workers=num_workers, max_bad_share=max_bad_share)
        for where, group, key in (
            ("source", source, "name"), ("train", train, "split"), ("eval", eval, "split")
        ):  # fmt: skip
            if not group.get(key):
                raise UserError(f"config.data.{where} lacks {key!r}")
        check_range("image_size", image_size, 1)
        check_range("num_workers", num_workers, 0)
        check_range("max_bad_share", max_bad_share, 0.0, 1.0)
        self.has_teacher = bool(train.get("teacher"))
        if self.has_teacher and (flip or crop == "random"):
            raise UserError(
                "data.train.teacher holds features of the images as they are stored: set data.flip=False and "
                "data.crop to none or center"
            )
        self.stores_images: bool = source_class(source["name"]).stores_images

    @functools.cached_property
    def train(self) -> Source:
        return self._open("train")

    @functools.cached_property
    def held_out(self) -> Source:
        return self._open("eval")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes' names: those that the run keeps, or else of its data, where that can be opened."""
        if self._class_names is not None:
            return self._class_names or None
        try:
            return self.train.class_names
        except UserError:
            return None

    @property
    def eval_split(self) -> str:
        """The name of the held-out split."""
        return self._parts["eval"]["split"]

    @property
    def data_dir(self) -> str | None:
        """Where TFDS data sets are, if the config says so."""
        return self._source.get("data_dir")

    def limit(self, which: str) -> int:
        """How many examples of a split (of SPLITS) are used: num_examples, or all."""
        source = self._of(which)
        return min(self._parts[which].get("num_examples") or len(source), len(source))

    def split(self, split: str) -> Source:
        """A split of the images, by the source's own name of it, with the options that the run gives it.
        Raises UserError where latents are stored."""
        if not self.stores_images:
            raise UserError("this run was trained on stored codes: name the images with --dataset")
        for which, part in self._parts.items():
            if part["split"] == split:
                return self._of(which)
        return make_source(**self._source, split=split)

    def train_batches(self, start_step: int, batch_size: int, seed: int) -> TrainBatches:
        """This process's batches from a step on, without end."""
        transform = self.train.train_transform(self.image_size, self._crop, self._flip)
        return train_batches(
            self.train, transform, batch_size=batch_size, seed=seed, start_step=start_step,
            **self.reading, **_hosts(),
        )  # fmt: skip

    def eval_batches(
        self, which: str, num: int | None, batch_size: int, num_workers: int | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """This process's batches of the first `num` examples (None: all) of a split of SPLITS."""
        return self.batches_of(self._of(which), num, batch_size, num_workers)

    def batches_of(
        self,
        source: Source,
        num: int | None,
        batch_size: int,
        num_workers: int | None = None,
        transform: Transform | None = None,
    ) -> Iterator[dict[str, np.ndarray]]:
        """As `eval_batches`, of any source, read as the run reads its own. num_workers: by default the run's;
        transform: by default the source's own, without augmentation."""
        reading = dict(self.reading)
        if num_workers is not None:
            reading["num_workers"] = num_workers
        transform = transform or source.eval_transform(self.image_size, self._crop)
        return eval_batches(
            source, transform, batch_size=batch_size, num_examples=num, **reading, **_hosts()
        )

    def images(self, which: str, num: int | None = None) -> ImageSet:
        """The first `num` images (None: `limit`) of a split of SPLITS, or of what `open_images` opens."""
        if which not in SPLITS:
            crop = self.image_size if which.startswith("tfds:") else None
            return open_images(which, num=num, size=crop, data_dir=self.data_dir)
        if not self.stores_images:
            raise UserError(
                "this run was trained on stored codes: name FILE.npz, a folder or tfds:NAME:SPLIT as the "
                "reference"
            )
        num = self.limit(which) if num is None else num
        source = self._of(which)
        transform = source.eval_transform(self.image_size, self._crop)
        return of_source(source, transform, self.image_size, num, **self.reading)

    def _of(self, which: str) -> Source:
        return {"train": lambda: self.train, "eval": lambda: self.held_out}[which]()

    def _open(self, which: str) -> Source:
        part = {k: v for k, v in self._parts[which].items() if k not in ("num_examples", "teacher")}
        source = make_source(**{**self._source, **part})
        teacher = self._parts[which].get("teacher")
        return WithTeacher(source, teacher) if teacher else source


def _hosts() -> dict[str, int]:
    return dict(process_index=jax.process_index(), process_count=jax.process_count())
