"""Your own pictures: a tokenizer, then a generator, on a folder.

    python -m imgen.train --config configs/folder.py --config.data.source.path="/my pictures" --workdir RUN

The folder holds class folders, a folder for each split, a captions file, or just images, for which the
generator is unconditional (`imgen.data.folder.Folder`). Number of classes, image size (up to 64) and crop are
found from the images and said; each can be set, e.g. --config.data.image_size=128 with
--config.tokenizer.patch=8. What looks the same in a mirror may be mirrored: --config.data.flip=True.
Every 20th image is held out where there is no folder of its own for that. `:smoke` takes the same path in
seconds.
"""

from ml_collections import ConfigDict

from configs import cifar10

ARGS = ("smoke",)


def get_config(arg: str | None = None) -> ConfigDict:
    config = cifar10.get_config(arg)  # models and training are CIFAR-10's
    config.data = dict(
        source=dict(name="folder", path="", test_every=20, background="white", encoding=None),
        train=dict(split="train"),
        eval=dict(split="eval", num_examples=2000),
        image_size=None, crop=None, class_names=None,  # as the images say
        flip=False,
        num_workers=0, max_bad_share=0.1,  # one broken file of a dozen is left out
    )  # fmt: skip
    config.generator.conditioning = dict(name=None, num_classes=None)  # as the images say
    del config.train.generator["guidance"]
    return config
