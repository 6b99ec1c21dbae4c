"""Calibrated rounding of a whole model: block after block, on training text, cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from helpers.command_line import lowbit
from torch import Tensor, nn

from lowbit.core.errors import RunError, UserError
from lowbit.core.execution import Execution
from lowbit.core.spec import Plan, Rounding, Rule, RunSpec, TaskSpec, TrainSpec
from lowbit.models.loading import load
from lowbit.quant import two_sided
from lowbit.quant.calibrated import encode_calibrated, output_error
from lowbit.quant.codec import Packed, decode, encode
from lowbit.quant.two_sided import loss_error
from lowbit.runs.build import build_run, build_untrained, planned_sites, site_choices
from lowbit.runs.cached_scores import untrained_scores
from lowbit.runs.device import cpu_machine
from lowbit.runs.export_model import export_model
from lowbit.runs.prepare import Prepared, prepare_run
from lowbit.runs.rounding import head, round_model
from lowbit.runs.rounding.gradients import Gradients, cached_gradients
from lowbit.runs.rounding.head import LOOKUP_SHARE
from lowbit.runs.rounding.moments import calibration_batches
from lowbit.runs.rounding.round_model import round_sites
from lowbit.runs.rounding.rounded_sites import RoundedSite
from lowbit.runs.run import run
from lowbit.train.losses import hidden_of

Folder = Callable[[str], Path]
CPU = Execution(device="cpu", threads=1)
PLAN = Plan("calibrated", "int3@16", embedding="int8@row", rank=2, rounding="calibrated")


@pytest.fixture
def prepared(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Prepared:
    return prepare(tiny_model("llama"), tiny_text, tmp_path, monkeypatch)


def prepare(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan = PLAN
) -> Prepared:
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "cache"))
    train = TrainSpec(compute="fp32", steps=3, lr=0.05, batch=4)
    return prepare_run(RunSpec(str(model), TaskSpec(str(text), window=24), plan, train, 0))


def rounded_sites(prepared: Prepared) -> Mapping[str, RoundedSite]:
    planned = planned_sites(prepared)
    return round_sites(prepared, planned.sites, planned.choices, lambda *a: None)


def rounded(prepared: Prepared) -> Mapping[str, Packed]:
    return {name: site.packed for name, site in rounded_sites(prepared).items()}


def decoded_embedding(prepared: Prepared, model: nn.Module) -> None:
    planned, heads = planned_sites(prepared), rounded(prepared)
    for site in planned.sites:
        if site.depth is None and not site.fresh:
            module = model.get_submodule(site.name)
            weight = module.weight.detach()  # type: ignore[operator, union-attr]
            packed = heads.get(site.name) or encode(weight, planned.choices[site.name].quant)
            module.weight.data = decode(packed)  # type: ignore[union-attr]


@torch.no_grad()
def moment_at(prepared: Prepared, model: nn.Module, name: str) -> Tensor:
    """The mean w x x' of a module's inputs, by a hook on the whole model."""
    inputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, given: inputs.append(given[0].reshape(-1, given[0].shape[-1]))
    )
    batches = calibration_batches(prepared)
    for batch in batches:
        hidden_of(model, batch)
    handle.remove()
    rows = torch.cat(inputs)
    weights = cached_gradients(prepared, batches, False, lambda *a: None).weights[name]
    return rows.t() @ (weights[:, None] * rows) / len(rows)


def test_the_first_block_sees_the_rounded_embedding(prepared: Prepared) -> None:
    model = load(prepared.checkpoint, "language").float()
    decoded_embedding(prepared, model)
    name = "model.layers.0.self_attn.v_proj"
    weight = model.get_submodule(name).weight.detach()  # type: ignore[operator, union-attr]
    moment = moment_at(prepared, model, name)
    spec = planned_sites(prepared).choices[name].quant
    packed = rounded(prepared)[name]
    expected = encode_calibrated(weight, spec, moment)
    torch.testing.assert_close(
        output_error(weight, packed, moment), output_error(weight, expected, moment), rtol=0.02,
        atol=1e-7,
    )  # fmt: skip
    nearest = output_error(weight, encode(weight, spec), moment)
    assert bool((output_error(weight, packed, moment) <= nearest * 1.01 + 1e-9).all())


@pytest.mark.parametrize(
    ("family", "name", "share"),
    [("llama", "model.embed_tokens", LOOKUP_SHARE), ("llama-untied", "lm_head", 0.0)],
)
def test_a_head_is_rounded_for_the_last_hidden_states_of_the_exact_model(
    family: str, name: str, share: float, tiny_model: Folder, tiny_text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plan = replace(PLAN, embedding="int3@16")
    prepared = prepare(tiny_model(family), tiny_text, tmp_path, monkeypatch, plan)
    exact = load(prepared.checkpoint, "language").float()
    weight = exact.get_submodule(name).weight.detach()  # type: ignore[operator, union-attr]
    with torch.no_grad():
        rows = torch.cat([hidden_of(exact, batch)[0] for batch in calibration_batches(prepared)])
    moment = rows.t() @ rows / len(rows)
    moment.diagonal().add_(share * moment.diagonal().mean())
    packed, spec = rounded(prepared)[name], planned_sites(prepared).choices[name].quant
    found = output_error(weight, packed, moment).sum()
    expected = output_error(weight, encode_calibrated(weight, spec, moment), moment).sum()
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-7)
    assert found < output_error(weight, encode(weight, spec), moment).sum()


def test_a_lookup_table_of_its_own_is_rounded_to_nearest(
    tiny_model: Folder, tiny_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(tiny_model("llama-untied"), tiny_text, tmp_path, monkeypatch)
    assert "lm_head" in rounded(prepared)
    assert "model.embed_tokens" not in rounded(prepared)


def test_a_heads_rows_are_rounded_some_at_a_time_with_the_same_result(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rounded(prepared)["model.embed_tokens"]
    monkeypatch.setattr(head, "HEAD_ROWS", 7)
    monkeypatch.setattr(round_model, "read_cached", lambda *a: None)
    parts = rounded(prepared)["model.embed_tokens"]
    error = output_error(decode(whole), parts, torch.eye(whole.shape[1]))
    assert float(error.mean()) < 1e-6


def test_a_later_block_sees_the_rounded_blocks_before_it(prepared: Prepared) -> None:
    """Its matrices differ where the first block is kept in 16 bits."""
    plain = replace(PLAN, name="half", rule=(Rule(depth=(0,), format="bf16"),))
    whole, half = rounded(prepared), rounded(prepared.with_plan(plain))
    name = "model.layers.1.mlp.down_proj"
    assert not torch.equal(whole[name].codes, half[name].codes)
    assert {site for site in half if ".0." in site} == set()


@pytest.mark.parametrize("family", ["llama", "llama-untied", "mistral", "qwen3", "gpt2"])
def test_the_last_hidden_states_change_less_than_with_nearest_rounding(
    family: str, tiny_model: Folder, tiny_text: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    prepared = prepare(tiny_model(family), tiny_text, tmp_path, monkeypatch)
    exact = load(prepared.checkpoint, "language").float()

    def error(plan: Plan) -> float:
        built = build_untrained(prepared.with_plan(plan), cpu_machine(CPU))
        total = 0.0
        with torch.no_grad():
            for batch in calibration_batches(prepared):
                difference = hidden_of(built.model, batch)[0] - hidden_of(exact, batch)[0]
                total += float(difference.square().sum())
        return total

    assert error(PLAN) < error(replace(PLAN, rounding="nearest"))


def test_an_encoder_is_rounded_too(
    tiny_model: Folder, tiny_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(tiny_model("bert"), tiny_jsonl, tmp_path, monkeypatch)
    planned = planned_sites(prepared)
    blocks = {site.name for site in planned.sites if site.depth is not None}
    assert set(rounded(prepared)) == blocks


def test_it_is_deterministic_and_done_once(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = rounded(prepared)

    def never(*_: object) -> None:
        raise AssertionError("rounded again")

    with monkeypatch.context() as patch:
        patch.setattr(round_model, "encode_calibrated", never)
        cached = rounded(prepared)
    monkeypatch.setenv("LOWBIT_CACHE", str(tmp_path / "elsewhere"))
    again = rounded(prepared)
    for name, matrix in first.items():
        for key, tensor in matrix.tensors().items():
            assert torch.equal(tensor, cached[name].tensors()[key])
            assert torch.equal(tensor, again[name].tensors()[key])


def test_two_sided_rounding_is_better_by_its_own_measure(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first block, whose inputs do not depend on the rounding of blocks before it."""
    monkeypatch.setattr(two_sided, "ROWS", 8)
    plan = replace(PLAN, rounding="two-sided")
    both = prepared.with_plan(plan)
    model = load(prepared.checkpoint, "language").float()
    decoded_embedding(prepared, model)
    batches = calibration_batches(prepared)
    gradients = cached_gradients(both, batches, True, lambda *a: None)
    for part in ("self_attn.q_proj", "self_attn.k_proj"):
        name = f"model.layers.0.{part}"
        weight = model.get_submodule(name).weight.detach()  # type: ignore[operator, union-attr]
        moment, factors = moment_at(prepared, model, name), gradients.factors(name)
        one, two = (loss_error(weight, rounded(each)[name], moment, factors)
                    for each in (prepared, both))  # fmt: skip
        assert two <= one * 1.001
        assert not torch.equal(rounded(prepared)[name].codes, rounded(both)[name].codes)


