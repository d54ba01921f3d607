"""The count of lines: what is code, and the sums of the rooms."""

from benchmarks import lines

SOURCE = '''"""A module's docstring,
of two lines."""

import os  # counts once


# a comment alone
def f(x):
    """Says what it does."""
    text = """not a docstring,

    with a blank line: three of code"""
    "nor is a second string"
    return [
        x,  # one
        # none
        text,
    ]


class C:
    """One."""

    def g(self):
        """Nothing else."""
'''


def test_blank_lines_comments_and_docstrings_are_no_code():
    code = lines.code_lines(SOURCE)
    # import, def, three of the string, the string alone, return [ x text ], class, def
    assert len(code) == 1 + 1 + 3 + 1 + 4 + 1 + 1
    assert lines.code_lines("") == lines.code_lines("# only this\n\n") == set()


def test_rooms_are_summed(tmp_path, capsys):
    for name, count in (("train.py", 2), ("nn/a.py", 3), ("nn/deep/b.py", 4), ("data/c.py", 1)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Doc."""\n\n' + "x = 1\n" * count)
    lines.main([str(tmp_path), "--files", "1"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert printed == [
        ["7", "nn"], ["2", "."], ["1", "data"], ["10", "in", "all"], ["4", "nn/deep/b.py"],
    ]  # fmt: skip
