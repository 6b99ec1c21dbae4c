"""Laws of install: what was planned is what is there, and what is there is what was counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.models import (
    CASES,
    FEW,
    LABELS,
    PAD,
    Opened,
    PlannedModel,
    installed,
    logits,
    opened,
    some_ids,
    stir,
)
from helpers.models import batch_of as flat_batch
from safetensors.torch import load_file
from torch import Tensor, nn

from lowbit.core.errors import RunError, UserError
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Choice, Plan, Rule
from lowbit.layers.adapters import SvdAdapter
from lowbit.layers.frozen import FrozenEmbedding, FrozenMatrix
from lowbit.layers.install import LayerSettings, adapters, install, trained_layers
from lowbit.layers.linear import AdaptedLinear, TrainedLinear
from lowbit.models.skeleton import Kind
from lowbit.plan.rules import choose
from lowbit.quant.byte_counts import adapter_numbers, matrix_bytes
from lowbit.quant.formats import CASTS, FORMATS, parse
from lowbit.runs.export import merge, peft
from lowbit.tasks.base import Batch
from lowbit.train.losses import training_loss

Folder = Callable[[str], Path]
every_case = pytest.mark.parametrize(("name", "kind"), FEW, ids=lambda value: str(value))
ORIGIN = peft.Origin("tiny", "0" * 16, {})
MIXED = Plan(
    "mixed",
    "nf4@16+dq",
    embedding="int6@row",
    rank=4,
    rule=(
        Rule(role="ffn", format="int3@16", rank=2),
        Rule(depth=(-1,), format="int8@row"),
        Rule(role="attention", depth=(0,), rank=0),
    ),
)


@pytest.fixture
def start(tiny_model: Folder, name: str, kind: Kind) -> Opened:
    return opened(tiny_model(name), kind)


def size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def kept_by(module: nn.Module) -> int:
    """Bytes of a module's own parameters and buffers."""
    return sum(map(size, (*module.parameters(), *module.buffers())))


def frozen_of(module: nn.Module) -> FrozenMatrix:
    assert isinstance(module, AdaptedLinear | FrozenEmbedding)
    return module.frozen


def batch_of(kind: Kind) -> Batch:
    ids = some_ids()
    target = torch.tensor([0, 1, 1]) if kind == "classification" else ids.roll(-1, 1)
    return flat_batch(ids, target)


def gradients(made: PlannedModel, kind: Kind) -> dict[str, Tensor | None]:
    loss, count = training_loss(made.model, kind, batch_of(kind))
    (loss / count).backward()
    return {n: p.grad for n, p in made.model.named_parameters() if p.requires_grad}


# --- trap 6: nothing is skipped without a word ------------------------------------------------


@every_case
def test_every_planned_site_changes_its_type_and_its_bytes(start: Opened) -> None:
    model = start.model()
    before = {site.name: size(model.get_submodule(site.name).weight) for site in start.sites}
    made = installed(start, Plan("p", "int4@16", embedding="int4@16", rank=2))
    for site in start.sites:
        for name in (site.name, *site.aliases):
            module = made.model.get_submodule(name)
            if site.fresh:
                assert isinstance(module, TrainedLinear)
                continue
            assert isinstance(module, AdaptedLinear | FrozenEmbedding)
            assert kept_by(module.frozen) == matrix_bytes(parse("int4@16"), site.shape).total
            assert kept_by(module.frozen) < before[site.name] / 3


def test_a_layer_that_refuses_to_be_replaced_is_an_error(tiny_model: Folder) -> None:
    class Stubborn(nn.Module):
        """Keeps what it has: as a library's own wrapper might."""

        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            for name, child in inner.named_children():
                self.add_module(name, child)

        def __setattr__(self, name: str, value: object) -> None:
            if not isinstance(value, AdaptedLinear):
                super().__setattr__(name, value)

    start = opened(tiny_model("llama"))
    model = start.model()
    model.model.layers[0].mlp = Stubborn(model.model.layers[0].mlp)
    with pytest.raises(RunError, match=r"model\.layers\.0\.mlp\.gate_proj is still a Linear"):
        install(model, start.sites, choose(Plan("p"), start.sites), settings())


def settings(seed: int = 0) -> LayerSettings:
    return LayerSettings(Plan("p"), torch.float32, seed)