def test_damaged_gradients_are_named_and_not_used(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = prepared.with_plan(replace(PLAN, rounding="two-sided"))
    batches = calibration_batches(prepared)
    gradients = cached_gradients(both, batches, True, lambda *a: None)
    name = "model.layers.0.self_attn.q_proj"
    (file,) = (tmp_path / "cache" / "output-gradients").rglob(f"{name}.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RunError, match="gone or damaged: delete its folder"):
        gradients.factors(name)


def test_an_untrained_head_weighs_no_tokens(
    tiny_model: Folder, tiny_jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(tiny_model("bert"), tiny_jsonl, tmp_path, monkeypatch)
    assert not cached_gradients(prepared, calibration_batches(prepared), True, no_progress).weights
    two_sided = prepared.with_plan(replace(PLAN, rounding="two-sided"))
    for name, packed in rounded(prepared).items():
        assert torch.equal(packed.codes, rounded(two_sided)[name].codes)


def no_progress(*_: object) -> None:
    pass


def test_scores_of_the_two_roundings_are_apart(prepared: Prepared) -> None:
    """One must not be read from the other's cache."""
    machine = cpu_machine(CPU)
    nearest = prepared.with_plan(replace(PLAN, rounding="nearest"))
    one, other = (untrained_scores(each, machine) for each in (nearest, prepared))
    assert one.value != other.value
    assert one.stored == other.stored


def test_a_calibrated_run_is_trained_and_exported(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    record = run(prepared.spec, folder, CPU)
    assert record.status == "done"
    assert record.spec["plan"]["rounding"] == "calibrated"
    exported = export_model(folder, tmp_path / "base", "base")
    assert not exported.needs_adapter
    written = load_written(tmp_path / "base", prepared)
    expected = decode(rounded(prepared)["model.layers.1.mlp.up_proj"])
    assert torch.allclose(written["model.layers.1.mlp.up_proj.weight"].float(), expected, atol=1e-2)


def load_written(folder: Path, prepared: Prepared) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    assert prepared
    return load_file(folder / "model.safetensors")


def test_predictions_are_for_nearest_rounding_and_say_so(prepared: Prepared) -> None:
    with pytest.raises(UserError, match="predictions are for nearest rounding"):
        site_choices(prepared)


def test_peak_memory_holds_one_block_at_a_time(prepared: Prepared) -> None:
    """After a block is rounded, its weights are gone."""
    planned = planned_sites(prepared)
    rounding = round_model._Rounding(
        prepared, planned.sites, planned.choices, calibration_batches(prepared), Gradients()
    )
    for name, _ in rounding.run(lambda *a: None):
        held = [
            i for i, block in enumerate(rounding.blocks.modules)
            if any(not p.is_meta for p in block.parameters())
        ]  # fmt: skip
        assert held == ([int(name.split(".")[2])] if ".layers." in name else [])


# --- adapters that start at a correction ----------------------------------------------------------


@pytest.mark.parametrize("rounding", ["nearest", "calibrated"])
def test_a_weighted_start_changes_the_outputs_less_than_other_starts(
    rounding: Rounding, prepared: Prepared
) -> None:
    exact = load(prepared.checkpoint, "language").float()

    def error(init: Literal["zero", "residual", "weighted"]) -> float:
        plan = replace(PLAN, init=init, rounding=rounding, rank=4)
        built = build_run(prepared.with_plan(plan), cpu_machine(CPU))
        total = 0.0
        with torch.no_grad():
            for batch in calibration_batches(prepared):
                difference = hidden_of(built.model.eval(), batch)[0] - hidden_of(exact, batch)[0]
                total += float(difference.square().sum())
        return total

    assert error("weighted") < error("residual")
    assert error("weighted") < error("zero")


def test_a_run_that_starts_weighted_is_scored_on_the_base_it_was_trained_on(
    prepared: Prepared,
) -> None:
    """Without the adapter's rank in the plan, later blocks would be rounded for other inputs."""
    plan = replace(PLAN, init="weighted")
    trained = build_run(prepared.with_plan(plan), cpu_machine(CPU)).model
    untrained = build_untrained(prepared.with_plan(plan), cpu_machine(CPU)).model
    for name, tensor in untrained.state_dict().items():
        if name.endswith((".codes", ".scales")):
            assert torch.equal(tensor, trained.state_dict()[name])


def test_a_weighted_start_is_read_from_the_cache(prepared: Prepared) -> None:
    weighted = prepared.with_plan(replace(PLAN, init="weighted", rounding="nearest"))
    first, again = rounded_sites(weighted), rounded_sites(weighted)
    for name, site in first.items():
        (left, right), cached = site.correction or (), again[name].correction  # type: ignore[misc]
        assert cached is not None
        assert torch.equal(left, cached[0])
        assert torch.equal(right, cached[1])


def test_the_export_of_a_corrected_base_says_that_it_needs_its_adapter(
    prepared: Prepared, tmp_path: Path
) -> None:
    spec = replace(prepared.spec, plan=replace(PLAN, init="weighted"))
    folder = tmp_path / "run"
    folder.mkdir()
    run(spec, folder, CPU)
    assert export_model(folder, tmp_path / "base", "base").needs_adapter
    shown = lowbit("export", folder, "--to", tmp_path / "base2", "--what", "base")
    assert "with the run's adapter only" in shown.out
