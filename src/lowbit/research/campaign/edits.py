"""Typed edits: change one constant of a program, and detect edits that change only a seed.

The built-in proposers do not rewrite code. They change dials: constants at the top of train.py,
each with a list of allowed values. An edit replaces the value in one assignment; the parsed
constants are compared afterwards to prove that nothing else changed. The price is that such a
proposer can only reach programs that these dials describe.
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
    """A constant that an edit may change, its priority in program.md and its allowed values.

    `requires`: another constant, and the values of it for which this dial has an effect.
    """

    name: str
    priority: int
    values: tuple[Value, ...]
    requires: tuple[str, tuple[Value, ...]] | None = None

    def has_effect(self, current: Mapping[str, Any]) -> bool:
        """Whether this dial changes a program that has the `current` constants."""
        if self.name not in current:
            return False
        if self.requires is None:
            return True
        name, values = self.requires
        return current.get(name, values[0]) in values


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
    """Name and value of every literal that the program assigns at its top level."""
    values = {}
    for node in _parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, RecursionError, MemoryError):
                continue
    return values


def constants_if_valid(text: str) -> dict[str, Any]:
    """Like `constants`, but empty for a text that does not parse."""
    try:
        return constants(text)
    except (UserError, RecursionError, MemoryError):
        return {}


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"the program does not parse: {error}") from None


def change(text: str, name: str, value: Value) -> str:
    """The same text with a new value for one constant; comments and layout do not change."""
    tree = _parse(text)
    values = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == name
    ]
    if len(values) != 1:
        names = constants(text)
        raise UserError(
            f"the program does not assign '{name}' exactly once at its top level."
            f"{nearest(name, names)}"
        )
    (node,) = values
    lines = text.splitlines(keepends=True)
    if node.lineno != node.end_lineno:
        raise UserError(f"'{name}' is written over several lines: edit it by hand")
    line = lines[node.lineno - 1].encode()
    assert node.end_col_offset is not None
    new_line = line[: node.col_offset] + repr(value).encode() + line[node.end_col_offset :]
    lines[node.lineno - 1] = new_line.decode()
    new_text = "".join(lines)
    if {**constants(text), name: value} != constants(new_text):
        raise UserError(f"changing '{name}' also changed another constant")
    return new_text


def neighbours(text: str, dials: Sequence[Dial] = DIALS) -> list[tuple[str, Value]]:
    """Every edit of one dial that would change how the program behaves."""
    current = constants(text)
    return [
        (dial.name, value)
        for dial in dials
        if dial.has_effect(current)
        for value in dial.values
        if value != current[dial.name] or type(value) is not type(current[dial.name])
    ]


def untried_edits(text: str, history: Sequence[Mapping[str, Any]] = ()) -> list[tuple[str, Value]]:
    """Every edit of one dial that leads to constants not yet in `history`."""
    current = constants(text)
    return [
        (name, value)
        for name, value in neighbours(text)
        if {**current, name: value} not in list(history)
    ]


def random_edit(
    text: str,
    source: random.Random,
    history: Sequence[Mapping[str, Any]] = (),
    excluded: Collection[tuple[str, Any]] = (),
) -> tuple[str, Value] | None:
    """A random edit that leads to a new program; None if there is none left.

    `history`: the constants of each program so far. `excluded`: (dial, value) pairs to avoid.
    """
    edits = [edit for edit in untried_edits(text, history) if edit not in excluded]
    return source.choice(edits) if edits else None


SEED_FUNCTIONS = {"manual_seed", "manual_seed_all", "seed", "default_rng", "Random", "RandomState"}


def only_seeds_differ(before: str, after: str) -> bool:
    """Whether two programs are equal apart from their random seeds, or equal altogether."""
    old, new = _parse(before), _parse(after)
    if ast.dump(old) == ast.dump(new):
        return True
    return _without_seeds(old) == _without_seeds(new)


def _without_seeds(tree: ast.Module) -> str:
    return ast.dump(_SeedRemover().visit(tree))


class _SeedRemover(ast.NodeTransformer):
    """Removes imports and statements that only set a seed; sets every other seed to 0."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if all(map(_is_seed_name, node.targets)) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        return None if _is_seed_name(node.target) else self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | None:
        return None if _is_seed_name(node.target) else self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if _is_seed_call(node.value) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _is_seed_call(node):
            node.args, node.keywords = [ast.Constant(0)], []
            return node
        return self.generic_visit(node)


def _is_seed_name(target: ast.AST) -> bool:
    """Whether an assignment's target has "seed" in its name: SEED, prepare.SEED, TRIAL["seed"]."""
    if isinstance(target, ast.Subscript):
        key = target.slice
        return isinstance(key, ast.Constant) and "SEED" in str(key.value).upper()
    name = str(getattr(target, "attr", "") or getattr(target, "id", ""))
    return "SEED" in name.upper()


def _is_seed_call(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in SEED_FUNCTIONS
