"""The tables of predicted gaps and of predictors, for the terminal, Markdown and the page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lowbit.sensitivity.predictors import NAMES, RUN
from lowbit.study.predicted_vs_observed import RESOLVED, TRUSTED, PredictedGap
from lowbit.study.scorecard import CLOSE, COVERED, ENOUGH, FAR, Score, scores

COLUMN_PREDICTORS = (TRUSTED, "kl")
"""The predictors that have columns in the table of cells."""
LEAST_NAME = 12
"""The least width of the column of plan names, in characters."""
GAP_HEADS = ("plan", "n", "observed", "s.e.", "closed", "off", "KL (run)", "off", "verdict")
SCORE_HEADS = ("predictor", "sharp", "≤ 10 %", "> 25 %", "covered", "r", "off by", "criterion")
CRITERION = (
    "The criterion was fixed before any run. A cell is sharp if the observed standard error and "
    f"the predicted spread are each at most {100 * RESOLVED:.0f} % of the observed gap. A "
    f"predictor meets the criterion if at least {100 * ENOUGH:.0f} % of the sharp cells are within "
    f"{100 * CLOSE:.0f} % and none is off by more than {100 * FAR:.0f} %, if at least "
    f"{100 * COVERED:.0f} % of the other cells are within their 95 % interval, and if its typical "
    "error is smaller than that of both baselines. "
    f"verdict: of the closed form; hit, missed or far for a sharp cell ({100 * CLOSE:.0f} % and "
    f"{100 * FAR:.0f} %), inside or outside its interval for the others. "
    "n: seeds, with the declared number if some are missing. "
    "r: correlation of logarithms (number of cells with both gaps positive). "
    "*: the observation is sharp but was not declared resolvable, or the reverse. "
    "criterion: intervals means that no cell is sharp and enough intervals hold. "
    "(run): not a formula; it runs the quantised model or a noisy one on calibration text."
)


def kinds(gaps: Sequence[PredictedGap]) -> list[str]:
    return list(dict.fromkeys(cell.kind for cell in gaps))


def cell_rows(gaps: Sequence[PredictedGap]) -> list[list[str]]:
    """One row per cell, with task and model if there are several."""
    tasks, models = {cell.task for cell in gaps}, {cell.model for cell in gaps}
    rows = []
    for cell in gaps:
        names = [cell.plan] + [cell.task] * (len(tasks) > 1) + [cell.model] * (len(models) > 1)
        rows.append(_cell(cell, " · ".join(names)))
    return rows


def _cell(cell: PredictedGap, label: str) -> list[str]:
    seeds = f"{cell.seeds}/{cell.declared}" if cell.unfinished else f"{cell.seeds}"
    row = [label, seeds, _nats(cell.observed), _nats(cell.se)]
    for name in COLUMN_PREDICTORS:
        row += [_nats(cell.predictions[name].gap), f"{100 * cell.relative_error(name):+.0f} %"]
    return [*row, _verdict(cell) + "*" * (cell.sharp != cell.expected)]


def _verdict(cell: PredictedGap) -> str:
    if cell.resolvable(TRUSTED):
        off = abs(cell.relative_error(TRUSTED))
        return "hit" if off <= CLOSE else "far" if off > FAR else "missed"
    return "inside" if cell.interval_holds(TRUSTED) else "outside"


def score_rows(kind_scores: Sequence[Score]) -> list[list[str]]:
    return [_score(score) for score in kind_scores]


def _score(score: Score) -> list[str]:
    rest = score.cells - score.resolvable
    met = {None: "intervals", True: "met", False: "missed"}[score.criterion_met]
    return [
        NAMES.get(score.predictor, score.predictor) + " (run)" * (score.predictor in RUN),
        f"{score.resolvable}/{score.cells}",
        f"{score.close}",
        f"{score.far}",
        f"{score.covered}/{rest}" if rest else "–",
        "–" if score.correlation is None else f"{score.correlation:.2f} ({score.correlated})",
        "–" if score.factor is None else f"× {score.factor:.2f}",
        met,
    ]


def unfinished(gaps: Sequence[PredictedGap], absent: int) -> str:
    """A note about missing seeds; empty if none is missing.

    `absent`: the number of predicted cells without a finished pair of runs.
    """
    fewer, alone = sum(cell.unfinished for cell in gaps), sum(cell.single_run for cell in gaps)
    counts = [f"{fewer} of {len(gaps)} cells have fewer seeds than declared"] * bool(fewer)
    counts += [f"{absent} more have no runs yet"] * bool(absent)
    sentences = [
        f"The study is unfinished, so no verdict above is final: {', '.join(counts)}."
    ] * bool(counts)
    if alone:
        sentences.append(f"{alone} trained with one seed: their error does not cover other seeds.")
    return " ".join(sentences)


def tables(gaps: Sequence[PredictedGap], absent: Sequence[str], width: int) -> list[RenderableType]:
    """For each kind of gap: a table of cells per setting, and the scores of the predictors.

    `absent`: the kind of every cell that has no runs yet.
    """
    parts: list[RenderableType] = []
    for kind in kinds(gaps):
        of_kind = [cell for cell in gaps if cell.kind == kind]
        settings = list(dict.fromkeys((cell.model, cell.task) for cell in of_kind))
        for setting in settings:
            of = f"{kind}, {' · '.join(_setting_name(setting, settings))}" if settings[1:] else kind
            rows = cell_rows([cell for cell in of_kind if (cell.model, cell.task) == setting])
            parts.append(_narrowed(f"{of}: gap to 16 bits in nats", rows, width))
        kind_scores = [score for score in scores(gaps) if score.kind == kind]
        parts.append(
            _page(f"{kind}: scores of the predictors", SCORE_HEADS, score_rows(kind_scores), width)
        )
        if note := unfinished(of_kind, absent.count(kind)):
            parts.append(Padding(Text(note), (0, 0, 0, 2), expand=False))
    return parts


def _setting_name(setting: tuple[str, str], among: Sequence[tuple[str, str]]) -> list[str]:
    """The task, and the model if there are several."""
    model, task = setting
    return [task] + [model] * (len({model for model, _ in among}) > 1)


def _narrowed(title: str, rows: Sequence[Sequence[str]], width: int) -> Table:
    """The table without the columns of the model run if it is too wide; `compare.md` has them."""
    if _wide(GAP_HEADS, rows) > width:
        heads, *rows = ([*row[:6], row[-1]] for row in (GAP_HEADS, *rows))
        return _page(title, heads, rows, width)
    return _page(title, GAP_HEADS, rows, width)


def _columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(heads, *rows, strict=True)]


def _wide(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return sum(_columns(heads, rows)) + len(heads) - 1


def _page(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table whose names fold to fit the width; its numbers are never cut off."""
    first, *rest = _columns(heads, rows)
    figures = sum(rest) + len(rest)
    page = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True, title=Text(title))
    page.width = figures + min(first, max(LEAST_NAME, width - figures))
    for i, head in enumerate(heads):
        page.add_column(head, justify="right" if i else "left", no_wrap=bool(i), overflow="fold")
    for row in rows:
        page.add_row(*map(Text, row))
    return page


def to_markdown(gaps: Sequence[PredictedGap], absent: Sequence[str]) -> str:
    """The tables as Markdown; empty if nothing was predicted."""
    if not gaps:
        return ""
    lines = ["", "## Predictions", "", CRITERION]
    for kind in kinds(gaps):
        of_kind = [cell for cell in gaps if cell.kind == kind]
        lines += ["", f"### {kind}", "", *_markdown(GAP_HEADS, cell_rows(of_kind)), ""]
        kind_scores = [score for score in scores(gaps) if score.kind == kind]
        lines += _markdown(SCORE_HEADS, score_rows(kind_scores))
        note = unfinished(of_kind, absent.count(kind))
        lines += ["", note] if note else []
    return "\n".join(lines) + "\n"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return [f"| {' | '.join(row)} |" for row in (heads, rule, *rows)]


def _nats(value: float) -> str:
    return f"{value:.4f}" if abs(value) >= 0.001 else f"{value:.1e}"
