"""The gap that calibration text foresees at every bit-width that was run."""

from __future__ import annotations

from collections.abc import Sequence

from lowbit.classic.summary import Row
from lowbit.classic.tuning import format_of
from lowbit.engines.process import call
from lowbit.foretelling import measured, shown
from lowbit.sensitivity import Asked, SensitivityTable, predictions, trusted
from lowbit.single import single


def foreseen(rows: Sequence[Row], tokens: int) -> dict[int, float]:
    """Nats before training, by the closed form that is trusted at these bits; never negative."""
    bits = sorted({row["bits"] for row in rows if row["bits"] < 16})
    if not bits:
        return {}
    spec, execution = single(rows[0]["model"], rows[0]["task"], "bf16", 0, ())
    formats = tuple(format_of(each) for each in bits)
    table: SensitivityTable = call(measured, spec, execution, Asked(formats), tokens, None, shown())
    found = {}
    for each, text in zip(bits, formats, strict=True):
        found[each] = max(0.0, predictions(table.whole[text])[trusted(text)].gap)
    return found
