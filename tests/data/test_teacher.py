import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from imgen import train
from imgen.config import load_config
from imgen.data import make_source
from imgen.data.loader import train_batches
from imgen.data.preprocess import TrainImages
from imgen.data.teacher import WithTeacher
from imgen.errors import UserError
from imgen.parallel.mesh import make_mesh
from imgen.runs import cli
from imgen.runs.experiment import Experiment
from imgen.runs.training import check


def test_each_image_comes_with_its_own_features(tmp_path):
    features = np.arange(8, dtype=np.float16)[:, None, None] * np.ones((1, 2, 3), np.float16)
    np.save(tmp_path / "features.npy", features)
    shapes = make_source("shapes", "train", size=32, num=8)
    source = WithTeacher(shapes, tmp_path / "features.npy")
    transform = TrainImages(32, crop="none", flip=False)
    batches = train_batches(source, transform, batch_size=8, seed=0, num_workers=1)
    batch = next(batches)
    batches.close()
    assert batch["teacher"].shape == (8, 2, 3) and batch["teacher"].dtype == np.float32
    for image, teacher in zip(batch["image"], batch["teacher"], strict=True):
        np.testing.assert_array_equal(image, shapes[int(teacher[0, 0])]["image"])

    np.save(tmp_path / "short.npy", features[:5])
    with pytest.raises(UserError, match=r"must be \(8, M, F\)"):
        WithTeacher(shapes, tmp_path / "short.npy")
    np.save(tmp_path / "text.npy", np.full((8, 2, 3), "x"))
    np.savez(tmp_path / "several.npz", features)
    for name in ("text.npy", "several.npz"):
        with pytest.raises(UserError, match="is no array of floats"):
            WithTeacher(shapes, tmp_path / name)
    with pytest.raises(UserError, match="cannot read teacher features"):
        WithTeacher(shapes, tmp_path / "none.npy")


def test_features_and_augmentation_are_refused_together(tmp_path, capsys):
    argv = ["--config", "configs/small_tokenizers.py:vq,smoke", "--workdir", str(tmp_path)]
    assert cli.run(lambda: train.main([*argv, "--config.data.train.teacher=x.npy"])) == 2
    assert "data.flip=False" in capsys.readouterr().err


@pytest.mark.parametrize(
    "config, line",
    [
        ("small_tokenizers.py:flextok,smoke", "this tokenizer predicts no features"),
        ("quickstart.py:smoke", "for the training of a tokenizer"),
    ],
)
def test_features_that_nothing_would_learn_are_refused_before_training(config, line, tmp_path):
    np.save(tmp_path / "features.npy", np.zeros((64, 2, 3), np.float32))
    settings = load_config(f"configs/{config}").to_dict()
    settings["data"].update(flip=False, crop="none")
    settings["data"]["train"]["teacher"] = f"{tmp_path / 'features.npy'}"
    if config.startswith("quickstart"):
        del settings["train"]["tokenizer"]
    else:
        settings["tokenizer"]["vae"], settings["init"] = None, {}
    with pytest.raises(UserError, match=line):
        experiment = Experiment.build(ConfigDict(settings))
        check(experiment, tmp_path / "run", make_mesh(devices=jax.devices()[:1]))
