"""A model comes from a folder, from the assets or from the hub, and never from a pickle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from lowbit.errors import RunError, UserError
from lowbit.models.loading import PICKLES, WANTED, open_checkpoint, resolve, skeleton


def test_a_hub_id_is_fetched_without_its_pickles(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]
) -> None:
    asked: dict[str, Any] = {}

    def fetch(reference: str, allow_patterns: list[str]) -> str:
        asked.update(reference=reference, patterns=allow_patterns)
        return str(tiny_model("llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve("owner/name") == tiny_model("llama")
    assert asked == {"reference": "owner/name", "patterns": WANTED}
    assert not set(WANTED) & set(PICKLES)


def test_an_unreachable_hub_is_what_happened_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fetch(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(RunError, match="could not fetch 'owner/name'"):
        resolve("owner/name")


def test_an_asset_is_named_by_its_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    monkeypatch.setenv("LOWBIT_ASSETS", str(tmp_path))
    assert resolve("assets:small") == tmp_path / "models" / "small"
    with pytest.raises(UserError, match="Did you mean 'small'"):
        resolve("assets:smal")
    monkeypatch.delenv("LOWBIT_ASSETS")
    with pytest.raises(UserError, match="LOWBIT_ASSETS"):
        resolve("assets:small")


def test_a_skeleton_holds_no_weights(tiny_model: Callable[[str], Path]) -> None:
    model = skeleton(open_checkpoint(tiny_model("gpt2")), "language")
    assert all(p.device.type == "meta" for p in model.parameters())


@pytest.mark.hub
def test_a_model_of_the_hub_has_the_sites_of_its_family() -> None:
    from lowbit.models.family import find_sites

    checkpoint = open_checkpoint(resolve("HuggingFaceTB/SmolLM2-135M"))
    sites = find_sites(skeleton(checkpoint, "language"), checkpoint.matrices)
    assert len(sites) == 30 * 7 + 1
    assert sites[0].aliases == ("lm_head",)
