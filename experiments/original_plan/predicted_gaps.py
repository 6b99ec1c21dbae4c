"""The gap after training that calibration text foresees in every cell that was run.

Each cell's is measured where a 16-bit run of its own rank and settings stands: the first order
there, and the second order times what the best correction of that rank leaves (theory 18 and 19).
That is what trained gaps are compared with; the damage to an untrained base is another thing. What
a study had predicted of the very runs that lie here is taken as it was said. No torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lowbit.cli.text.measured import measured, shown
from lowbit.core.errors import LowbitError, UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import RunSpec
from lowbit.core.toml import check
from lowbit.runs.record import ADAPTER
from lowbit.runs.store import find_run
from lowbit.runs.workers.process import call
from lowbit.sensitivity.predictors import best_formula, predictions, remaining_share
from lowbit.sensitivity.table import MeasureRequest, SensitivityTable
from original_plan.fine_tune import format_of
from original_plan.pairs import Key, Row, cells, partner

FORESEEN = "foreseen.json"
"""A list of what a study had predicted: bits, rank, settings, gap, and the runs it was said of."""
Warn = Callable[[str], None]


def foreseen(rows: Sequence[Row], results: Path, tokens: int, warn: Warn) -> dict[Key, float]:
    """Nats, by the closed form that is trusted at these bits, of all cells that have a gap.

    What cannot be predicted is warned of and left out: tables and figures do without.
    """
    found = told(rows, results / FORESEEN, warn)
    missing: dict[str, list[Key]] = {}
    for key, runs in cells(rows).items():
        # Of its first seed that has one.
        whole = next((one for run in runs if (one := partner(run, rows)) is not None), None)
        if key.bits != 16 and key not in found and whole is not None:
            missing.setdefault(whole["run"], []).append(key)
    for run, keys in missing.items():
        try:
            found |= _at(results / run, keys, tokens)
        except LowbitError as error:
            warn(f"no prediction at rank {keys[0].rank}: {error}")
    return found


def _at(folder: Path, keys: Sequence[Key], tokens: int) -> dict[Key, float]:
    """Predicted where one 16-bit run's adapter stands, on that run's own cut of the data.

    `keys`: of its rank and settings.
    """
    finished = find_run(folder)
    record = None if finished is None else finished.record
    if record is None or not (folder / ADAPTER).is_dir():
        what = "finished run" if record is None else "adapter"
        raise UserError(f"{folder} holds no {what}: do it again in 16 bits, or give --no-theory")
    spec = check(RunSpec, record.spec, None)
    formats, rank = tuple(format_of(key.bits) for key in keys), keys[0].rank
    asked = MeasureRequest(formats, ranks=(rank,))
    table: SensitivityTable = call(measured, spec, Execution(), asked, tokens, folder, shown())
    blocks = [site.name for site in table.sites if site.reach is not None]
    found = {}
    for key, text in zip(keys, formats, strict=True):
        share = remaining_share(table, dict.fromkeys(blocks, text), dict.fromkeys(blocks, rank))
        found[key] = predictions(table.whole[text], share)[best_formula(text)].gap
    return found


# -- what a study had said -------------------------------------------------------------------------


def entry(key: Key, gap: float, rows: Sequence[Row]) -> Row:
    """A cell's prediction, bound to the runs that it was said of: those in it, and in 16 bits."""
    around = cells(rows)
    of = [*around[key], *around.get(key._replace(bits=16), [])]
    return {**key._asdict(), "gap": gap, "runs": sorted(row["fingerprint"] for row in of)}


def told(rows: Sequence[Row], path: Path, warn: Warn) -> dict[Key, float]:
    """What a study had predicted of runs that are all still here; more may have come since."""
    if not path.is_file():
        return {}
    here = {row["fingerprint"] for row in rows}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        entries = [(Key(e["bits"], e["rank"], e["settings"]), e["gap"], e["runs"]) for e in said]
        stale = [key for key, _, runs in entries if not set(runs) <= here]
        if stale:
            names = ", ".join(f"{key.bits} bits at rank {key.rank}" for key in stale)
            warn(f"{path} was said of other runs, and is left out: {names}")
        return {key: float(gap) for key, gap, _ in entries if key not in stale}
    except (ValueError, TypeError, KeyError):
        warn(f"{path} is torn or of an earlier version, and is left out: collect again")
        return {}
