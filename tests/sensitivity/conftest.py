"""A tiny model to measure on, and its table: measured once a session."""

from __future__ import annotations

import pytest
from helpers.sensitivity import ASKED, Folder, lab_of

from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.measured_model import MeasuredModel
from lowbit.sensitivity.table import SensitivityTable


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def lab(request: pytest.FixtureRequest, tiny_model: Folder) -> MeasuredModel:
    return lab_of(tiny_model(request.param))


@pytest.fixture(scope="session")
def table(lab: MeasuredModel) -> SensitivityTable:
    return build_table(lab, ASKED, ("tiny", "text"))
