"""A config is read and built once."""

import jax
import pytest
from ml_collections import FrozenConfigDict

from imgen import config
from imgen.errors import UserError
from imgen.parallel.mesh import make_mesh
from imgen.runs import experiment as room
from imgen.runs.experiment import Experiment
from imgen.runs.training import check, tokenizer_stage


def test_a_tokenizer_is_built_once_before_it_is_trained(monkeypatch, tmp_path):
    """14 times at 30256eb."""
    built = []

    def counted(*args):
        built.append(args)
        return build(*args)

    build = room.build_tokenizer
    monkeypatch.setattr(room, "build_tokenizer", counted)
    experiment = Experiment.build(config.load_config("configs/quickstart.py:smoke"))
    check(experiment, tmp_path, make_mesh(devices=jax.devices()[:1]))
    stage = tokenizer_stage(experiment, tmp_path)
    assert len(built) == 1
    assert stage.task.tokenizer is experiment.tokenizer
    assert experiment.task("generator").generator is experiment.model


def test_nothing_is_opened_before_it_is_used(tmp_path):
    """A run is sampled from where its data and its perceptual loss are not."""
    changes = ["data.source.name=folder", f"data.source.path={tmp_path / 'none'}"]
    settings = config.load_config("configs/quickstart.py:smoke", changes).to_dict()
    settings["train"]["tokenizer"]["lpips_weights"] = "/no/file"
    experiment = Experiment.build(FrozenConfigDict(settings))
    assert experiment.data.stores_images and experiment.model_shapes()
    with pytest.raises(UserError, match="none"):
        experiment.data.train  # noqa: B018
    with pytest.raises(UserError, match="/no/file"):
        experiment.task("tokenizer")


def test_stored_latents_say_so_unopened():
    experiment = Experiment.build(config.load_config("configs/imagenet.py:llamagen_b"))
    assert not experiment.data.stores_images
    with pytest.raises(UserError, match="trained on stored codes"):
        experiment.data.images("eval")
    with pytest.raises(UserError, match="trained on stored codes"):
        experiment.data.split("train")
