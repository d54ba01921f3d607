"""A folder of image files: of classes, without classes, or with captions in a file or beside the images."""

from pathlib import Path

import numpy as np

from imgen.data.fingerprint import hash_files
from imgen.data.image_files import colour, read_header, read_picture
from imgen.data.layout import Images, canonical, open_split, say, warn
from imgen.data.source import BadExample, Source
from imgen.data.tables import decode
from imgen.errors import UserError


class Folder(Source):
    """The data source "folder".

    path: a folder or a captions file. A folder is the first of these that it can be:
        - with a captions file (`captions.TABLES`), which names the images;
        - of splits: all sub-folders that hold images have names of SPLITS; the one asked for is read so;
        - of class folders, in natural order; a class has all images below its folder, however deep;
        - flat: images without classes.
        Where images have a .txt file of the same name beside them, that is their caption.
    split: of a folder of splits "train", "val", "test", or "eval" (val, or else test). Of others, "test" or
        "eval" is every `test_every`-th image, "train" the rest and "all" all of them.
    background: the colour behind transparent parts. encoding: of captions, where `tables.decode` can't tell.
    """

    def __init__(
        self,
        split: str,
        *,
        path: str,
        test_every: int = 20,
        background: str = "white",
        encoding: str | None = None,
    ):
        self._background, self._encoding = colour(background), encoding
        if test_every < 2:
            raise UserError(f"test_every {test_every}: at least 2, or no image is left to train on")
        if not path:
            raise UserError("name the folder of images: --config.data.source.path=FOLDER")
        root = Path(path).expanduser()
        if not root.exists():
            raise UserError(f"there is no image folder {root}")
        images, own_folder = open_split(root, split, encoding)
        self._root, self._rows, self._sidecars = root, images.captions, images.sidecars
        self.files = [str(file) for file in images.files]
        self.captions = images.captions is not None or images.sidecars
        self.class_names = images.class_names
        self.num_classes = len(images.class_names) if images.class_names else None
        self.name = str(own_folder or f"{root}/{split}")
        index = np.arange(len(self.files))
        if own_folder is None and split != "all":
            index = index[(index % test_every == 0) == (canonical(split) != "train")]
        if not len(index):
            raise UserError(f"split {split!r} of {root} has no image")
        self._index = index
        self._labels = np.zeros(len(self.files), np.int32)
        if images.labels is not None:
            self._labels[:] = images.labels
        say(f"{root}: {_described(images)}")

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict:
        row = self._index[index]
        path = self.files[row]
        image, header = read_picture(path, self._background)
        if header.transparent:
            warn(f"{self.name}: transparent parts of its pictures are put on {self._background}")
        example = {"image": image, "label": int(self._labels[row]), "name": path}
        if self.captions:
            example["caption"] = self._sidecar(path) if self._sidecars else self._rows[row]
        return example

    def _sidecar(self, path: str) -> str:
        file = Path(path).with_suffix(".txt")
        try:
            return decode(file.read_bytes(), str(file), self._encoding).strip()
        except OSError as error:
            raise BadExample(str(file), str(error.strerror)) from error

    def image_sizes(self, num: int = 500) -> list[tuple[int, int]]:
        """As `Source.image_sizes`, without decoding."""
        sizes = []
        for at in np.linspace(0, len(self) - 1, min(num, len(self))).astype(int):
            try:
                header = read_header(self.files[self._index[at]])
            except BadExample:
                continue
            sizes.append((header.height, header.width))
        return sizes

    def fingerprint(self) -> str:
        """As `Source.fingerprint`, of the files' names below the root, contents and labels."""
        files = [self.files[row] for row in self._index]
        return hash_files(files, self._root, self._labels[self._index].tobytes())


def _described(images: Images) -> str:
    """Says how many images of which classes there are, with what captions."""
    captions = " with captions" if images.captions is not None or images.sidecars else ""
    found = f"{len(images.files)} images{captions}"
    if images.class_names is None:
        return f"{found}, no classes"
    classes = [f"{i}: {name}" for i, name in enumerate(images.class_names)]
    shown = ", ".join([*classes[:20], "..."] if len(classes) > 20 else classes)
    empty = len(classes) - len(set(images.labels))
    lacking = f" ({empty} of them without an image)" if empty else ""
    return f"{found}, {len(classes)} classes{lacking}: {shown}"
