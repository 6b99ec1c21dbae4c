"""What holds for every test: shapes and types are checked, and nothing depends on the clock.

jaxtyping's hook must be in place before `lowbit` is first imported, hence at the top of this file:
from then on every annotated function of these packages checks its tensors' shapes and dtypes.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from jaxtyping import install_import_hook

# An int where a float is asked for is fine, as it is for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["lowbit.quant", "lowbit.layers.linear"], CHECKER)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402
from helpers import tiny_models as tiny  # noqa: E402
from hypothesis import settings  # noqa: E402

# One thread: sums come out alike everywhere, and two threads that wait for each other on a shared
# machine take fifty times as long over small tensors.
torch.set_num_threads(1)
settings.register_profile("laws", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("laws")


Make = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers for a test, alone or in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A family's model folder (one of `tiny.FAMILIES`), made once a session; to be read only."""
    root, made = tmp_path_factory.mktemp("tiny"), dict[str, Path]()

    def folder(family: str) -> Path:
        if family not in made:
            with torch.random.fork_rng():  # whoever asks first draws the same numbers afterwards
                made[family] = tiny.make(root / family, family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], None]], Path]:
    """What takes a minute to make is made by one worker; every worker has a copy of its own."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def folder(name: str, build: Callable[[Path], None]) -> Path:
        common = root / f"{name}-made"
        with FileLock(root / f"{name}.lock"):
            if not (common / ".made").is_file():
                shutil.rmtree(common, ignore_errors=True)
                common.mkdir()
                build(common)
                (common / ".made").touch()
        return Path(shutil.copytree(common, tmp_path_factory.mktemp(name) / name))

    return folder


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of short documents."""
    return tiny.write_text(tmp_path_factory.mktemp("text") / "text.txt")


@pytest.fixture(scope="session")
def tiny_jsonl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JSONL file of labelled sentences."""
    return tiny.write_labelled(tmp_path_factory.mktemp("labelled") / "labelled.jsonl")