@every_case
def test_nothing_trains_but_adapters_and_trained_bases(start: Opened) -> None:
    made = installed(start, MIXED, compute=torch.bfloat16)
    heads = tuple(f"{name}." for name in trained_layers(made.model))
    for name, parameter in made.model.named_parameters():
        mine = ".adapter." in name or name.startswith(heads or ("no head",))
        assert parameter.requires_grad == mine, name
        if parameter.is_floating_point():
            assert parameter.dtype == (torch.float32 if mine else torch.bfloat16), name


# --- trap 9: any mix of formats ---------------------------------------------------------------


@every_case
def test_every_format_there_is_may_stand_beside_every_other(start: Opened) -> None:
    names = [*CASTS, *(f"{name}@16" for name in FORMATS)]
    names += [f"{name}+dq" for name in names if name not in CASTS]
    names += ["int4@row", "int2@tensor", "int4@16:zp", "int4@16:min+dq", "int5@7:mse"]
    choices = {
        site.name: Choice(parse(names[i % len(names)]), i % 3 if site.depth is not None else 0)
        for i, site in enumerate(start.sites)
    }
    # Few sites and many formats: each site gets several, one after the other.
    for turn in range(-(-len(names) // len(start.sites))):
        chosen = {
            name: replace(choice, quant=parse(names[(i + turn * len(choices)) % len(names)]))
            for i, (name, choice) in enumerate(choices.items())
        }
        made = installed(start, choices=chosen)
        assert bool(torch.isfinite(logits(made.model, some_ids())).all())
        for site in start.sites:
            kept = frozen_of(made.model.get_submodule(site.name))
            assert kept.spec == chosen[site.name].quant
        assert {n: len(a.A) for n, a in adapters(made.model).items()} == {
            name: choice.rank for name, choice in chosen.items() if choice.rank
        }


# --- traps 10 and 12: the counted bytes are the real ones -------------------------------------


@every_case
@pytest.mark.parametrize(
    "plan",
    [
        MIXED,
        Plan("doubled", "int4@16:zp+dq", embedding="int2@row", rank=3),
        Plan("plain", "bf16", rank=1),
        Plan("whole", "ternary@16", embedding="nf3@16", rank=16, rule=(Rule(role="ffn", rank=1),)),
    ],
    ids=lambda plan: plan.name,
)
def test_the_ledger_counts_the_bytes_that_are_really_kept(
    start: Opened, plan: Plan, tmp_path: Path
) -> None:
    count = start.counted(plan).count
    made = installed(start, plan, compute=torch.bfloat16)  # the checkpoint's own type
    stores = {id(f): f for f in made.model.modules() if isinstance(f, FrozenMatrix)}
    assert count.base == sum(map(kept_by, stores.values()))
    peft.write(tmp_path, made.model, start.kind, ORIGIN)
    assert count.adapters == sum(map(size, load_file(tmp_path / peft.WEIGHTS).values()))
    learnt = [p for p in made.model.parameters() if p.requires_grad]
    assert count.trainable == sum(p.numel() for p in learnt)
    inside = {id(p) for f in stores.values() for p in f.parameters()} | {id(p) for p in learnt}
    rest = {id(p): size(p) for p in made.model.parameters() if id(p) not in inside}
    assert count.other == sum(rest.values())
    assert count.parameters == sum(p.numel() for p in start.model().parameters())
    assert count.stored == count.base + count.other + count.adapters


@every_case
def test_embeddings_and_heads_are_counted_like_all_others(start: Opened) -> None:
    plan = Plan("p", "int4@16", embedding="int8@row")
    small = start.counted(replace(plan, embedding="int2@row")).count
    large = start.counted(plan).count
    there = [s for s in start.sites if s.role in ("embedding", "head") and not s.fresh]
    assert any(site.role == "embedding" for site in there)
    saved = sum(
        matrix_bytes(parse("int8@row"), s.shape).total
        - matrix_bytes(parse("int2@row"), s.shape).total
        for s in there
    )
    assert large.base - small.base == saved > 0


@every_case
def test_a_trained_base_is_counted_as_trained_and_not_as_stored(start: Opened) -> None:
    site = next(s for s in start.sites if s.role == "ffn")
    plan = Plan("p", "int4@16", rank=2)
    freed = replace(plan, rule=(Rule(name=site.name, format="fp32", base="trained"),))
    before, after = start.counted(plan).count, start.counted(freed).count
    numbers = site.shape[0] * site.shape[1]
    bias = 0 if (kept := start.model().get_submodule(site.name).bias) is None else len(kept)
    assert before.base - after.base == matrix_bytes(parse("int4@16"), site.shape).total
    assert after.trainable - before.trainable == numbers + bias - adapter_numbers(site, 2)
    assert after.parameters == before.parameters
    assert before.other - after.other == 2 * bias


# --- trap 8: what is new is trained, in full precision, and saved ------------------------------

with_head = pytest.mark.parametrize(
    ("name", "kind"), [c for c in CASES if c[1] == "classification"], ids=lambda v: str(v)
)


@with_head
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_fresh_head_is_trained_in_full_precision(start: Opened, compute: torch.dtype) -> None:
    made = installed(start, Plan("p", "int4@16", rank=2), compute=compute)
    (head,) = [site.name for site in start.sites if site.fresh]
    assert set(trained_layers(made.model)) == {head}
    found = {n: g for n, g in gradients(made, start.kind).items() if n.startswith(f"{head}.")}
    assert f"{head}.weight" in found
    for gradient in found.values():
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert bool((gradient != 0).all())


@with_head
def test_a_fresh_head_is_saved_with_the_adapter_and_restored(start: Opened, tmp_path: Path) -> None:
    # The scale goes into the saved factors: twice is exact, 7/3 would be rounded once more.
    plan = Plan("p", "int4@16", rank=3, alpha=6.0)
    first, second = installed(start, plan, seed=0), installed(start, plan, seed=1)
    stir(first.model)
    expected = logits(first.model, some_ids())
    assert not torch.equal(logits(second.model, some_ids()), expected)
    peft.write(tmp_path, first.model, start.kind, ORIGIN)
    peft.attach(second.model, peft.read(tmp_path))
    assert torch.equal(logits(second.model, some_ids()), expected)


@with_head
def test_plans_that_are_compared_start_from_the_same_head(start: Opened) -> None:
    (head,) = [site.name for site in start.sites if site.fresh]

    def weight(plan: Plan, seed: int) -> Tensor:
        return trained_layers(installed(start, plan, seed=seed).model)[head].weight.detach()

    one = weight(Plan("a", "int4@16"), 0)
    assert torch.equal(one, weight(MIXED, 0))
    assert not torch.equal(one, weight(MIXED, 1))


def test_a_plans_rules_leave_a_fresh_head_in_full_precision(tiny_model: Folder) -> None:
    start = opened(tiny_model("bert"))
    plan = Plan("p", "int4@16", rule=(Rule(role="head", format="int2@64"), Rule(format="int3@16")))
    choices = choose(plan, start.sites)
    assert choices["classifier"] == Choice(parse("fp32"), 0, "trained")
    assert choices["bert.pooler.dense"].quant == parse("int3@16")


# --- a trained base ----------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("role", ["attention", "ffn"])
def test_a_block_matrix_may_be_trained(start: Opened, compute: torch.dtype, role: str) -> None:
    site = next(s for s in start.sites if s.role == role)
    rule = Rule(name=site.name, format="fp32", base="trained")
    made = installed(start, Plan("p", "bf16", rank=1, rule=(rule,)), compute=compute)
    layer = made.model.get_submodule(site.name)
    assert isinstance(layer, TrainedLinear)
    assert layer.weight.dtype == torch.float32
    gradient = gradients(made, start.kind)[f"{site.name}.weight"]
    assert gradient is not None
    assert float(gradient.abs().sum()) > 0
    assert site.name not in adapters(made.model)


@every_case
def test_a_trained_base_starts_as_the_checkpoint_and_is_exported_as_it_ends(
    start: Opened, tmp_path: Path
) -> None:
    blocks = [s for s in start.sites if s.role == "attention"]
    rules = tuple(Rule(name=s.name, format="fp32", base="trained") for s in blocks)
    plan = Plan("p", "fp32", rank=0, rule=rules)
    made = installed(start, plan)
    plain_model = start.model()
    for site in blocks:
        module, layer = plain_model.get_submodule(site.name), made.model.get_submodule(site.name)
        turned = module.weight.shape != layer.weight.shape or type(module).__name__ == "Conv1D"
        assert torch.equal(layer.weight, (module.weight.t() if turned else module.weight).float())
    stir(made.model)
    expected = logits(made.model, some_ids())
    peft.write(tmp_path, made.model, start.kind, ORIGIN)
    again = installed(start, plan)
    peft.attach(again.model, peft.read(tmp_path))
    assert torch.equal(logits(again.model, some_ids()), expected)
    out = merge.plain_model(made.model, made.sites, start.checkpoint, start.kind, LABELS, PAD)
    # The same products in another order of summation: fp32 rounding through a few layers.
    assert torch.allclose(logits(out, some_ids()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("text", ["int4@64", "nf4@64+dq", "ternary@16", "int8@row"])
def test_a_base_in_codes_cannot_be_trained(tiny_model: Folder, text: str) -> None:
    start = opened(tiny_model("llama"))
    plan = Plan("p", text, rule=(Rule(role="ffn", base="trained"),))
    with pytest.raises(UserError, match=rf"needs fp32, bf16 or fp16, .*not {text[:4]}"):
        start.counted(plan)  # before any weight is read


@pytest.mark.parametrize("name", ["llama", "llama-untied", "gpt2", "bert"])
def test_an_embedding_cannot_be_trained(tiny_model: Folder, name: str) -> None:
    start = opened(tiny_model(name))
    plan = Plan("p", "fp32", rule=(Rule(role="embedding", base="trained"),))
    with pytest.raises(UserError, match="embedding or a tied head cannot be trained"):
        start.counted(plan)


# --- what the user wrote, and what would be right ----------------------------------------------


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan("p", rank=33), r"rank 33 for .* of 32 x 32; a rank is between 0 and 32"),
        (Plan("p", rule=(Rule(name="*.fc9"),)), r"rule 1 \(name = '\*\.fc9'\) matches no site"),
        (Plan("p", rule=(Rule(depth=(2,)),)), r"rule 1 \(depth = \[2\]\) matches no site"),
        (
            Plan("p", rule=(Rule(role="embedding", rank=4),)),
            r"rule 1 sets a rank for embeddings or heads, which have no adapters",
        ),
        (
            Plan("p", rank=2, schedule=RankSchedule("adalora", target=4)),
            r"target rank 4 is above the average rank 2 it starts from",
        ),
    ],
)
def test_a_plan_that_cannot_be_carried_out_says_what_would_be_right(
    tiny_model: Folder, plan: Plan, said: str
) -> None:
    with pytest.raises(UserError, match=rf"plan 'p': .*{said}"):
        choose(plan, opened(tiny_model("llama")).sites)


def test_a_rule_that_matches_nothing_shows_how_sites_are_called(tiny_model: Folder) -> None:
    sites = opened(tiny_model("gpt2")).sites
    with pytest.raises(UserError) as caught:
        choose(Plan("p", rule=(Rule(format="bf16"), Rule(name="model.*"))), sites)
    assert "rule 2" in str(caught.value)
    assert all(f"'{site.name}'" in str(caught.value) for site in sites[:3])


def test_a_plan_that_trains_nothing_is_refused(tiny_model: Folder) -> None:
    with pytest.raises(UserError, match="trains nothing: give some sites a rank"):
        opened(tiny_model("llama")).counted(Plan("p", rank=0))


# --- seeds --------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("schedule", ["fixed", "adalora"])
def test_a_sites_adapter_depends_on_the_seed_and_on_nothing_else_in_the_plan(
    start: Opened, schedule: str
) -> None:
    plan = Plan("a", "bf16", rank=4, schedule=RankSchedule(schedule, target=1))  # type: ignore
    other = replace(
        plan, name="b", format="int4@16", rule=(Rule(role="ffn", rank=2), Rule(depth=(0,), rank=1))
    )
    one, same = (adapters(installed(start, plan, seed=7).model) for _ in range(2))
    mixed = adapters(installed(start, other, seed=7).model)
    moved = adapters(installed(start, plan, seed=8).model)
    shared = [s.name for s in start.sites if s.role == "attention" and s.depth == 1]
    assert shared
    for name in one:
        assert torch.equal(one[name].A, same[name].A)
        assert not torch.equal(one[name].A, moved[name].A)
    for name in shared:
        assert torch.equal(one[name].A, mixed[name].A)
        assert torch.equal(one[name].B, mixed[name].B)
    assert isinstance(one[shared[0]], SvdAdapter) == (schedule == "adalora")


@every_case
def test_a_new_adapter_changes_no_bit_of_the_output(start: Opened) -> None:
    for schedule in (RankSchedule(), RankSchedule("adalora", target=2)):
        plan = Plan("p", "int4@16", rank=4, schedule=schedule)
        bare = installed(start, replace(plan, rank=0, schedule=RankSchedule()))
        made = installed(start, plan)
        assert torch.equal(logits(made.model, some_ids()), logits(bare.model, some_ids()))
