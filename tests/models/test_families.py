"""What every model family promises. A new `models/x.py` with a FAMILY joins by being there.

Each family is tried on every tiny model (`tiny.FAMILIES`) whose `model_type` it covers, in every
kind of task that the model can be asked for; a family without a tiny model fails here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import CASES, LABELS, Opened, everywhere, installed, logits, opened, some_ids
from torch import nn

from lowbit.core.errors import RunError, UserError
from lowbit.core.plugins import plugins
from lowbit.core.spec import BLOCK_ROLES, Plan
from lowbit.layers.frozen import FrozenEmbedding
from lowbit.layers.install import LayerSettings, install
from lowbit.models import family as families
from lowbit.models.checkpoint import open_checkpoint
from lowbit.models.family import MATRICES, find_sites, matrices, shape_of
from lowbit.models.skeleton import Kind, skeleton

Folder = Callable[[str], Path]
every_case = pytest.mark.parametrize(("name", "kind"), CASES, ids=lambda value: str(value))


@pytest.fixture
def start(tiny_model: Folder, name: str, kind: Kind) -> Opened:
    return opened(tiny_model(name), kind)


def test_every_family_has_a_tiny_model(tiny_model: Folder) -> None:
    tried = {opened(tiny_model(name)).checkpoint.config.model_type for name, _ in CASES}
    for family in plugins("lowbit.models", "FAMILY").values():
        assert tried & set(family.model_types), f"tests/tiny.py has no model for {family.name}"


@every_case
def test_every_matrix_is_exactly_one_site_or_an_alias_of_one(start: Opened) -> None:
    model = start.model()
    found = [name for site in start.sites for name in (site.name, *site.aliases)]
    assert len(found) == len(set(found))
    assert set(found) == {name for name, _ in matrices(model)}
    # Whatever the module's type is called: no two-dimensional parameter is left outside.
    weights = {id(model.get_submodule(name).weight) for name in found}
    left = [n for n, p in model.named_parameters() if p.dim() >= 2 and id(p) not in weights]
    assert left == []


@every_case
def test_exactly_one_pattern_covers_a_site(start: Opened) -> None:
    family = families.family_of(start.checkpoint.config.model_type)
    for site in start.sites:
        for name in (site.name, *site.aliases):
            alone = [replace(family, sites=(entry,)).match(name) for entry in family.sites]
            assert sum(found is not None for found in alone) == 1, name


@every_case
def test_blocks_are_numbered_from_zero_and_only_they_are(start: Opened) -> None:
    blocks = {site.depth for site in start.sites if site.role in BLOCK_ROLES}
    assert blocks == set(range(start.checkpoint.config.num_hidden_layers))
    assert {site.depth for site in start.sites if site.role not in BLOCK_ROLES} == {None}
    for depth in blocks:
        roles = {site.role for site in start.sites if site.depth == depth}
        assert roles == set(BLOCK_ROLES)


@every_case
def test_a_sites_shape_is_out_by_in_whatever_the_module_keeps(start: Opened) -> None:
    model, sizes = start.model(), dict[str, tuple[int, int]]()
    sites = {site.name: site for site in start.sites if site.role != "embedding"}

    def look(name: str) -> Callable[..., None]:
        return lambda _, given, made: sizes.update({name: (made.shape[-1], given[0].shape[-1])})

    for name in sites:
        model.get_submodule(name).register_forward_hook(look(name))
    logits(model, some_ids())
    assert sizes == {name: site.shape for name, site in sites.items()}
    for site in start.sites:
        if site.role == "embedding":
            assert site.shape == tuple(model.get_submodule(site.name).weight.shape)


@every_case
def test_the_skeleton_has_the_sites_of_the_loaded_model(start: Opened) -> None:
    assert find_sites(start.model(), start.checkpoint.matrices) == start.sites


@every_case
@pytest.mark.parametrize("compute", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def test_the_checkpoints_own_type_at_rank_zero_changes_no_bit(
    start: Opened, compute: torch.dtype
) -> None:
    ids = some_ids()
    plain = start.model()
    for parameter in plain.parameters():  # parameters only: rotary frequencies stay in fp32
        parameter.data = parameter.data.to(compute)
    expected = logits(plain, ids)
    made = installed(start, choices=everywhere("bf16", start.sites), compute=compute)
    assert expected.dtype == compute
    assert torch.equal(logits(made.model, ids), expected)


@every_case
def test_only_heads_that_the_checkpoint_lacks_are_fresh(start: Opened) -> None:
    fresh = [site.name for site in start.sites if site.fresh]
    if start.kind == "language":
        assert fresh == []
    else:
        (head,) = fresh
        assert head in ("classifier", "score")


@pytest.mark.parametrize(
    ("name", "head", "embedding"),
    [
        ("llama", "lm_head", "model.embed_tokens"),
        ("gpt2", "lm_head", "transformer.wte"),
    ],
)
def test_a_tied_head_stays_tied_and_is_counted_once(
    tiny_model: Folder, name: str, head: str, embedding: str
) -> None:
    start = opened(tiny_model(name))
    (site,) = [s for s in start.sites if s.name == embedding]
    assert site.aliases == (head,)
    made = installed(start, Plan("p", "int4@64", rank=0))
    counted = start.counted(Plan("p", "int4@64", rank=1))
    layer = made.model.get_submodule(embedding)
    assert isinstance(layer, FrozenEmbedding)
    assert layer.frozen is made.model.get_submodule(head).frozen
    assert counted.count.parameters == sum(p.numel() for p in start.model().parameters())


@pytest.mark.parametrize("name", ["llama-untied", "mistral", "qwen3"])
def test_an_untied_head_is_a_site_of_its_own(tiny_model: Folder, name: str) -> None:
    start = opened(tiny_model(name))
    names = [site.name for site in start.sites]
    assert "lm_head" in names
    assert all(site.aliases == () for site in start.sites)


def test_an_unknown_model_type_is_the_users_mistake(tiny_model: Folder, tmp_path: Path) -> None:
    shutil.copytree(tiny_model("llama"), tmp_path / "t5")
    path = tmp_path / "t5" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "t5"}))
    with pytest.raises(UserError, match=r"no model family covers 't5'.*llama"):
        open_checkpoint(tmp_path / "t5")


@pytest.mark.parametrize("kind", MATRICES)
def test_a_matrix_that_no_pattern_covers_is_an_error(tiny_model: Folder, kind: str) -> None:
    from transformers.pytorch_utils import Conv1D

    made = {"Linear": nn.Linear, "Conv1D": Conv1D, "Embedding": nn.Embedding}[kind](4, 6)
    model = skeleton(opened(tiny_model("gpt2")).checkpoint, "language", LABELS)
    model.transformer.h[1].mlp.extra = made
    with pytest.raises(
        RunError, match=r"no pattern matches the matrix 'transformer\.h\.1\.mlp\.ex"
    ):
        find_sites(model)


def test_shape_of_turns_conv1d_only() -> None:
    from transformers.pytorch_utils import Conv1D

    assert shape_of(Conv1D(6, 4)) == (6, 4)
    assert shape_of(nn.Linear(4, 6)) == (6, 4)
    assert shape_of(nn.Embedding(6, 4)) == (6, 4)


def test_a_site_without_a_choice_is_an_error(tiny_model: Folder) -> None:
    start = opened(tiny_model("llama"))
    choices = everywhere("bf16", start.sites)
    choices.pop(start.sites[3].name)
    with pytest.raises(KeyError):
        install(start.model(), start.sites, choices, LayerSettings(Plan("p"), torch.float32, 0))
