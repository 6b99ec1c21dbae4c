"""Names: participles are none, and one word means one thing.

`found`, `made`, `known` say that something was done, not what there is. A name says what it holds:
`scores`, `records`, `forecast`. A test counts every place where such a name is bound.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import lowbit

ROOT = Path(lowbit.__file__).parent
PARTICIPLES = {"found", "made", "known", "asked", "said", "wanted", "told", "seen"}
MOST_BINDINGS = 60


def bindings(tree: ast.AST) -> Iterator[str]:
    """Every name that a module binds: variables, parameters, fields, functions, classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.alias) and node.asname:
            yield node.asname


def participles() -> Counter[str]:
    """How often each file binds one, also behind underscores and in capitals."""
    return Counter(
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for name in bindings(ast.parse(path.read_text(encoding="utf-8")))
        if name.strip("_").lower() in PARTICIPLES
    )


def test_participles_are_no_names() -> None:
    counted = participles()
    assert counted.total() < MOST_BINDINGS, counted.most_common()


def definitions(kind: type[ast.AST]) -> Counter[str]:
    """How many modules define each class or function, at their top level. A verb's file in `cli`
    has a function of the verb's name, which calls the API's function of that name."""
    return Counter(
        node.name
        for path in ROOT.rglob("*.py")
        if path.parent != ROOT / "cli"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, kind)
    )


def test_a_class_name_belongs_to_one_class() -> None:
    counted = definitions(ast.ClassDef)
    assert [name for name, count in counted.items() if count > 1] == []


def test_one_function_is_called_measure() -> None:
    assert definitions(ast.FunctionDef)["measure"] == 1
