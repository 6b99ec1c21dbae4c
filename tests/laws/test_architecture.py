"""The layers of the house, read off the imports.

A module may import from its own layer and from those above it in the table, never from below. A
module that is not in the table fails: whoever adds one says where it belongs.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from lab import WITHOUT_TORCH

import lowbit

ROOT = Path(lowbit.__file__).parent
MOST_LINES, MOST_OF_A_FUNCTION = 300, 60

# A folder's name stands for all of its modules, except those that are named themselves.
LAYERS = {
    "the words": [
        "lowbit",
        "errors",
        "files",
        "recipe",
        "ternary.schedule",
        "spec",
        "execution",
        "registry",
        "config",
        "progress",
        "heap",
    ],
    "numbers": ["quant", "stats", "inference", "theory", "sensitivity", "predictors", "guiding"],
    "models, tasks, plans": ["models", "tasks", "plan"],
    "layers": [
        "blas",
        "products",
        "layers",
        "initial",
        "encoded",
        "curvature",
        "hessian",
        "lab",
        "traces",
        "jointly",
        "measure",
        "reach",
        "worth",
        "install",
        "losses",
        "compiling",
        "ternary",
    ],
    "the loop": [
        *("adalora", "checkpoint", "clocks", "evaluate", "distilling", "qat"),
        *("noise",),
        *("state", "adapt", "export"),
    ],
    "runs and records": [
        *(
            "record",
            "added",
            "study",
            "forecasts",
            "forecasting",
            "studyfile",
            "shorthand",
            "studycheck",
            "claims",
            "single",
            "freezing",
            "device",
            "preflight",
            "account",
            "demo",
            "solo",
            "ready",
            "evaluations",
            "measuring",
            "room",
            "planning",
            "predicting",
            "scoring",
            "lent",
            "run",
            "probe",
            "exporting",
            "engines",
        ),
    ],
    "figures and reports": [
        "cells",
        "rows",
        "pairing",
        "verdicts",
        "gaps",
        "scorecard",
        "tally",
        "sayings",
        "table",
        "charts",
        "figures",
        "layer_charts",
        "page_charts",
        "appendix",
        "drawing",
        "report",
    ],
    "commands": [
        "options",
        "before",
        "looking",
        "commands",
        "tools",
        "surveying",
        "foretelling",
        "ahead",
        "budgeting",
        "classic",
        "research",
        "resolving",
        "cli",
    ],
}
RANK = {name: rank for rank, names in enumerate(LAYERS.values()) for name in names}

# Rebuilt anywhere, in seconds: these need no torch.
TORCH_FREE = [
    *(
        "lowbit",
        "errors",
        "files",
        "spec",
        "registry",
        "config",
        "progress",
        "stats",
        "inference",
        "theory",
        "sensitivity",
        "predictors",
        "record",
    ),
    *(
        "quant.formats",
        "quant.ledger",
        "quant.bounds",
        "plan",
        "study",
        "studyfile",
        "claims",
        "single",
        "preflight",
        "figures",
    ),
    *(
        "drawing",
        "appendix",
        "layer_charts",
        "page_charts",
        "cells",
        "rows",
        "pairing",
        "verdicts",
        "gaps",
        "scorecard",
        "tally",
        "sayings",
        "table",
        "charts",
        "report",
        "looking",
        "solo",
        "commands",
        "tools",
        "surveying",
        "foretelling",
        "ahead",
        "budgeting",
        "cli",
    ),
    *("engines.base", "engines.process", "engines.local", "tasks.cache", "tasks.store"),
]
# Who may call what; nobody else does.
CALLERS = {
    "adapt": {"run", "probe", "demo"},
    "run": {
        "engines.local",
        "engines.preload",
    },
    "commands": {"cli", "classic.tuning"},
    "cli": set(),
}


def modules() -> dict[str, Path]:
    """Every module by its name without `lowbit.`; a package is named by its folder."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or "lowbit"] = path
    return found


MODULES = modules()


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(name: str) -> set[str]:
    """The modules of this package that a module imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import in line {node.lineno}"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {ours for full in found if (ours := _ours(full)) is not None}


def _ours(full: str) -> str | None:
    """`lowbit.core.spec.Plan` and `lowbit.core.spec` are both `spec`."""
    if full.split(".")[0] != "lowbit":
        return None
    name = full.removeprefix("lowbit.")
    return name if name in MODULES else name.rpartition(".")[0] or "lowbit"


def rank(name: str) -> int:
    """The layer of a module, or of the folder it lies in."""
    return RANK[name] if name in RANK else RANK[name.partition(".")[0]]


def at_import(name: str) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported."""
    for node in tree(name).body:
        if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            yield node


