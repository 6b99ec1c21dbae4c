"""The five laws of the house, read off the imports.

1. A module imports only its own package or an earlier one (`ORDER`).
2. Packages that are strangers do not know each other.
3. No circle of files or of subfolders.
4. What a person starts or reads with imports without torch.
5. Only the command line and the research reports print: everything else calls back.

Besides: who may call the loop, how long a file and a function may be, and no pickle.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from helpers.command_line import WITHOUT_TORCH

import lowbit

ROOT = Path(lowbit.__file__).parent
MOST_LINES, MOST_OF_A_FUNCTION = 300, 60

ORDER = (
    *("core", "quant", "plan", "models", "tasks", "layers", "train", "curvature"),
    *("runs", "sensitivity", "planner", "study", "report", "research", "cli"),
)
"""The packages, lowest first: a module imports its own package or an earlier one."""
STRANGERS = (("plan", "models", "tasks"), ("planner", "study"))
"""Packages that do not know each other, although the order would let the later one look."""
ROOT_FILES = {"__init__.py", "__main__.py", "py.typed"}
TORCH_FREE = (
    *("core", "plan", "report", "cli", "study", "sensitivity.theory"),
    *("quant.formats", "quant.byte_counts"),
    *(
        "runs.store",
        "runs.pack",
        "runs.record",
        "runs.request",
        "runs.memory_check",
        "runs.isolated_cost",
    ),
    *("runs.comparison", "runs.run_cost"),
    *("runs.freeze", "runs.workers.pool", "runs.workers.process"),
    *("sensitivity.table", "sensitivity.predictors", "sensitivity.guide"),
    *("planner.request", "planner.budget_plan"),
)
"""Packages and modules that are imported without torch; what needs it comes inside a function."""
NEEDS_TORCH = {"study.make_forecast"}
PRINTERS = ("cli", "research.report")
CALLERS = {
    "train.loop": {"runs.run", "runs.dry_run", "runs.demo_model"},
    "runs.run": {"runs.workers.pool", "runs.workers.preload"},
    "cli.main": {"__main__"},
}
"""Who may call the loop, a run and the command line; nobody else does."""
ENTRIES = ("lowbit", "__main__", "cli.main", "tasks", "models", "research.proposers")
"""Where everything starts: the public API, the command line, and the folders of plug-ins."""
UNREACHED = {
    "research.candidate.jail": "started as a script, by its path: see research.candidate.sandbox",
}
"""Modules that no entry reaches, and why they are in the package all the same."""


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


def package(name: str) -> str:
    return name.partition(".")[0]


def inside(name: str, places: Iterable[str]) -> bool:
    """Whether a module is one of the places, or lies in one."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


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


PACKAGED = [name for name in MODULES if package(name) in ORDER]


def test_the_root_holds_packages_and_nothing_else() -> None:
    assert {p.name for p in ROOT.iterdir() if p.is_file()} <= ROOT_FILES
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert folders == set(ORDER)
    assert len(ORDER) == 15


@pytest.mark.parametrize("name", PACKAGED)
def test_a_module_imports_only_its_own_package_or_an_earlier_one(name: str) -> None:
    own = ORDER.index(package(name))
    later = {m for m in imports(name) if package(m) in ORDER and ORDER.index(package(m)) > own}
    assert later == set(), f"{name} imports from a later package"


@pytest.mark.parametrize("group", STRANGERS)
def test_strangers_do_not_know_each_other(group: tuple[str, ...]) -> None:
    met = {
        (name, other)
        for name in PACKAGED
        for other in imports(name)
        if package(name) in group and package(other) in group and package(name) != package(other)
    }
    assert met == set()


def test_there_is_no_circle_of_files() -> None:
    """The root, which imports the public API when it is used, is left out."""
    names = set(MODULES) - {"lowbit", "__main__"}
    graph = {name: imports(name) & names - {name, name.rpartition(".")[0]} for name in names}
    assert set(TopologicalSorter(graph).static_order()) == names


@pytest.mark.parametrize("top", ORDER)
def test_there_is_no_circle_of_subfolders(top: str) -> None:
    """Files directly in a package count one by one; a subfolder counts as one thing."""

    def thing(name: str) -> str:
        parts = name.split(".")
        folder = ".".join(parts[:2])
        return folder if len(parts) > 2 else name

    graph: dict[str, set[str]] = {}
    for name in PACKAGED:
        if package(name) == top and name != top:
            others = {thing(m) for m in imports(name) if package(m) == top and m != top}
            graph.setdefault(thing(name), set()).update(others - {thing(name)})
    list(TopologicalSorter(graph).static_order())


