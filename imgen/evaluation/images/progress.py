"""Progress of sets of images that take long to read, because they are drawn or go through a network."""

import dataclasses
from collections.abc import Callable

import jax

from imgen.evaluation.images.image_set import Batches, ImageSet
from imgen.report.progress import Progress


def with_progress(images: ImageSet, poll: Callable[[], None] | None = None) -> ImageSet:
    """The same images, with a line or bar of progress while they are read.

    poll: called after each batch, equally often on every process; it may raise to give up.
    """

    def read(batch_size: int) -> Batches:
        progress = Progress(
            images.name, images.num, noun="images", enabled=jax.process_index() == 0
        )
        try:
            for done, batch in enumerate(images.read(batch_size), 1):
                yield batch
                progress.update(min(done * batch_size, images.num))
                if poll:
                    poll()
        finally:
            progress.close()

    return dataclasses.replace(images, read=read)