def calls(name: str) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree(name)) if isinstance(node, ast.Call))


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return (node for node in ast.walk(tree(name)) if isinstance(node, kinds))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_a_layer_and_imports_only_from_it_and_those_above(name: str) -> None:
    assert name in RANK or name.partition(".")[0] in RANK, f"{name}: in which layer is it?"
    upward = {other for other in imports(name) if rank(other) > rank(name)}
    assert upward == set(), f"{name} imports from below its layer"


def test_the_table_names_only_what_there_is() -> None:
    assert set(RANK) <= set(MODULES)
    assert set(TORCH_FREE) <= set(MODULES)


def test_imports_run_in_one_direction() -> None:
    graph = {name: imports(name) - {name, name.rpartition(".")[0]} for name in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(MODULES)


@pytest.mark.parametrize("called", CALLERS)
def test_only_the_declared_call_the_loop_and_the_run(called: str) -> None:
    callers = {name for name in MODULES if called in imports(name)}
    assert callers <= CALLERS[called]


def run_python(code: str) -> str:
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_words_numbers_records_and_reports_need_no_torch() -> None:
    folders = {name for name in TORCH_FREE if any(m.startswith(f"{name}.") for m in MODULES)}
    wanted = [m for m in MODULES if m in TORCH_FREE or m.partition(".")[0] in folders - {"lowbit"}]
    names = ["lowbit" if m == "lowbit" else f"lowbit.{m}" for m in wanted]
    code = f"{WITHOUT_TORCH}\nimport importlib\nfor name in {names}: importlib.import_module(name)"
    assert run_python(code) == ""
    assert {"plan.rules", "figures.pareto", "report", "cli"} <= set(wanted)


def test_the_command_line_is_there_at_once() -> None:
    """Whatever costs time is imported by the command that needs it."""
    heavy = ["torch", "transformers", "numpy", "matplotlib", "pydantic", "altair", "psutil", "rich"]
    code = f"import sys, lowbit.cli; print(*sorted(set({heavy}) & set(sys.modules)))"
    assert run_python(code) == ""


def test_there_is_one_training_loop() -> None:
    def trains(name: str) -> bool:
        attributes = [c.func for c in calls(name) if isinstance(c.func, ast.Attribute)]
        steps = [a for a in attributes if a.attr == "step" and "optim" in ast.dump(a.value)]
        return bool(steps) or any(a.attr == "backward" for a in attributes)

    assert {name for name in MODULES if trains(name)} == {"adapt"}


def test_one_file_counts_the_bytes_of_a_stored_matrix() -> None:
    def counts(name: str) -> bool:
        return any(isinstance(c.func, ast.Attribute) and c.func.attr == "row_bytes"
                   for c in calls(name))  # fmt: skip

    assert {name for name in MODULES if counts(name)} == {"quant.ledger"}


PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE = {("torch", "load"), ("torch", "save"), ("np", "load"), ("numpy", "load")}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_that_is_read_can_run(name: str) -> None:
    imported = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in UNSAFE, f"{name}, line {node.lineno}"
    assert imported & PICKLERS == set()
    named = {call.func.id for call in calls(name) if isinstance(call.func, ast.Name)}
    assert named & {"eval", "exec", "compile", "__import__"} == set()


@pytest.mark.parametrize("name", MODULES)
def test_a_file_is_one_idea_and_a_function_fits_on_a_screen(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{name} has {lines} lines"
    for function in functions(name):
        length = (function.end_lineno or 0) - function.lineno + 1
        assert length <= MOST_OF_A_FUNCTION, f"{name}.{function.name} has {length} lines"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(tree(name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", [m for m in MODULES if rank(m) == 0 or m.startswith("plan")])
def test_importing_the_words_does_nothing(name: str) -> None:
    """No statement but definitions, so that importing them can neither fail nor take time."""
    allowed = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)
    doing = [
        node.lineno
        for node in at_import(name)
        if not isinstance(node, allowed)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert doing == []
