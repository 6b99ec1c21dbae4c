"""Typed edits of a program: one constant at a time, and what an edit may not be.

The built-in proposer knows no language; it knows the dials that the program keeps as constants at
the top of its file, and which values each may have. An edit changes the text of one assignment and
nothing else, which is checked on the syntax tree.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowbit.core.errors import UserError, nearest

Value = float | int | str | bool
PRIORITIES = {
    1: "quantisation schedule",
    2: "learning rate",
    3: "quantisation details",
    4: "dead zone",
    5: "distillation",
}


@dataclass(frozen=True)
class Dial:
    """A constant, its priority in the program, and what it may be.

    `only`: another constant and those of its values with which this one does anything.
    """

    name: str
    priority: int
    values: tuple[Value, ...]
    only: tuple[str, tuple[Value, ...]] | None = None

    def works(self, now: Mapping[str, Any]) -> bool:
        """Whether a program with these constants heeds it."""
        if self.name not in now:
            return False
        return self.only is None or now.get(self.only[0], self.only[1][0]) in self.only[1]


SHAPES = ("linear", "cosine", "exponential", "sigmoid", "two-phase", "none")
DIALS = (
    Dial("WARMUP_SHAPE", 1, SHAPES),
    Dial("WARMUP_SHARE", 1, (0.1, 0.25, 0.5, 0.75, 0.9), ("WARMUP_SHAPE", SHAPES[:-1])),
    Dial("WARMUP_KNEE", 1, (0.5, 0.8, 0.95), ("WARMUP_SHAPE", ("two-phase",))),
    Dial("LR", 2, (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3)),
    Dial("LR_SCHEDULE", 2, ("constant", "linear", "cosine")),
    Dial("LR_WARMUP", 2, (0.0, 0.05, 0.1)),
    Dial("GROUP", 3, (32, 64, 128, 256, 0)),
    Dial("SCALE", 3, ("absmean", "absmax", "lsq", "learned")),
    Dial("THRESHOLD", 3, (0.3, 0.4, 0.5, 0.6, 0.7)),
    Dial("REACTIVATION", 4, (0.0, 0.01, 0.1)),
    Dial("BIAS", 4, (False, True)),
    Dial("DEAD_GRADIENT", 4, (0.5, 1.0, 2.0)),
    Dial("OFF_WEIGHT", 5, (0.0, 0.1, 1.0)),
    Dial("LOGITS_WEIGHT", 5, (0.0, 0.3, 1.0)),
    Dial("FEATURES_WEIGHT", 5, (0.0, 0.1, 1.0)),
)


def constants(text: str) -> dict[str, Any]:
    """Every literal that is assigned to a name at the top level."""
    values = {}
    for node in _parsed(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                continue
    return values


def constants_of_any(text: str) -> dict[str, Any]:
    """The same of a text that may be anything: none where it does not parse."""
    try:
        return constants(text)
    except (UserError, RecursionError, MemoryError):
        return {}


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"the program does not parse: {error}") from None


def change(text: str, name: str, value: Value) -> str:
    """The same text with one constant changed; comments and all else stay."""
    tree = _parsed(text)
    places = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == name
    ]
    if len(places) != 1:
        names = constants(text)
        raise UserError(f"the program has no one constant '{name}'.{nearest(name, names)}")
    (place,) = places
    lines = text.splitlines(keepends=True)
    if place.lineno != place.end_lineno:
        raise UserError(f"'{name}' is written over several lines: edit it by hand")
    line = lines[place.lineno - 1].encode()
    assert place.end_col_offset is not None
    edited = line[: place.col_offset] + repr(value).encode() + line[place.end_col_offset :]
    lines[place.lineno - 1] = edited.decode()
    changed = "".join(lines)
    if {**constants(text), name: value} != constants(changed):
        raise UserError(f"changing '{name}' changed something else")
    return changed


def neighbours(text: str, dials: Sequence[Dial] = DIALS) -> list[tuple[str, Value]]:
    """Every single change that the dials know from here, and that the program would heed."""
    now = constants(text)
    return [
        (dial.name, value)
        for dial in dials
        if dial.works(now)
        for value in dial.values
        if value != now[dial.name] or type(value) is not type(now[dial.name])
    ]


def untried(text: str, tried: Sequence[Mapping[str, Any]] = ()) -> list[tuple[str, Value]]:
    """Every single change whose outcome has not been tried yet."""
    now = constants(text)
    return [
        (name, value) for name, value in neighbours(text) if {**now, name: value} not in list(tried)
    ]


def random_edit(
    text: str,
    source: random.Random,
    tried: Sequence[Mapping[str, Any]] = (),
    excluded: Collection[tuple[str, Any]] = (),
) -> tuple[str, Value] | None:
    """One change at random whose outcome has not been tried yet; None where all have been.

    `excluded`: (dial, value) pairs that must not be proposed.
    """
    fresh = [edit for edit in untried(text, tried) if edit not in excluded]
    return source.choice(fresh) if fresh else None


SEEDING = {"manual_seed", "manual_seed_all", "seed", "default_rng", "Random", "RandomState"}


def nothing_but_a_seed(before: str, after: str) -> bool:
    """Whether two programs differ in the numbers that randomness starts from, and only there."""
    old, new = _parsed(before), _parsed(after)
    if ast.dump(old) == ast.dump(new):
        return True
    return _seedless(old) == _seedless(new)


def _seedless(tree: ast.Module) -> str:
    return ast.dump(_Seedless().visit(tree))


class _Seedless(ast.NodeTransformer):
    """What only seeds, or imports, is no statement; a seed within one is put to one number."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if all(map(_of_a_seed, node.targets)) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if _of_a_seed(node.target) else self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        return None if _of_a_seed(node.target) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _seeds(node.value) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _seeds(node):
            node.args, node.keywords = [ast.Constant(0)], []
            return node
        return self.generic_visit(node)


def _of_a_seed(target: ast.AST) -> bool:
    """Whether what is assigned to is called a seed: SEED, prepare.SEED, TRIAL["seed"]."""
    if isinstance(target, ast.Subscript):
        key = target.slice
        return isinstance(key, ast.Constant) and "SEED" in str(key.value).upper()
    name = str(getattr(target, "attr", "") or getattr(target, "id", ""))
    return "SEED" in name.upper()


def _seeds(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in SEEDING
