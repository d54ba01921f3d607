"""The house: who imports whom, where the config is read, how long files and functions are."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "imgen").rglob("*.py"))
OTHERS = [
    path
    for name in ("configs", "benchmarks", "tests")
    for path in sorted((ROOT / name).rglob("*.py"))
]
# Each room imports from rooms of lower rank, and of its own rank from itself, or where `BESIDE` says so.
RANKS = [
    {"errors"},
    {"config", "diffusion", "latents", "parallel", "params", "report"},  # the ground
    {"nn", "data"},
    {"conditioning", "generators", "tokenizers"},
    {"decoding", "evaluation"},
    {"training"},
    {"interop"},
    {"runs"},
    {"analyze", "convert", "encode", "evaluate", "sample", "train"},  # the commands
]
BESIDE = {("generators", "conditioning"), ("tokenizers", "conditioning")}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> Iterator[str]:
    """Modules of imgen that a module imports when it is imported, packages on the way included."""
    for node in tree(path).body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                if (found := ".".join(parts[:end])) in MODULES:
                    yield found


def room(module: str) -> str:
    return (module.split(".") + [""])[1]


def test_imports_have_no_cycles():
    """A package's __init__ counts: importing any module of it runs it."""
    graph = {name: set(imports(path)) - {name} for name, path in MODULES.items()}
    for name, found in graph.items():  # a package is being imported while its modules are
        parents = [".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 1)]
        found -= set(parents)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]):
        assert name not in path, f"a cycle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_imports_run_one_way():
    rank = {name: number for number, names in enumerate(RANKS) for name in names}
    wrong = []
    for name, path in MODULES.items():
        for other in set(imports(path)):
            ours, theirs = room(name), room(other)
            if not ours or not theirs or ours == theirs or (ours, theirs) in BESIDE:
                continue
            ground = rank[ours] == rank[theirs] == 1
            if not (rank[theirs] < rank[ours] or ground):
                wrong.append(f"{name} imports {other}")
    assert not wrong, "\n".join(sorted(wrong))


def test_only_runs_and_commands_import_interop():
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in set(imports(path))
        if room(other) == "interop" and room(name) not in {"interop", "runs", *RANKS[-1]}
    ]
    assert not wrong, "\n".join(sorted(wrong))


def test_the_root_holds_the_commands_and_nothing_else():
    assert {path.stem for path in (ROOT / "imgen").glob("*.py")} == RANKS[-1] | {
        "__init__",
        "errors",
    }


def test_the_raw_config_is_read_in_runs_only():
    """`settings` is a config's name everywhere; imgen/config makes it and imgen/runs reads it."""
    groups = "seed|mesh|data|tokenizer|init|generator|train"
    reads = re.compile(rf"\bsettings(\.|\[['\"])({groups})\b|\bconfig\.read_config\(")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        if path.relative_to(ROOT).parts[1] not in ("runs", "config", "train.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if reads.search(line)
    ]
    assert not wrong, "\n".join(wrong)


MODELS = r"(model|module|generator|tokenizer|head|conditioner|source|proxy|quantizer|scheme|plan)"


def test_nobody_asks_what_kind_a_model_is():
    """Only the rooms of models and tokenizers may look at their own kinds."""
    asks = re.compile(rf"\b(isinstance|hasattr|getattr)\(\s*[\w.]*{MODELS},")
    own = {"generators", "tokenizers", "conditioning", "interop", "config"}
    wrong = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        if path.relative_to(ROOT).parts[1] not in own
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if asks.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_over_400_lines():
    long = {path: len(path.read_text().splitlines()) for path in [*FILES, *OTHERS]}
    assert not {str(path.relative_to(ROOT)): n for path, n in long.items() if n > 400}


def test_no_function_is_over_60_lines():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1}"
        for path in [*FILES, *sorted((ROOT / "benchmarks").glob("*.py"))]
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= 60
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["imgen"])
def test_no_two_modules_differ_by_an_s(folder):
    names = {path.with_suffix("") for path in (ROOT / folder).rglob("*.py")}
    assert not [p for p in names if p.with_name(p.name + "s") in names]
