"""PEFT as the oracle of adapters: ours load there, theirs load here, with equal logits.

The base that PEFT gets is `export.plain`'s: the decoded weights as an ordinary model. Everything
is in fp32, where both sides do the same products in an order of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.models import (
    LABELS,
    PAD,
    Opened,
    PlannedModel,
    everywhere,
    installed,
    logits,
    opened,
    some_ids,
    stir,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from lowbit.core.errors import UserError
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule
from lowbit.layers.adapters import Adapter, SvdAdapter
from lowbit.layers.frozen import FrozenMatrix
from lowbit.layers.install import adapters
from lowbit.layers.linear import AdaptedLinear
from lowbit.models.family import family_of
from lowbit.models.skeleton import Kind
from lowbit.quant.codec import encode
from lowbit.quant.formats import parse
from lowbit.runs.export import merge
from lowbit.runs.export import peft as ours
from lowbit.train.losses import HeadLoss

peft = pytest.importorskip("peft", reason="PEFT is not installed")

Folder = Callable[[str], Path]
Start = Callable[[str, Kind], Opened]
FAMILIES: tuple[tuple[str, Kind], ...] = (
    ("llama", "language"),
    ("gpt2", "language"),
    ("bert", "classification"),
    ("gpt2", "classification"),
)
every_family = pytest.mark.parametrize(("name", "kind"), FAMILIES, ids=lambda v: str(v))
MIXED = Plan(
    "mixed",
    "nf4@16+dq",
    rank=4,
    alpha=11.0,
    rule=(Rule(role="ffn", format="int3@16", rank=2), Rule(depth=(1,), role="attention", rank=0)),
)
ADA = RankSchedule("adalora", target=2)


@pytest.fixture
def start(tiny_model: Folder, name: str, kind: Kind) -> Opened:
    return opened(tiny_model(name), kind)


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for fp32 rounding: 1e-5 of the largest logit."""
    return float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def origin(start: Opened) -> ours.Origin:
    transposed = family_of(start.checkpoint.config.model_type).transposed
    return ours.Origin("tiny", "f" * 16, {"a": "nf4@64"}, transposed)


def trained_model(start: Opened, plan: Plan) -> PlannedModel:
    """As after training: no delta is zero, and a rank schedule has cut directions."""
    made = installed(start, plan)
    stir(made.model)
    for number, adapter in enumerate(adapters(made.model).values()):
        if isinstance(adapter, SvdAdapter):
            adapter.alive[: number % (len(adapter.E) + 1)] = False
            adapter.E.data.mul_(adapter.alive)
    return made


def bare(start: Opened, made: PlannedModel, **how: Any) -> nn.Module:
    parts = (made.model, made.sites, start.checkpoint, start.kind, LABELS, PAD)
    return merge.plain_model(*parts, **how)


def in_peft(base: nn.Module, folder: Path) -> nn.Module:
    model: nn.Module = peft.PeftModel.from_pretrained(base, folder)
    return model.eval()


# --- ours, there --------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("schedule", [RankSchedule(), ADA], ids=lambda s: s.kind)
def test_our_adapter_on_the_decoded_base_has_equal_logits_in_peft(
    start: Opened, schedule: RankSchedule, tmp_path: Path
) -> None:
    made = trained_model(start, replace(MIXED, schedule=schedule))
    ranks = ours.write(tmp_path, made.model, start.kind, origin(start))
    assert len(set(ranks.values())) > 1
    assert 0 not in ranks.values()
    expected = logits(made.model, some_ids())
    base = bare(start, made)
    assert not close(logits(base, some_ids()), expected)
    model = in_peft(base, tmp_path)
    assert close(logits(model, some_ids()), expected)
    held = {n: len(m.lora_A["default"].weight) for n, m in wrapped(model).items()}
    assert held == ranks


@every_family
def test_pruned_directions_are_in_neither_file_nor_ranks(start: Opened, tmp_path: Path) -> None:
    made = trained_model(start, replace(MIXED, schedule=ADA))
    alive = {n: int(a.alive.sum()) for n, a in adapters(made.model).items()}  # type: ignore
    assert 0 in alive.values()
    ranks = ours.write(tmp_path, made.model, start.kind, origin(start))
    assert ranks == {name: rank for name, rank in alive.items() if rank}
    tensors = load_file(tmp_path / ours.WEIGHTS)
    found = {
        key.removeprefix(ours.PREFIX).removesuffix(".lora_A.weight"): len(tensor)
        for key, tensor in tensors.items()
        if key.endswith("lora_A.weight")
    }
    assert found == ranks
    config = json.loads((tmp_path / ours.CONFIG).read_text())
    assert config["rank_pattern"] == config["alpha_pattern"] == ranks


