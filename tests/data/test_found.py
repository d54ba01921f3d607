import jax
import pytest
from PIL import Image

from imgen import config
from imgen.data import make_source
from imgen.data.found import look_at
from imgen.errors import UserError
from imgen.parallel.mesh import make_mesh
from imgen.runs.experiment import Experiment
from imgen.runs.from_data import from_data
from imgen.runs.training import check
from tests.data.tiny import Numbers


def write_images(folder, sizes):
    folder.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(folder / f"{number}.png")


def found(path):
    return look_at(make_source("folder", "all", path=str(path)))


@pytest.mark.parametrize(
    "sizes, image_size, crop",
    [
        ([(28, 28)] * 3, 28, "center"),  # which leaves them as they are
        ([(64, 64)] * 3, 64, "center"),
        ([(30, 30)] * 3, 16, "random"),  # no multiple of a patch
        ([(256, 256)] * 3, 64, "random"),
        ([(400, 50), (60, 300), (40, 40)], 32, "random"),
        ([(9, 9), (8, 10)], 16, "random"),
        ([(100, 100)] * 19 + [(8, 8)], 64, "random"),
    ],
)
def test_the_images_say_their_size_and_crop(tmp_path, sizes, image_size, crop):
    write_images(tmp_path, sizes)
    result = found(tmp_path)
    assert (result.image_size, result.crop, result.num_classes) == (image_size, crop, None)


def test_a_source_without_readable_images_says_nothing():
    assert look_at(Numbers(3, bad=(1,), size=32)).image_size == 32
    with pytest.raises(UserError, match="none of its images can be read"):
        look_at(Numbers(2, bad=(0, 1)))


def test_a_config_takes_from_the_data_what_it_leaves_open(tmp_path):
    for name in ("1", "2", "10"):
        write_images(tmp_path / "my pictures" / name, [(40, 50)] * 3)
    path = f"data.source.path={tmp_path / 'my pictures'}"
    experiment = Experiment.build(config.load_config("configs/folder.py", [path]))
    settings = experiment.settings
    assert (settings.data.image_size, settings.data.crop) == (32, "random")
    assert settings.data.class_names == experiment.data.class_names == ("1", "2", "10")
    assert settings.generator.conditioning.to_dict() == {"name": "class", "num_classes": 3}
    assert experiment.model.conditioner.num_classes == 3 and experiment.spec.grid == (8, 8)
    check(experiment, tmp_path / "run", make_mesh(devices=jax.devices()[:1]))
    assert from_data(settings) is settings  # nothing is left open, so nothing is opened
    set_by_user = ["data.image_size=48", "data.crop=center", path]
    settings = Experiment.build(config.load_config("configs/folder.py", set_by_user)).settings
    assert (settings.data.image_size, settings.data.crop) == (48, "center")


def test_images_without_classes_make_an_unconditional_generator(tmp_path):
    write_images(tmp_path, [(32, 32)] * 3)
    path = f"data.source.path={tmp_path}"
    experiment = Experiment.build(config.load_config("configs/folder.py", [path]))
    assert experiment.settings.generator.conditioning.to_dict() == {"name": "none"}
    assert from_data(experiment.settings) is experiment.settings
    assert experiment.settings.data.class_names == () and experiment.data.class_names is None
    check(experiment, tmp_path / "run", make_mesh(devices=jax.devices()[:1]))


def test_a_folder_that_is_not_named_is_asked_for():
    with pytest.raises(UserError, match="--config.data.source.path=FOLDER"):
        Experiment.build(config.load_config("configs/folder.py"))
