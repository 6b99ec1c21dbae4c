"""The scorecard in words: on the terminal and in Markdown, hits and misses alike."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lowbit.sensitivity.predictors import NAMES, RUN
from lowbit.study.predicted_vs_observed import RESOLVED, TRUSTED, PredictedGap
from lowbit.study.scorecard import CLOSE, COVERED, ENOUGH, FAR, Score, scores

SHOWN = (TRUSTED, "kl")
"""The predictors with columns of their own in the table of cells."""
LEAST = 12
"""Characters of a plan's name that fit before it is folded."""
HEADS = ("plan", "n", "observed", "s.e.", "closed", "off", "KL (run)", "off", "judged")
SCORED = ("predictor", "sharp", "≤ 10 %", "> 25 %", "covered", "r", "off by", "criterion")
CRITERION = (
    f"Fixed before any run: a cell is sharp where observed error and predicted spread are each at "
    f"most {100 * RESOLVED:.0f} % of it; at least {100 * ENOUGH:.0f} % of these within "
    f"{100 * CLOSE:.0f} %, none beyond {100 * FAR:.0f} %; of all others at least "
    f"{100 * COVERED:.0f} % within their interval; and off by less than both baselines. "
    "Judged: the closed form, where sharp by its 10 %, else by whether its interval holds. "
    "n: seeds, and of how many declared. r: of logarithms, over so many cells with both gaps "
    "positive. *: observed sharply, or not, other than declared. (run): no theory, but the stored "
    "or a noisy model run on calibration text."
)


def kinds(gaps: Sequence[PredictedGap]) -> list[str]:
    return list(dict.fromkeys(cell.kind for cell in gaps))


def cell_rows(gaps: Sequence[PredictedGap]) -> list[list[str]]:
    """A row a cell, with task and model where there are several."""
    tasks, models = ({getattr(c, what) for c in gaps} for what in ("task", "model"))
    rows = []
    for cell in gaps:
        more = [cell.task] * (len(tasks) > 1) + [cell.model] * (len(models) > 1)
        rows.append(_cell(cell, " · ".join([cell.plan, *more])))
    return rows


def _cell(cell: PredictedGap, label: str) -> list[str]:
    seeds = f"{cell.seeds}/{cell.declared}" if cell.unfinished else f"{cell.seeds}"
    row = [label, seeds, _nats(cell.observed), _nats(cell.se)]
    for name in SHOWN:
        row += [_nats(cell.predictions[name].gap), f"{100 * cell.off(name):+.0f} %"]
    return [*row, _judged(cell) + "*" * (cell.sharp != cell.expected)]


def _judged(cell: PredictedGap) -> str:
    if cell.resolvable(TRUSTED):
        off = abs(cell.off(TRUSTED))
        return "hit" if off <= CLOSE else "far" if off > FAR else "missed"
    return "inside" if cell.within(TRUSTED) else "outside"


def score_rows(kind_scores: Sequence[Score]) -> list[list[str]]:
    return [_score(score) for score in kind_scores]


def _score(one: Score) -> list[str]:
    rest = one.cells - one.resolvable
    met = {None: "intervals", True: "met", False: "missed"}[one.met]
    return [
        NAMES.get(one.predictor, one.predictor) + " (run)" * (one.predictor in RUN),
        f"{one.resolvable}/{one.cells}",
        f"{one.close}",
        f"{one.far}",
        f"{one.covered}/{rest}" if rest else "–",
        "–" if one.correlation is None else f"{one.correlation:.2f} ({one.correlated})",
        "–" if one.factor is None else f"× {one.factor:.2f}",
        met,
    ]


def unfinished(gaps: Sequence[PredictedGap], absent: int) -> str:
    """A note about missing seeds; empty where none is missing.

    `absent`: the number of predicted cells without a finished pair of runs.
    """
    fewer, alone = sum(cell.unfinished for cell in gaps), sum(cell.single_run for cell in gaps)
    counts = [f"{fewer} of {len(gaps)} cells have fewer seeds than declared"] * bool(fewer)
    counts += [f"{absent} more have no runs yet"] * bool(absent)
    sentences = [f"Unfinished, so no verdict above is final: {', '.join(counts)}."] * bool(counts)
    if alone:
        sentences.append(f"{alone} trained with one seed: their error holds no seeds' noise.")
    return " ".join(sentences)


def tables(gaps: Sequence[PredictedGap], absent: Sequence[str], width: int) -> list[RenderableType]:
    """For each kind of gap: one table of cells a task, and the predictors' scores.

    `absent`: the kind of every cell that has no runs yet.
    """
    parts: list[RenderableType] = []
    for kind in kinds(gaps):
        of_kind = [cell for cell in gaps if cell.kind == kind]
        settings = list(dict.fromkeys((cell.model, cell.task) for cell in of_kind))
        for setting in settings:
            of = f"{kind}, {' · '.join(_telling(setting, settings))}" if settings[1:] else kind
            rows = cell_rows([cell for cell in of_kind if (cell.model, cell.task) == setting])
            parts.append(_narrowed(f"{of}: gap to 16 bits in nats", rows, width))
        kind_scores = [score for score in scores(gaps) if score.kind == kind]
        parts.append(_page(f"{kind}: how predictors did", SCORED, score_rows(kind_scores), width))
        if note := unfinished(of_kind, absent.count(kind)):
            parts.append(Padding(Text(note), (0, 0, 0, 2), expand=False))
    return parts


def _telling(setting: tuple[str, str], among: Sequence[tuple[str, str]]) -> list[str]:
    """The task, and the model where there are several."""
    model, task = setting
    return [task] + [model] * (len({model for model, _ in among}) > 1)


def _narrowed(title: str, rows: Sequence[Sequence[str]], width: int) -> Table:
    """Without the columns of the model run if the terminal is narrow; `compare.md` has them."""
    if _wide(HEADS, rows) > width:
        heads, *rows = ([*row[:6], row[-1]] for row in (HEADS, *rows))
        return _page(title, heads, rows, width)
    return _page(title, HEADS, rows, width)


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(heads, *rows, strict=True)]


def _wide(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(_columns(heads, rows)) + len(heads) - 1


def _page(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """As wide as its figures need: names are folded, and a figure is never cut off."""
    first, *rest = _columns(heads, rows)
    figures = sum(rest) + len(rest)
    page = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True, title=Text(title))
    page.width = figures + min(first, max(LEAST, width - figures))
    for i, head in enumerate(heads):
        page.add_column(head, justify="right" if i else "left", no_wrap=bool(i), overflow="fold")
    for row in rows:
        page.add_row(*map(Text, row))
    return page


def to_markdown(gaps: Sequence[PredictedGap], absent: Sequence[str]) -> str:
    """Empty where nothing was predicted."""
    if not gaps:
        return ""
    lines = ["", "## Predictions", "", CRITERION]
    for kind in kinds(gaps):
        of_kind = [cell for cell in gaps if cell.kind == kind]
        lines += ["", f"### {kind}", "", *_markdown(HEADS, cell_rows(of_kind)), ""]
        kind_scores = [score for score in scores(gaps) if score.kind == kind]
        lines += _markdown(SCORED, score_rows(kind_scores))
        note = unfinished(of_kind, absent.count(kind))
        lines += ["", note] if note else []
    return "\n".join(lines) + "\n"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]


def _nats(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.1e}"