def test_the_base_an_adapter_belongs_to_is_written_beside_it(
    tiny_model: Folder, tmp_path: Path
) -> None:
    start = opened(tiny_model("llama"))
    ours.write(tmp_path, trained_model(start, MIXED).model, "language", origin(start))
    said = json.loads((tmp_path / ours.LOWBIT_CONFIG).read_text())
    assert said == {"base": "tiny", "run": "f" * 16, "formats": {"a": "nf4@64"}}


@every_family
def test_what_is_written_and_read_again_changes_no_bit(start: Opened, tmp_path: Path) -> None:
    made = trained_model(start, replace(MIXED, schedule=ADA))
    ours.write(tmp_path, made.model, start.kind, origin(start))
    again = installed(start, MIXED, seed=9)
    ours.attach(again.model, ours.read(tmp_path))
    assert {n: len(a.A) for n, a in adapters(again.model).items()} == {
        n: len(a.factors()[0]) for n, a in adapters(made.model).items() if len(a.factors()[0])
    }
    # Folding a singular value and a scale into A rounds once more or less than the layer does.
    assert close(logits(again.model, some_ids()), logits(made.model, some_ids()))
    ours.write(tmp_path / "2", again.model, start.kind, origin(start))
    one, two = (load_file(f / ours.WEIGHTS) for f in (tmp_path, tmp_path / "2"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


# --- theirs, here -------------------------------------------------------------------------------

TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"], "bert": [
    "query", "value", "attention.output.dense"]}  # fmt: skip
PATTERNS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 6, "rank_pattern": "first", "alpha_pattern": "second"},
    "regular expressions": {
        "r": 4,
        "lora_alpha": 6,
        "rank_pattern": "regex",
        "alpha_pattern": "regex",
    },
}


def theirs(base: nn.Module, start: Opened, name: str, how: dict[str, Any]) -> nn.Module:
    """A PEFT model as a user would make one, its deltas not zero."""
    one, two, *_ = TARGETS[name]
    layers = {"llama": "model.layers", "gpt2": "transformer.h", "bert": "bert.encoder.layer"}
    patterns = {
        "first": {one: 2, two: 3},
        "second": {one: 5},
        "regex": {rf"{layers[name]}[.][1-9][.].*{one}": 2, rf".*{two}": 3},
    }
    how = {k: patterns[v] if isinstance(v, str) else v for k, v in how.items()}
    config = peft.LoraConfig(
        task_type="CAUSAL_LM" if start.kind == "language" else "SEQ_CLS",
        target_modules=TARGETS[name],
        fan_in_fan_out=name == "gpt2",
        **how,
    )
    model = peft.get_peft_model(base, config)
    stir(model)
    return model.eval()


@every_family
@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_adapter_made_by_peft_has_equal_logits_here(
    start: Opened, name: str, pattern: str, tmp_path: Path
) -> None:
    made = installed(start, Plan("p", "fp32", rank=1))
    model = theirs(start.model().float(), start, name, PATTERNS[pattern])
    expected = logits(model, some_ids())
    model.save_pretrained(tmp_path)
    assert not (tmp_path / ours.LOWBIT_CONFIG).exists()
    loaded = ours.read(tmp_path)
    ours.attach(made.model, loaded)
    assert set(adapters(made.model)) == set(loaded.factors)
    assert close(logits(made.model, some_ids()), expected)
    found = {n: len(a.A) for n, a in adapters(made.model).items()}
    assert found == {n: len(m.lora_A["default"].weight) for n, m in wrapped(model).items()}
    assert (len(set(found.values())) > 1) == ("pattern" in pattern or "regular" in pattern)


def wrapped(model: nn.Module) -> dict[str, nn.Module]:
    """PEFT's layers by the names that the base gives them."""
    named = model.named_modules()
    return {n.removeprefix("base_model.model."): m for n, m in named if hasattr(m, "lora_A")}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_an_adapter_made_by_peft_goes_onto_a_quantised_base(
    tiny_model: Folder, name: str, tmp_path: Path
) -> None:
    start = opened(tiny_model(name))
    made = installed(start, replace(MIXED, rank=1))
    model = theirs(bare(start, made), start, name, PATTERNS["patterns"])
    expected = logits(model, some_ids())
    model.save_pretrained(tmp_path)
    ours.attach(made.model, ours.read(tmp_path))
    assert close(logits(made.model, some_ids()), expected)


