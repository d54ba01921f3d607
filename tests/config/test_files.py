import pytest

from imgen import config, train
from imgen.errors import NonFiniteLoss, UserError
from imgen.runs import cli
from imgen.training.signals import Interrupted

FILE = """
ARGS = ("smoke", "large")

def get_config(arg=None):
    return {
        "seed": 0,
        "tokenizer": {"width": 32, "grid": (4, 4), "scale": 1.0, "name": "vq", "norm": False},
        "data": {"name": "shapes", "num_workers": 0},
        "train": {"steps": 10 if arg == "smoke" else 100, "clip_norm": 1.0, "weights": None},
    }
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "quickstart.py"
    path.write_text(FILE)
    return str(path)


def test_overrides_keep_types(file):
    loaded = config.load_config(
        f"{file}:smoke",
        [
            "--config.tokenizer.grid=(8, 8)",
            "--config.tokenizer.scale=2",
            "tokenizer.norm=true",
            "train.clip_norm=None",
            "train.weights=/some/file.npz",
        ],
    )
    assert loaded.tokenizer.grid == (8, 8)
    assert loaded.tokenizer.scale == 2.0 and isinstance(loaded.tokenizer.scale, float)
    assert loaded.tokenizer.norm is True
    assert loaded.train.clip_norm is None and loaded.train.weights == "/some/file.npz"
    assert loaded.train.steps == 10
    with pytest.raises(AttributeError):
        loaded.seed = 1


def test_another_tokenizer_begins_with_its_own_defaults(file):
    changes = ["tokenizer.levels=(8, 8)", "tokenizer.name=fsq", "tokenizer.causal=true"]
    found = config.load_config(file, changes).tokenizer.to_dict()
    assert found == {"name": "fsq", "levels": (8, 8), "causal": True}
    part = config.load_config(file, ["tokenizer.repa.features=8"]).tokenizer.repa
    assert part.to_dict() == {"features": 8}
    same = config.load_config(file, ["tokenizer.name=vq"]).tokenizer
    assert same == config.load_config(file).tokenizer


NAMED = """
def get_config():
    return {
        "data": {
            "source": {"name": "shapes", "size": 32},
            "train": {"split": "train", "num": 64}, "eval": {"split": "test", "num_examples": 8},
            "crop": "none",
        },
        "tokenizer": {"name": "vq"},
        "generator": {"conditioning": {"name": "class", "num_classes": 48}, "plan": "raster"},
        "train": {"generator": {"optimizer": {"learning_rate": 1e-3}}},
    }
