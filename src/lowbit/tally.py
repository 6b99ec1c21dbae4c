"""The scorecard in words: on the terminal and in Markdown, hits and misses alike."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from lowbit.gaps import RESOLVED, TRUSTED, Cell
from lowbit.scorecard import CLOSE, COVERED, ENOUGH, FAR, Score, scores
from lowbit.sensitivity import NAMES, RUN

SHOWN = (TRUSTED, "kl")
"""The predictors whose numbers stand beside each cell."""
HEADS = ("plan", "n", "observed", "s.e.", "closed", "off", "KL (run)", "off", "judged")
SCORED = ("predictor", "sharp", "≤ 10 %", "> 25 %", "covered", "r", "off by", "criterion")
CRITERION = (
    f"Fixed before any run: a cell is sharp where observed error and predicted spread are each at "
    f"most {100 * RESOLVED:.0f} % of it; at least {100 * ENOUGH:.0f} % of these within "
    f"{100 * CLOSE:.0f} %, none beyond {100 * FAR:.0f} %; of all others at least "
    f"{100 * COVERED:.0f} % within their interval; and off by less than both baselines. "
    "Judged: the closed form, where sharp by its 10 %, else by whether its interval holds. "
    "n: seeds. r: of logarithms, over so many cells with both gaps positive. "
    "*: observed sharply, or not, other than declared. (run): no theory, but the stored or a noisy "
    "model run on calibration text."
)


def kinds(found: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.kind for cell in found))


def cell_rows(found: Sequence[Cell]) -> list[list[str]]:
    """A row a cell, with task and model where there are several."""
    tasks, models = ({getattr(c, what) for c in found} for what in ("task", "model"))
    rows = []
    for cell in found:
        more = [cell.task] * (len(tasks) > 1) + [cell.model] * (len(models) > 1)
        rows.append(_cell(cell, " · ".join([cell.plan, *more])))
    return rows


def _cell(cell: Cell, label: str) -> list[str]:
    row = [label, str(cell.seeds), _nats(cell.observed), _nats(cell.se)]
    for name in SHOWN:
        row += [_nats(cell.foreseen[name].gap), f"{100 * cell.off(name):+.0f} %"]
    return [*row, _judged(cell) + "*" * (cell.seen != cell.expected)]


def _judged(cell: Cell) -> str:
    if cell.resolvable(TRUSTED):
        off = abs(cell.off(TRUSTED))
        return "hit" if off <= CLOSE else "far" if off > FAR else "missed"
    return "inside" if cell.within(TRUSTED) else "outside"


def score_rows(found: Sequence[Score]) -> list[list[str]]:
    return [_score(one) for one in found]


def _score(one: Score) -> list[str]:
    rest = one.cells - one.resolvable
    met = {None: "intervals only", True: "met", False: "missed"}[one.met]
    return [
        NAMES.get(one.predictor, one.predictor) + " (run)" * (one.predictor in RUN),
        f"{one.resolvable} of {one.cells}",
        f"{one.close}",
        f"{one.far}",
        f"{one.covered} of {rest}" if rest else "–",
        "–" if one.correlation is None else f"{one.correlation:.2f} ({one.correlated})",
        "–" if one.factor is None else f"× {one.factor:.2f}",
        met,
    ]


def tables(found: Sequence[Cell]) -> list[Table]:
    """Cells and scores of every kind of gap."""
    made = []
    for kind in kinds(found):
        mine = [cell for cell in found if cell.kind == kind]
        made.append(_page(f"{kind}: gap to 16 bits in nats", HEADS, cell_rows(mine)))
        of_kind = [one for one in scores(found) if one.kind == kind]
        made.append(_page(f"{kind}: how predictors did", SCORED, score_rows(of_kind)))
    return made


def _page(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    page = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True, title=Text(title))
    for i, head in enumerate(heads):
        width = None if i else max(len(row[0]) for row in rows)
        page.add_column(head, justify="right" if i else "left", no_wrap=True, min_width=width)
    for row in rows:
        page.add_row(*row)
    return page


def to_markdown(found: Sequence[Cell]) -> str:
    """Nothing where nothing was predicted."""
    if not found:
        return ""
    lines = ["", "## Predictions", "", CRITERION]
    for kind in kinds(found):
        mine = [cell for cell in found if cell.kind == kind]
        lines += ["", f"### {kind}", "", *_markdown(HEADS, cell_rows(mine)), ""]
        of_kind = [one for one in scores(found) if one.kind == kind]
        lines += _markdown(SCORED, score_rows(of_kind))
    return "\n".join(lines) + "\n"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]


def _nats(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.1e}"
