"""`pytest tests/parity --goldens DIR`: one test for each golden file found in DIR."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[3] / "shared" / "goldens"


def pytest_addoption(parser):
    parser.addoption("--goldens", default=None, help="folder of golden .npz and .json files")


def golden_files(config) -> list[Path]:
    given = config.getoption("--goldens")
    folder = Path(given) if given else SHARED
    if given and not folder.is_dir():
        raise pytest.UsageError(f"--goldens {given}: no such folder")
    return sorted(p for p in folder.glob("*") if p.suffix in (".npz", ".json"))


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
