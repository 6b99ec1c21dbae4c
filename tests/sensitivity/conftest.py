"""A tiny model to measure on, and its table: measured once a session."""

from __future__ import annotations

import pytest
from helpers.sensitivity import REQUEST, Folder, tiny_measured

from lowbit.curvature.measured_model import MeasuredModel
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.table import SensitivityTable


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest, tiny_model: Folder) -> MeasuredModel:
    return tiny_measured(tiny_model(request.param))


@pytest.fixture(scope="session")
def table(model: MeasuredModel) -> SensitivityTable:
    return build_table(model, REQUEST, ("tiny", "text"))
