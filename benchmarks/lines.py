"""Counts lines of code, of each room and in all: `python -m benchmarks.lines [FOLDER] [--files N]`.

A line counts if a token of code stands on it or goes over it: blank lines, comments and docstrings do not,
all other strings do. Packing lines gains nothing that a reader would not pay for; deleting does.
"""

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_lines(source: str) -> set[int]:
    """Returns the numbers, from 1, of the lines that hold code."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    spans = ((t.start[0], t.end[0]) for t in tokens if t.type not in LAYOUT)
    lines = {line for first, last in spans for line in range(first, last + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            lines -= set(range(text.lineno, text.end_lineno + 1))
    return lines


def by_file(folder: Path) -> Counter[Path]:
    """Returns the lines of code of each Python file below the folder, by its path within it."""
    files = sorted(folder.rglob("*.py"))
    return Counter({p.relative_to(folder): len(code_lines(p.read_text("utf-8"))) for p in files})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.lines", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("imgen"))
    parser.add_argument("--files", type=int, default=0, metavar="N", help="the N longest as well")
    args = parser.parse_args(argv)
    found, rooms = by_file(args.folder), Counter()
    for path, lines in found.items():
        rooms[path.parts[0] if len(path.parts) > 1 else "."] += lines
    for room, lines in rooms.most_common():
        print(f"{lines:7,}  {room}")
    print(f"{found.total():7,}  in all")
    for path, lines in found.most_common(args.files):
        print(f"{lines:7,}  {path}")


if __name__ == "__main__":
    main()