"""


def test_a_named_group_is_switched_and_filled_on_the_command_line(tmp_path):
    """Whatever the order; what belongs to the old name goes, what is of any name stays."""
    (tmp_path / "named.py").write_text(NAMED)
    changes = [
        "--config.data.source.path=/my pictures/[2024]", "--config.data.source.name=folder",
        "--config.data.eval.split=val", "--config.data.train.extra=1",
        "--config.generator.conditioning.name=text", "--config.generator.conditioning.features=64",
    ]  # fmt: skip
    found = config.load_config(str(tmp_path / "named.py"), changes).to_dict()
    assert found["data"] == {
        "source": {"name": "folder", "path": "/my pictures/[2024]"},
        "train": {"split": "train", "extra": 1},
        "eval": {"split": "val", "num_examples": 8},
        "crop": "none",
    }
    assert found["generator"]["conditioning"] == {"name": "text", "features": 64}
    same = config.load_config(str(tmp_path / "named.py"), ["data.source.name=shapes"])
    assert same == config.load_config(str(tmp_path / "named.py"))


def test_groups_of_options_take_keys_that_are_not_there(tmp_path):
    (tmp_path / "named.py").write_text(NAMED)
    changes = ["train.generator.optimizer.name=lion", "train.generator.sampling.steps=8"]
    changes += ["generator.plan_options.side=2"]
    found = config.load_config(str(tmp_path / "named.py"), changes).to_dict()
    assert found["train"]["generator"] == {
        "optimizer": {"learning_rate": 1e-3, "name": "lion"},  # which is no other rate
        "sampling": {"steps": 8},
    }
    assert found["generator"]["plan_options"] == {"side": 2}
    with pytest.raises(UserError, match="no key 'generator.plans'"):
        config.load_config(str(tmp_path / "named.py"), ["generator.plans=raster"])


def test_what_json_has_not_is_converted(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import pathlib, numpy as np, jax.numpy as jnp\n"
        "def get_config():\n"
        "    return dict(a=np.float32(0.5), b=np.int64(3), c=pathlib.Path('/x y'), d=jnp.bfloat16,\n"
        "        e=np.dtype('float32'), f=np.arange(3), g=[1, [np.bool_(True)]], h=dict(i={2}))\n"
    )
    found = config.load_config(str(tmp_path / "mine.py"))
    assert found.to_dict() == {
        "a": 0.5, "b": 3, "c": "/x y", "d": "bfloat16", "e": "float32", "f": (0, 1, 2),
        "g": (1, (True,)), "h": {"i": (2,)},
    }  # fmt: skip
    assert config.from_json(config.to_json(found)) == found


def test_json_keeps_tuples(file):
    loaded = config.load_config(file)
    again = config.from_json(config.to_json(loaded))
    assert again.to_dict() == loaded.to_dict()
    assert again.tokenizer.grid == (4, 4)


@pytest.mark.parametrize(
    "argument, override, message",
    [
        ("", "train.stepz=3", "no key 'train.stepz'; did you mean 'train.steps'"),
        ("", "width.more=3", "no key 'width.more'"),
        ("", "seed.more=3", "no key 'seed.more'"),
        ("", "tokenizer.width=wide", "tokenizer.width=wide: a whole number is needed"),
        ("", "tokenizer.width=1.5", "a whole number is needed"),
        ("", "tokenizer.grid=4", "a tuple such as"),
        ("", "tokenizer.norm=1", "true or false is needed"),
        ("", "tokenizer=3", "'tokenizer' is a group; set one of its keys: grid, name"),
        ("", "tokenizer.width", "has no value"),
        (":smok", "", "no argument 'smok'; it takes smoke, large"),
    ],
)
def test_mistyped_values(file, argument, override, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        config.load_config(file + argument, [f"--config.{override}"] if override else [])


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("quickstat.py", None, "no config file .*did you mean 'quickstart'"),
        ("none.py", "x = 1", "has no get_config"),
        ("broken.py", "def get_config(:", "broken.py line 1"),
        ("text.txt", "x = 1", "not a Python file"),
        ("odd.py", "def get_config():\n  return {'a': {'b': print}}", "config.a.b is a builtin"),
        ("odd.py", "def get_config():\n  return {'a': {1: 2}}", "config.a: the key 1 is not text"),
        ("odd.py", "def get_config():\n  return None", "returns NoneType, not a ConfigDict"),
        ("odd.py", "\nimport no_such_module", "odd.py line 2: ModuleNotFoundError: .*no_such"),
        ("odd.py", "def get_config():\n\n  return 1 / 0", "odd.py line 3: ZeroDivisionError"),
    ],
)
def test_mistaken_files(file, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        config.load_config(str(tmp_path / name))


def test_resume_refuses_another_model_and_lists_what_changes(file):
    old = config.load_config(file)
    new = config.override(old, ["train.steps=200", "data.num_workers=2"])
    assert config.check_resume(old, new, "run") == [
        "data.num_workers: 0 -> 2",
        "train.steps: 100 -> 200",
    ]
    for change in ("tokenizer.width=64", "data.name=cifar10", "seed=1"):
        with pytest.raises(UserError, match=f"run was trained with {change.split('=')[0]}="):
            config.check_resume(old, config.override(old, [change]), "run")


@pytest.mark.parametrize(
    "error, status, text",
    [
        (None, 0, ""),
        (UserError("wrong\n  grid"), 2, "imgen: error: wrong grid\n"),
        (NonFiniteLoss("step 3"), 3, "imgen: error: step 3\n"),
        (Interrupted(15, "stopped"), 143, "imgen: stopped\n"),
        (KeyboardInterrupt(), 130, "imgen: interrupted\n"),
    ],
)
def test_exit_statuses(capsys, error, status, text):
    def main():
        if error:
            raise error

    assert cli.run(main) == status
    assert capsys.readouterr().err == text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "arguments are required: --workdir"),
        (["--workdir", "{tmp}/run"], "--config is needed"),
        (["--workdir", "{tmp}/run", "--confg", "x.py"], "unknown argument '--confg'"),
        (["--workdir", "{tmp}/run", "--config", "no.py"], "no config file no.py"),
        (["--workdir", "{tmp}/quickstart.py/run", "--config", "no.py"], "cannot write to folder"),
        (["--workdir", "{tmp}/run", "--distributed", "here"], "is not HOST:PORT,PROCESSES,ID"),
    ],
)
def test_train_command_complains_in_one_line(file, tmp_path, capsys, arguments, message):
    arguments = [a.format(tmp=tmp_path) for a in arguments]
    assert cli.run(lambda: train.main(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("imgen: error: ") and message in lines[0]
