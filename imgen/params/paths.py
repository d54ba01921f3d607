"""Parameter paths ("blocks/attn/q/kernel") and ordered lists of (regex, rule) over them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax

from imgen.errors import UserError

Rule = TypeVar("Rule")


def path_of(key_path) -> str:
    """jax's key path -> "a/b/0/c"."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def flatten(tree: Any) -> dict[str, Any]:
    """Leaves by path, in the tree's order."""
    return {path_of(p): leaf for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """{"a/b/c": leaf} -> nested dict."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


def first_match(path: str, rules: Sequence[tuple[str, Rule]], what: str) -> Rule:
    """The rule of the first pattern found in `path` (re.search; anchor with ^ and $ where needed).

    Raises UserError naming the path when nothing matches: rules must cover every leaf, so that a
    renamed parameter is noticed.
    """
    for pattern, rule in rules:
        if re.search(pattern, path):
            return rule
    raise UserError(f"no {what} rule matches {path!r}; add one (patterns are tried in order)")