def test_a_pickled_adapter_is_refused(tiny_model: Folder, tmp_path: Path) -> None:
    start = opened(tiny_model("llama"))
    model = theirs(start.model().float(), start, "llama", PATTERNS["plain"])
    model.save_pretrained(tmp_path, safe_serialization=True)
    torch.save(load_file(tmp_path / ours.WEIGHTS), tmp_path / "adapter_model.bin")
    (tmp_path / ours.WEIGHTS).unlink()
    with pytest.raises(UserError, match="pickled weights are not read"):
        ours.read(tmp_path)


@pytest.mark.parametrize("absent", [ours.WEIGHTS, ours.CONFIG])
def test_a_folder_that_is_no_adapter_says_what_is_missing(tmp_path: Path, absent: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / ours.WEIGHTS)
    (tmp_path / ours.CONFIG).write_text("{}")
    (tmp_path / absent).unlink()
    with pytest.raises(UserError, match=f"has no {absent}"):
        ours.read(tmp_path)


@pytest.mark.parametrize(
    "config", [{"peft_type": "IA3"}, {"peft_type": "LORA", "use_dora": True}, {"r": 1}]
)
def test_what_is_no_plain_lora_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / ours.WEIGHTS)
    (tmp_path / ours.CONFIG).write_text(json.dumps(config))
    with pytest.raises(UserError, match="this is not a plain LoRA adapter"):
        ours.read(tmp_path)


@pytest.mark.parametrize("torn", [ours.WEIGHTS, ours.CONFIG])
def test_a_torn_adapter_is_refused_in_words(tmp_path: Path, torn: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / ours.WEIGHTS)
    (tmp_path / ours.CONFIG).write_text('{"peft_type": "LORA"}')
    (tmp_path / torn).write_bytes((tmp_path / torn).read_bytes()[:-5])
    with pytest.raises(UserError, match="a file of the adapter is damaged"):
        ours.read(tmp_path)


@pytest.mark.parametrize("other", ["mistral", "gpt2", "bert"])
def test_an_adapter_of_another_model_is_refused(
    tiny_model: Folder, tmp_path: Path, other: str
) -> None:
    start = opened(tiny_model("llama"))
    ours.write(tmp_path, trained_model(start, MIXED).model, "language", origin(start))
    loaded = ours.read(tmp_path)
    if other == "mistral":  # the same names, another shape
        name = next(iter(loaded.factors))
        a, b = loaded.factors[name]
        loaded.factors[name] = (a[:, :-1], b)
    made = installed(opened(tiny_model(other)), MIXED)
    said = "was trained on another model"
    if other != "mistral":
        said = "has a site that the model does not have"
    with pytest.raises(UserError, match=said):
        ours.attach(made.model, loaded)


def test_a_head_of_other_classes_is_refused(tiny_model: Folder, tmp_path: Path) -> None:
    start = opened(tiny_model("bert"))
    made = installed(start, MIXED)
    ours.write(tmp_path, made.model, start.kind, origin(start))
    loaded = ours.read(tmp_path)
    loaded.heads["classifier.bias"] = torch.zeros(1)  # which would broadcast
    with pytest.raises(UserError, match=r"'classifier\.bias' has shape \(1,\), expected \(2,\)"):
        ours.attach(made.model, loaded)


def test_a_head_that_is_not_trained_here_is_refused(tiny_model: Folder) -> None:
    made = installed(opened(tiny_model("llama")), MIXED)
    loaded = ours.PeftAdapter({}, {"model.norm.weight": torch.ones(32)})
    with pytest.raises(UserError, match=r"'model\.norm\.weight', which this plan does not train"):
        ours.attach(made.model, loaded)


# --- trap 11: merging is explicit ---------------------------------------------------------------


@every_family
@pytest.mark.parametrize("schedule", [RankSchedule(), ADA], ids=lambda s: s.kind)
def test_merged_onto_the_decoded_base_nothing_is_lost_and_requantised_something_is(
    start: Opened, schedule: RankSchedule
) -> None:
    made = trained_model(start, replace(MIXED, schedule=schedule))
    before = deepcopy(made.model.state_dict())
    expected = logits(made.model, some_ids())
    merged = logits(bare(start, made, merge=True), some_ids())
    again = logits(bare(start, made, merge=True, requantise=made.choices), some_ids())
    assert close(merged, expected)
    lost = float((again - expected).norm() / expected.norm())
    assert lost > 100 * float((merged - expected).norm() / expected.norm())
    assert lost > 1e-3
    # A new model was made; the installed one is what it was.
    assert all(torch.equal(t, before[n]) for n, t in made.model.state_dict().items())
    assert torch.equal(logits(made.model, some_ids()), expected)


