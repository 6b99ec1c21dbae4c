"""A table's text form, and what its facts say."""

from __future__ import annotations

from lowbit.cli.text.measured import based_on
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.table import Basis, MeasureRequest, SensitivityTable, from_text, to_text


def test_a_table_reads_back_as_it_was_written(table: SensitivityTable) -> None:
    assert from_text(to_text(table)) == table


def test_spreads_are_over_documents(model: MeasuredModel) -> None:
    separate = build_table(model, MeasureRequest(("int2@16",), (4,), 2), ("tiny", "text")).whole[
        "int2@16"
    ]
    model.documents = [0, 0, 1]
    paired = build_table(model, MeasureRequest(("int2@16",), (4,), 2), ("tiny", "text")).whole[
        "int2@16"
    ]
    model.documents = [7, 7, 7]
    table = build_table(model, MeasureRequest(("int2@16",), (4,), 2), ("tiny", "text"))
    model.documents = ()
    assert separate.loss == paired.loss
    assert separate.loss_spread != paired.loss_spread
    assert table.whole["int2@16"].loss_spread == separate.loss_spread, (
        "of separate document: its stretches"
    )
    assert table.documents == 1
    assert "one document" in based_on(table.basis, 1)


def test_what_a_table_rests_on_is_said_beside_what_was_asked_for() -> None:
    assert based_on(Basis("token", 8100, 20, 14.2), 8192) == (
        "8,100 tokens of calibration text; work of 14 forward passes over it"
    )
    assert "600 tokens of calibration text (all there are; 4,096 were requested)" in based_on(
        Basis("token", 600, 20, 9), 4096
    )
