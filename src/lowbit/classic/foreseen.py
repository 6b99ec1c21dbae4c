"""The gap after training that calibration text foresees at every bit-width that was run.

Measured where a 16-bit run's adapter stands: the first order there, and the second order times what
the best correction of its rank leaves (theory 18 and 19). That is what trained gaps are compared
with; the damage to an untrained base is another thing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lowbit.classic.summary import FORESEEN, Row
from lowbit.classic.tuning import format_of
from lowbit.engines.process import call
from lowbit.errors import UserError
from lowbit.foretelling import measured, shown
from lowbit.record import ADAPTER
from lowbit.sensitivity import Asked, SensitivityTable, left, predictions, trusted
from lowbit.single import single


def foreseen(rows: Sequence[Row], results: Path, tokens: int) -> dict[int, float]:
    """Nats, by the closed form that is trusted at these bits; a study's own where it said them."""
    if (results / FORESEEN).is_file():
        said = json.loads((results / FORESEEN).read_text(encoding="utf-8"))
        return {int(bits): gap for bits, gap in said.items()}
    bits = sorted({row["bits"] for row in rows if row["bits"] < 16})
    whole = [row for row in rows if row["bits"] == 16]
    if not bits or not whole:
        return {}
    at = results / "runs" / whole[0]["run"]
    if not (at / ADAPTER).is_dir():
        raise UserError(f"{at} has no adapter any more: run 16 bits again, or give --no-theory")
    spec, execution = single(whole[0]["model"], whole[0]["task"], "bf16", 0, ())
    formats = tuple(format_of(each) for each in bits)
    table: SensitivityTable = call(measured, spec, execution, Asked(formats), tokens, at, shown())
    blocks = [site.name for site in table.sites if site.reach is not None]
    found = {}
    for each, text in zip(bits, formats, strict=True):
        ranks = dict.fromkeys(blocks, int(whole[0]["rank"]))
        share = left(table, dict.fromkeys(blocks, text), ranks)
        found[each] = predictions(table.whole[text], share)[trusted(text)].gap
    return found