@every_family
def test_requantising_without_a_merge_gives_the_same_codes(start: Opened) -> None:
    """So what a requantised merge loses is lost to the adapter, not to decoding and encoding."""
    made = installed(start, Plan("p", "int4@16", rank=1))
    frozen = {s.name: c for s in made.sites if (c := made.choices[s.name]).base == "frozen"}
    base = bare(start, made)
    for site in made.sites:
        if site.name in frozen and site.role in ("attention", "ffn"):
            module = base.get_submodule(site.name)
            weight = module.weight.t() if type(module).__name__ == "Conv1D" else module.weight
            again = encode(weight.detach().contiguous(), frozen[site.name].quant)
            layer = made.model.get_submodule(site.name)
            assert isinstance(layer, AdaptedLinear)
            assert torch.equal(again.codes, layer.frozen.packed.codes)


def test_a_saved_plain_model_opens_like_any_other(tiny_model: Folder, tmp_path: Path) -> None:
    start = opened(tiny_model("gpt2"))
    made = trained_model(start, MIXED)
    model = bare(start, made, merge=True)
    merge.save(model, start.checkpoint, tmp_path)
    again = opened(tmp_path)
    assert torch.equal(logits(again.model(), some_ids()), logits(model, some_ids()))
    assert (tmp_path / "tokenizer.json").is_file()
    expected = logits(made.model, some_ids())
    there = installed(again, choices=everywhere("fp32", again.sites))
    assert close(logits(there.model, some_ids()), expected)


# --- bitsandbytes, used right -------------------------------------------------------------------


def with_exact_scales(rows: int, columns: int) -> Tensor:
    blocks = 0.05 * torch.randn(rows * columns // 64, 64)
    largest = blocks.abs().argmax(-1, keepdim=True)
    exact = blocks.gather(-1, largest).to(torch.float16).float()
    return blocks.scatter(-1, largest, exact).clamp(-exact.abs(), exact.abs()).view(rows, columns)


def test_one_lora_step_agrees_with_bitsandbytes() -> None:
    """The same LoRA on their 4-bit layer and on ours: the same loss and the same gradients.

    Rows are whole blocks (trap 2) and the CPU kernel without gradients is off (trap 1). Every
    block's largest weight is an fp16 number, so both sides keep the same codes and scales, and
    what is left is the rounding of sums of 128 terms.
    """
    bnb = pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes is not installed", exc_type=ImportError
    )
    rows, columns, rank = 96, 128, 4
    weight, x = with_exact_scales(rows, columns), torch.randn(16, columns)
    target = torch.randint(rows, (16,))
    a, b = 0.1 * torch.randn(rank, columns), 0.1 * torch.randn(rows, rank)

    layer = bnb.nn.Linear4bit(
        columns, rows, bias=False, compute_dtype=torch.float32, compress_statistics=False,
        quant_type="nf4",
    )  # fmt: skip
    layer.weight = bnb.nn.Params4bit(
        weight.clone(), requires_grad=False, compress_statistics=False, quant_type="nf4"
    )
    layer = layer.to("cpu")
    layer.support_avx512bf16_for_cpu = False
    adapter = Adapter(rank, (rows, columns), float(rank), 0.0, torch.Generator())
    with torch.no_grad():
        adapter.A.copy_(a)
        adapter.B.copy_(b)
    frozen = FrozenMatrix(encode(weight, parse("nf4@64")))
    mine = AdaptedLinear(frozen, None, adapter)

    def step(product: nn.Module) -> tuple[Tensor, ...]:
        given, low, high = (t.clone().requires_grad_() for t in (x, a, b))
        out = product(given) + F.linear(F.linear(given, low), high)
        loss = F.cross_entropy(out, target)
        return loss.detach(), *torch.autograd.grad(loss, (given, low, high))

    loss = F.cross_entropy(mine(x), target)
    loss.backward()
    assert adapter.A.grad is not None
    assert adapter.B.grad is not None
    expected, ours_ = step(layer), step(frozen)
    allowed = columns * 2.0**-24
    for one, two in zip(ours_, expected, strict=True):
        assert float((one - two).norm()) <= allowed * float(two.norm())
    assert float((loss.detach() - expected[0]).abs()) <= allowed * float(expected[0])
    for gradient, two in ((adapter.A.grad, expected[2]), (adapter.B.grad, expected[3])):
        assert float((gradient - two).norm()) <= allowed * float(two.norm())
    with torch.no_grad():
        head, plain_head = HeadLoss.apply(x, frozen, target), F.cross_entropy(layer(x), target)
    assert float((head.mean() - plain_head).abs()) <= allowed * float(plain_head)
