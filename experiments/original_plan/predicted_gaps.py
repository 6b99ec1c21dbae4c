"""The predicted gap to 16 bits after training, for every cell of the metrics files. No torch.

The gap is predicted at the adapter of a 16-bit run with the cell's rank and settings, on that run's
calibration text: the first order, plus the second order times the share that the best correction of
that rank leaves (theory 18 and 19). It is a gap after training, so the damage to an untrained base
is another number. Predictions of a study that `collect` wrote are used as they are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lowbit import LowbitError, RunSpec
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.progress import phases
from lowbit.core.toml import check
from lowbit.runs.record import ADAPTER
from lowbit.runs.store import find_run
from lowbit.runs.workers.process import call, orphaned
from lowbit.sensitivity.predictors import best_formula, predictions, remaining_share
from lowbit.sensitivity.table import Calibration, MeasureRequest, SensitivityTable
from original_plan.fine_tune import format_of
from original_plan.pairs import Key, Row, cells, partner

PREDICTIONS = "foreseen.json"
"""A study's predictions: a list of bits, rank, settings, gap, and the runs that it predicts."""
OnWarning = Callable[[str], None]


def predict_gaps(
    rows: Sequence[Row], results: Path, tokens: int, on_warning: OnWarning
) -> dict[Key, float]:
    """The gap in nats of all cells with a 16-bit partner, by the formula trusted at these bits.

    A cell that cannot be predicted is left out, with a warning.
    """
    predicted = stored_predictions(rows, results / PREDICTIONS, on_warning)
    for run, keys in _missing(rows, predicted).items():
        try:
            predicted |= _predict_at(results / run, keys, tokens)
        except LowbitError as error:
            on_warning(f"no prediction at rank {keys[0].rank}: {error}")
    return predicted


def _missing(rows: Sequence[Row], predicted: Mapping[Key, float]) -> dict[str, list[Key]]:
    """The cells without a prediction, by the 16-bit run of their first seed that has one."""
    missing: dict[str, list[Key]] = {}
    for key, runs in cells(rows).items():
        partners = (partner(run, rows) for run in runs)
        reference = next((row for row in partners if row is not None), None)
        if key.bits != 16 and key not in predicted and reference is not None:
            missing.setdefault(reference["run"], []).append(key)
    return missing


def _predict_at(folder: Path, keys: Sequence[Key], tokens: int) -> dict[Key, float]:
    """The gaps of cells that share a rank and settings, predicted at a 16-bit run's adapter."""
    run = find_run(folder)
    if run is None or not (folder / ADAPTER).is_dir():
        what = "finished run" if run is None else "adapter"
        raise UserError(f"{folder} holds no {what}: run it again in 16 bits, or give --no-theory")
    spec = check(RunSpec, run.record.spec, None)
    formats, rank = tuple(format_of(key.bits) for key in keys), keys[0].rank
    request = MeasureRequest(formats, ranks=(rank,))
    # `lowbit.measure` takes no ranks, and settings instead of a record's spec.
    table = call(_measure, spec, request, Calibration(tokens, folder), sys.stderr.isatty())
    blocks = [site.name for site in table.sites if site.reach is not None]
    gaps = {}
    for key, text in zip(keys, formats, strict=True):
        share = remaining_share(table, dict.fromkeys(blocks, text), dict.fromkeys(blocks, rank))
        gaps[key] = predictions(table.whole[text], share)[best_formula(text)].gap
    return gaps


def _measure(
    spec: RunSpec, request: MeasureRequest, calibration: Calibration, show: bool
) -> SensitivityTable:
    """Measure; runs in a process of its own, which imports torch."""
    from lowbit.runs.device import open_machine
    from lowbit.runs.prepare import prepare_run
    from lowbit.sensitivity.measure import sensitivity_table

    open_machine(Execution(), "fp32")
    on_progress = phases(show, stop=orphaned)
    return sensitivity_table(prepare_run(spec), request, calibration, on_progress)


# --- predictions of a study -----------------------------------------------------------------------


def prediction_entry(key: Key, gap: float, rows: Sequence[Row]) -> Row:
    """A cell's prediction, with the fingerprints of its runs and of the 16-bit ones."""
    by_cell = cells(rows)
    runs = [*by_cell[key], *by_cell.get(key._replace(bits=16), [])]
    return {**key._asdict(), "gap": gap, "runs": sorted(row["fingerprint"] for row in runs)}


def stored_predictions(rows: Sequence[Row], path: Path, on_warning: OnWarning) -> dict[Key, float]:
    """A study's predictions of cells whose runs are all among the rows; other runs may be added."""
    if not path.is_file():
        return {}
    fingerprints = {row["fingerprint"] for row in rows}
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        entries = [(Key(e["bits"], e["rank"], e["settings"]), e["gap"], e["runs"]) for e in body]
        stale = [key for key, _, runs in entries if not set(runs) <= fingerprints]
        if stale:
            names = ", ".join(f"{key.bits} bits at rank {key.rank}" for key in stale)
            on_warning(f"{path} has predictions of other runs, which are left out: {names}")
        return {key: float(gap) for key, gap, _ in entries if key not in stale}
    except (ValueError, TypeError, KeyError):
        on_warning(f"{path} is torn or of an earlier version, and is left out: collect again")
        return {}