def test_what_the_laws_name_exists() -> None:
    named = {*TORCH_FREE, *NEEDS_TORCH, *PRINTERS, *CALLERS, *set().union(*CALLERS.values())}
    named |= {*ENTRIES, *UNREACHED}
    assert {name for name in named if name not in MODULES} == set()


@pytest.mark.parametrize("called", CALLERS)
def test_only_the_declared_call_the_loop_and_the_run(called: str) -> None:
    callers = {name for name in MODULES if called in imports(name)}
    assert callers <= CALLERS[called]


@pytest.mark.parametrize("name", [m for m in MODULES if not inside(m, PRINTERS)])
def test_only_the_command_line_and_research_reports_print(name: str) -> None:
    printed = [
        c.lineno for c in calls(name) if isinstance(c.func, ast.Name) and c.func.id == "print"
    ]
    assert printed == []
    consoles = {m for m in imports(name) if m == "cli.console"}
    assert consoles == set()


@pytest.mark.parametrize(
    "top", [*ORDER, *sorted({m.rpartition(".")[0] for m in MODULES if m.count(".") > 1})]
)
def test_a_package_names_each_of_its_files_in_one_line(top: str) -> None:
    """Subfolders end in a slash. Nothing is listed that is not there."""
    listed = {line.split()[0] for line in (ast.get_docstring(tree(top)) or "").splitlines()
              if re.match(r"[a-z_0-9]+/?  +\S", line)}  # fmt: skip
    folder = MODULES[top].parent
    files = {p.stem for p in folder.glob("*.py") if p.stem != "__init__"}
    folders = {f"{p.name}/" for p in folder.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert listed == files | folders


def mentions(name: str) -> set[str]:
    """The modules that a module names in a string, to start them in another process."""
    strings = {
        node.value.removeprefix("lowbit.")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    return strings & set(MODULES)


def test_every_module_is_reached_from_a_command_the_api_or_a_plug_in() -> None:
    """Follows all imports, those inside functions included."""
    waiting = {name for name in MODULES if inside(name, ENTRIES)}
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        reached.add(name)
        packages = {name.rsplit(".", depth)[0] for depth in range(1, name.count(".") + 1)}
        waiting |= (imports(name) | mentions(name) | packages) - reached
    assert set(MODULES) - reached == set(UNREACHED)


def run_python(code: str) -> str:
    command = [sys.executable, "-W", "error::ImportWarning", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_what_a_person_starts_or_reads_with_needs_no_torch() -> None:
    free = [m for m in MODULES if inside(m, TORCH_FREE) and m not in NEEDS_TORCH]
    names = ["lowbit", *(f"lowbit.{m}" for m in free)]
    code = f"{WITHOUT_TORCH}\nimport importlib\nfor name in {names}: importlib.import_module(name)"
    assert run_python(code) == ""


def test_the_command_line_is_there_at_once() -> None:
    """Whatever costs time is imported by the command that needs it."""
    heavy = ["torch", "transformers", "numpy", "matplotlib", "pydantic", "altair", "psutil", "rich"]
    code = f"import sys, lowbit.cli.main; print(*sorted(set({heavy}) & set(sys.modules)))"
    assert run_python(code) == ""


def test_there_is_one_training_loop() -> None:
    def trains(name: str) -> bool:
        attributes = [c.func for c in calls(name) if isinstance(c.func, ast.Attribute)]
        steps = [a for a in attributes if a.attr == "step" and "optim" in ast.dump(a.value)]
        return bool(steps) or any(a.attr == "backward" for a in attributes)

    assert {name for name in MODULES if trains(name)} == {"train.loop"}


def test_one_file_counts_the_bytes_of_a_stored_matrix() -> None:
    def counts(name: str) -> bool:
        return any(isinstance(c.func, ast.Attribute) and c.func.attr == "row_bytes"
                   for c in calls(name))  # fmt: skip

    assert {name for name in MODULES if counts(name)} == {"quant.byte_counts"}


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


def docstring_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A docstring with Args, Returns and an example is no length of the code."""
    first = function.body[0]
    if not (isinstance(first, ast.Expr) and ast.get_docstring(function)):
        return 0
    return (first.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("name", MODULES)
def test_a_file_is_one_idea_and_a_function_fits_on_a_screen(name: str) -> None:
    lines = MODULES[name].read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{name} has {lines} lines"
    for function in functions(name):
        length = (function.end_lineno or 0) - function.lineno + 1 - docstring_lines(function)
        assert length <= MOST_OF_A_FUNCTION, f"{name}.{function.name} has {length} lines"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(tree(name)), f"{name} has no docstring"


@pytest.mark.parametrize("name", [m for m in MODULES if inside(m, ("core", "plan"))])
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
