"""Draws docs/images/architecture.svg from the imports:  python docs/draw_architecture.py

A box a package, the latest on top; an arrow from a package to each package that it imports, as wide
as the number of import statements. An arrow that pointed upwards would be red: the architecture
test allows none. The picture is text, so the same imports give the same file, and a test holds the
committed one against the imports.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parent / "src" / "lowbit"
PICTURE = HERE / "images" / "architecture.svg"
ORDER = (
    *("core", "quant", "plan", "models", "tasks", "layers", "train", "curvature"),
    *("runs", "sensitivity", "planner", "study", "report", "research", "cli"),
)
ROW, BOX, LEFT, WIDTH = 44, 30, 150, 880
INK, GREY, RED = "#1f2937", "#6b7280", "#dc2626"


def import_counts() -> Counter[tuple[str, str]]:
    """How many import statements lead from one package to another."""
    counts: Counter[tuple[str, str]] = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        package = path.relative_to(SOURCE).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in _imported(node):
                other = module.split(".")[1] if "." in module else ""
                if package in ORDER and other in ORDER and package != other:
                    counts[package, other] += 1
    return counts


def _imported(node: ast.AST) -> list[str]:
    """The lowbit modules that a statement imports."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        names = [f"lowbit.{alias.name}" for alias in node.names] if module == "lowbit" else [module]
    else:
        names = []
    return [name for name in names if name.split(".")[0] == "lowbit"]


def purpose(package: str) -> str:
    """The first sentence of a package's docstring."""
    tree = ast.parse((SOURCE / package / "__init__.py").read_text(encoding="utf-8"))
    text = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return text.removesuffix(" No torch.").removesuffix(" No torch at import.").removesuffix(".")


def picture(counts: Counter[tuple[str, str]]) -> str:
    """The SVG's text."""
    rows = {package: i for i, package in enumerate(reversed(ORDER))}
    height = ROW * len(ORDER) + 20
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="system-ui, sans-serif" font-size="13">',
        "<title>Fifteen packages and who imports whom</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        '<defs><marker id="tip" markerWidth="7" markerHeight="7" refX="6" refY="3.5" '
        'orient="auto" markerUnits="userSpaceOnUse"><path d="M0,0 L7,3.5 L0,7 z" '
        f'fill="{GREY}"/></marker></defs>',
    ]
    lines += [_arrow(rows[a], rows[b], n) for (a, b), n in sorted(counts.items())]
    lines += [_box(package, row) for package, row in rows.items()]
    return "\n".join([*lines, "</svg>", ""])


def _middle(row: int) -> int:
    return 10 + ROW * row + BOX // 2


def _arrow(start: int, end: int, count: int) -> str:
    """A curve on the left of the boxes, further out the further it reaches."""
    reach = LEFT - 20 - 12 * abs(end - start)
    colour = GREY if end > start else RED
    y1, y2 = _middle(start) + 4, _middle(end) - 4
    width = 0.6 + 0.5 * math.log2(count)
    return (
        f'<path d="M{LEFT},{y1} C{reach},{y1} {reach},{y2} {LEFT - 1},{y2}" fill="none" '
        f'stroke="{colour}" stroke-opacity="0.55" stroke-width="{width:.2f}" '
        'marker-end="url(#tip)"/>'
    )


def _box(package: str, row: int) -> str:
    top, middle = 10 + ROW * row, _middle(row) + 5
    return (
        f'<rect x="{LEFT}" y="{top}" width="110" height="{BOX}" rx="5" fill="#eef2ff" '
        f'stroke="{INK}"/><text x="{LEFT + 55}" y="{middle}" text-anchor="middle" '
        f'font-weight="600" fill="{INK}">{package}</text>'
        f'<text x="{LEFT + 126}" y="{middle}" fill="{INK}">{purpose(package)}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(picture(import_counts()), encoding="utf-8")
