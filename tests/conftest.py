"""What holds for every test: shapes and types are checked, and nothing depends on the clock.

jaxtyping's hook must be in place before `lowbit` is first imported, hence at the top of this file:
from then on every annotated function of these packages checks its tensors' shapes and dtypes.
"""

from __future__ import annotations

import random

from jaxtyping import install_import_hook

# An int where a float is asked for is fine, as it is for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["lowbit.quant", "lowbit.layers"], CHECKER)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# One thread: sums come out alike everywhere, and two threads that wait for each other on a shared
# machine take fifty times as long over small tensors.
torch.set_num_threads(1)
settings.register_profile("laws", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("laws")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers for a test, alone or in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
