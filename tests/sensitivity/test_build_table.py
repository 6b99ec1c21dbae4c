"""Sensitivities of tiny models against what the loss really does."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import batch_of, some_ids
from helpers.sensitivity import REQUEST, Folder, tiny_measured

from lowbit.core.errors import RunError
from lowbit.core.spec import BLOCK_ROLES
from lowbit.curvature import model_outputs, passes, walk_curvature
from lowbit.curvature.measured_model import MeasuredModel, shifted
from lowbit.curvature.model_outputs import Outputs, kl_divergence
from lowbit.curvature.site_curvature import as_site, weights_of
from lowbit.curvature.weight_errors import in_bf16
from lowbit.sensitivity.anchor import EVERY, leading
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.hessian import gauss_newton, products
from lowbit.sensitivity.joint_damage import monte_carlo, second_order
from lowbit.sensitivity.predictors import remaining_share
from lowbit.sensitivity.table import Damage, MeasureRequest, SensitivityTable, from_text, to_text


def loss(model: MeasuredModel) -> float:
    return sum(model.outputs().losses()) / sum(model.counts)


def test_the_table_has_every_site_and_format(model: MeasuredModel, table: SensitivityTable) -> None:
    assert [site.name for site in table.sites] == [site.name for site in model.sites]
    assert table.formats == list(REQUEST.formats)
    assert table.loss == pytest.approx(loss(model), rel=1e-5)
    for site in table.sites:
        assert (site.reach is not None) == (site.role in BLOCK_ROLES)
        for damage in site.damages.values():
            assert damage.weight_error > 0
            assert damage.fisher >= 0
            assert damage.kfac >= 0
    assert table.passes > 10


def test_second_order_is_what_the_loss_does_when_errors_are_small(
    model: MeasuredModel, table: SensitivityTable
) -> None:
    errors = {s.name: model.error(s.name, "int8@16") for s in model.block_sites}
    sides = []
    for sign in (1.0, -1.0):
        with shifted(model, {n: sign * e for n, e in errors.items()}):
            sides.append(loss(model))
    whole = table.whole["int8@16"]
    assert whole.loss == pytest.approx(sides[0] - loss(model), abs=1e-6)
    even, odd = sum(sides) / 2 - loss(model), (sides[0] - sides[1]) / 2
    assert whole.first_order == pytest.approx(odd, rel=0.05, abs=2e-6)
    assert whole.taylor == pytest.approx(even, rel=0.2, abs=5e-6)


def test_the_walk_measures_every_site_alone(model: MeasuredModel, table: SensitivityTable) -> None:
    site = model.block_sites[2]
    error = model.error(site.name, "int2@16")
    before = model.outputs().log_probs()
    with shifted(model, {site.name: error}):
        after = model.outputs().log_probs()
    apart = sum(map(kl_divergence, before, after)) / sum(model.counts)
    (row,) = [s for s in table.sites if s.name == site.name]
    damage = row.damages["int2@16"]
    assert damage.measured == pytest.approx(apart + damage.first_order, rel=1e-4)
    plain = build_table(model, MeasureRequest(("int8@16",), samples=2), ("tiny", "text"))
    assert plain.sites[0].damages["int8@16"].measured is None
    with pytest.raises(ValueError, match="was not measured"):
        plain.damage({plain.sites[0].name: "int8@16"}, "measured")


def test_what_the_sites_cost_sums_to_what_all_of_them_do(
    model: MeasuredModel, table: SensitivityTable
) -> None:
    """Block matrices among themselves: an embedding in error is no part of what they cost."""
    blocks = {site.name for site in model.block_sites}
    for text in table.formats:
        taylor = [s.damages[text].taylor for s in table.sites if s.name in blocks]
        assert sum(taylor) == pytest.approx(table.whole[text].taylor, rel=0.02, abs=2e-7)


def test_a_walk_takes_curvature_of_a_site_without_its_cross_terms(
    model: MeasuredModel, table: SensitivityTable
) -> None:
    """As where all other sites are exact."""
    exact, crossed = {s.name: torch.zeros_like(model.weight(s.name)) for s in model.sites}, 0
    for site in table.sites:
        error, damage = model.error(site.name, "int4@16"), site.damages["int4@16"]
        errors = exact | {site.name: error}
        product = products(model.module, model.sites, model.batches, errors, model.kind)
        alone = pytest.approx(0.5 * float((error * product.matrices[site.name]).sum()), rel=1e-3)
        assert damage.taylor_alone == alone
        crossed += damage.taylor != alone
        newton = gauss_newton(model.module, model.sites, model.batches, errors, model.kind)
        assert damage.gauss_newton == pytest.approx(newton, rel=1e-3)
    assert crossed > len(table.sites) / 2  # there is something to leave out


@pytest.mark.late
def test_monte_carlo_agrees_with_the_hessian_that_it_estimates(tiny_model: Folder) -> None:
    """Of unit matrix with noise of unit size: half the Hessian's trace there, times its square."""
    row, tiny = some_ids(1, 13), tiny_measured(tiny_model("llama"))
    model = MeasuredModel(tiny.module, tiny.sites, [batch_of(row[:, :4], row[:, 1:5])])
    site = min(model.block_sites, key=lambda s: s.shape[0] * s.shape[1])
    rows, columns = site.shape
    zeros = {s.name: torch.zeros_like(model.weight(s.name)) for s in model.sites}
    trace = 0.0
    for i in range(rows):
        for j in range(columns):
            unit = torch.zeros(rows, columns)
            unit[i, j] = 1.0
            product = products(
                model.module, model.sites, model.batches, zeros | {site.name: unit}, model.kind
            )
            trace += float(product.matrices[site.name][i, j])
    size = 1e-2
    request = replace(REQUEST, samples=40)
    noise = Damage(size**2 * rows * columns, 0.0, 0.0, 0.0, None)
    drawn = monte_carlo(model, request, {site.name: noise})
    expected = 0.5 * size**2 * trace
    assert np.mean(drawn) == pytest.approx(
        expected, abs=4 * np.std(drawn) / 40**0.5 + 0.05 * abs(expected)
    )


def test_fewer_bits_do_more_damage(table: SensitivityTable) -> None:
    for predictor in ("weight_error", "fisher", "kfac"):
        eight, four, two = (
            table.damage({s.name: text for s in table.sites}, predictor)  # type: ignore[arg-type]
            for text in REQUEST.formats
        )
        assert eight < four < two
    assert table.damage({}, "kfac") == 0.0


def test_moving_weights_leaves_no_trace(model: MeasuredModel) -> None:
    before = {n: p.detach().clone() for n, p in model.module.named_parameters()}
    losses = model.outputs().losses()
    with shifted(model, {s.name: torch.ones(s.shape) for s in model.sites}):
        assert model.outputs().losses() != losses
    assert model.outputs().losses() == losses
    assert all(torch.equal(p, before[n]) for n, p in model.module.named_parameters())


def test_a_shifted_model_is_the_model_with_other_weights(model: MeasuredModel) -> None:
    """In every site at once, a tied head included."""
    change = {s.name: 0.1 * model.weight(s.name).sign() for s in model.sites}
    with shifted(model, change):
        shifted_losses = model.outputs().losses()
    other = copy.deepcopy(model.module)
    with torch.no_grad():
        for name, weight in weights_of(other, model.sites).items():
            weight += as_site(other, name, change[name])
    moved = MeasuredModel(other, model.sites, model.batches)
    assert shifted_losses == pytest.approx(moved.outputs().losses(), rel=1e-5)


@pytest.mark.parametrize("family", ["llama", "llama-untied", "gpt2", "qwen3"])
def test_weights_held_in_sixteen_bits_are_measured_as_in_fp32(
    family: str, tiny_model: Folder
) -> None:
    """The same numbers, and the weights stay in 16 bits."""
    full = tiny_measured(tiny_model(family))
    with torch.no_grad():
        for parameter in weights_of(full.module, full.sites).values():
            parameter.copy_(parameter.bfloat16())
    half = MeasuredModel(copy.deepcopy(full.module), full.sites, full.batches)
    for parameter in weights_of(half.module, half.sites).values():
        parameter.data = parameter.data.bfloat16()
    request = replace(REQUEST, walk=False, costed=True)
    tables = [build_table(model, request, ("tiny", "text")) for model in (full, half)]
    assert to_text(tables[0]) == to_text(tables[1])
    assert {p.dtype for p in weights_of(half.module, half.sites).values()} == {torch.bfloat16}


def test_damage_that_plans_rest_on_comes_to_what_the_stored_model_shows(
    model: MeasuredModel,
) -> None:
    request = replace(REQUEST, walk=False, uniform=False, exact=False, samples=0, costed=True)
    table = build_table(model, request, ("tiny", "text"))
    outputs, blocks = model.outputs(), {site.name for site in model.block_sites}

    def kl(names: Collection[str], text: str, reference: Outputs) -> float:
        with shifted(model, {name: model.error(name, text) for name in names}):
            units = sum(sum(batch.labels) for batch in reference.batches)
            return sum(model.losses_and_kl(reference)[1]) / units

    for text in table.formats:
        each = {s.name: s.damages[text].anchored or 0.0 for s in table.sites}
        assert min(each.values()) >= 0
        if text == "int8@16":
            together = kl(blocks, text, outputs)
        else:  # few bits in all blocks break the model, so each block is stored alone
            some = model.outputs_on(model.batches[::EVERY])
            depths = {site.depth for site in model.block_sites}
            inside = [[s.name for s in model.block_sites if s.depth == d] for d in depths]
            together = sum(kl(names, text, some) for names in inside)
        assert sum(each[name] for name in blocks) == pytest.approx(together, rel=1e-3, abs=1e-8)
        for rest in set(each) - blocks:
            assert each[rest] == pytest.approx(kl([rest], text, outputs), rel=1e-3, abs=1e-8)
    with pytest.raises(ValueError, match="was not measured"):
        table.damage({table.sites[0].name: "int8@16"}, "taylor")


def test_a_table_for_plans_says_what_calibrated_rounding_is_expected_to_leave(
    model: MeasuredModel,
) -> None:
    request = replace(REQUEST, walk=False, uniform=False, exact=False, samples=0)

    def shares(costed: bool) -> dict[str, float]:
        table = build_table(model, replace(request, costed=costed), ("tiny", "text"))
        return {s.name: s.damages["int8@16"].calibrated_share for s in table.sites}

    found, blocks = shares(True), [site.name for site in model.block_sites]
    assert set(shares(False).values()) == {1.0}
    assert all(0 < found[name] < 1 for name in blocks)


def test_of_formats_that_differ_in_group_size_one_is_run(model: MeasuredModel) -> None:
    """The formulas scale its KL to the others."""
    formats = ("nf3@32", "nf3@16", "int8@32", "int8@row", "int3@32", "nf3@8")
    leads = leading(formats)
    assert leads == {
        "nf3@32": "nf3@32", "nf3@16": "nf3@32", "nf3@8": "nf3@32", "int3@32": "int3@32",
        "int8@32": "int8@32", "int8@row": "int8@32",
    }  # fmt: skip
    request = replace(REQUEST, walk=False, uniform=False, exact=False, samples=0, costed=True)
    table = build_table(model, replace(request, formats=formats[:4]), ("tiny", "text"))
    alone = build_table(model, replace(request, formats=("nf3@16",)), ("tiny", "text"))
    for site, by_itself in zip(table.sites, alone.sites, strict=True):
        costs = {text: damage.anchored or 0.0 for text, damage in site.damages.items()}
        assert costs["nf3@16"] < costs["nf3@32"]
        assert costs["nf3@16"] == pytest.approx(by_itself.damages["nf3@16"].anchored, rel=0.5)
        formula = "fisher" if site.role in BLOCK_ROLES else "kfac"
        parts = {text: getattr(damage, formula) for text, damage in site.damages.items()}
        ratio = parts["nf3@16"] / parts["nf3@32"]
        assert costs["nf3@16"] == pytest.approx(costs["nf3@32"] * ratio, rel=1e-6)


@pytest.mark.parametrize("most", [1, 20])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sequences_that_pass_together_are_as_they_are_alone(
    family: str, most: int, tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_measured(tiny_model(family))
    some = zip(some_ids(3, 13), (5, 12, 8), strict=True)
    model.batches = [batch_of(row[None, :n], row[None, 1 : n + 1]) for row, n in some]
    together = model.outputs().log_probs()
    monkeypatch.setattr(passes, "MAX_TOKENS", most)
    monkeypatch.setattr(model_outputs, "MAX_LOGITS", most)
    alone = model.outputs().log_probs()
    assert [len(x) for x in together] == model.counts
    torch.testing.assert_close(together, alone)
    assert torch.is_grad_enabled()


def test_a_model_that_is_not_finite_is_refused(tiny_model: Folder) -> None:
    model = tiny_measured(tiny_model("llama"))
    with torch.no_grad():
        model.module.get_submodule(model.block_sites[0].name).weight[0, 0] = math.nan  # type: ignore
    with pytest.raises(RunError, match="outputs are not finite on the calibration text"):
        build_table(model, REQUEST, ("tiny", "text"))


def test_a_matrix_of_zeros_costs_nothing_in_any_format(tiny_model: Folder) -> None:
    """As blocks are that were added to a model and not trained yet."""
    model = tiny_measured(tiny_model("llama"))
    names = [n for n in (s.name for s in model.block_sites) if n.endswith(("o_proj", "down_proj"))][
        :2
    ]
    with torch.no_grad():
        for name in names:
            model.module.get_submodule(name).weight.zero_()  # type: ignore
    table = build_table(model, replace(REQUEST, walk=False, costed=True), ("tiny", "text"))
    for site in table.sites:
        if site.name in names:
            assert {(d.kfac, d.hutchinson, d.anchored) for d in site.damages.values()} == {
                (0, 0, 0)
            }
        if site.reach is not None:
            assert all(map(math.isfinite, site.reach.gains))
            assert all(0 <= x <= 1 for each in site.reach.absorbed.values() for x in each)


def test_a_format_that_the_model_does_not_survive_is_named(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_measured(tiny_model("llama"))
    honest = MeasuredModel.error

    def spoilt(self: MeasuredModel, name: str, text: str) -> torch.Tensor:
        return honest(self, name, text) * (math.inf if text == "int4@16" else 1.0)

    monkeypatch.setattr(MeasuredModel, "error", spoilt)
    request = MeasureRequest(
        ("int8@16", "int4@16"), (2,), 0, uniform=False, exact=False, costed=True
    )
    with pytest.raises(RunError, match="int4@16: the outputs of the stored model are not finite"):
        build_table(model, request, ("tiny", "text"))


def test_a_matrix_that_no_format_can_hold_is_named(tiny_model: Folder) -> None:
    model = tiny_measured(tiny_model("llama"))
    name = model.block_sites[0].name
    model.base = {site.name: model.weight(site.name).clone() for site in model.sites}
    model.base[name][0, 0] = 1e6
    with pytest.raises(RunError, match=f"{name} in fp16: .* too large for float16"):
        model.error(name, "fp16")
    model.base[name][0, 0] = math.nan
    with pytest.raises(RunError, match=f"{name} in int4@16: .* NaN or infinity"):
        model.error(name, "int4@16")


def test_errors_are_counted_from_sixteen_bits(model: MeasuredModel) -> None:
    name = model.block_sites[0].name
    exact = model.weight(name)
    model.base = {site.name: model.weight(site.name) for site in model.sites}
    try:
        assert not model.error(name, "bf16").any()
        grid = model.error(name, "int3@16") + in_bf16(exact)
        model.base = None
        assert torch.allclose(grid, exact + model.error(name, "int3@16"), atol=1e-6)
    finally:
        model.base = None


def test_second_derivatives_may_be_taken_on_fewer_sequences(
    model: MeasuredModel, table: SensitivityTable
) -> None:
    """Gradients, KL and losses take all of them; what is taken on fewer is that of the fewer."""
    request = replace(REQUEST, formats=("int4@16",), walk=False)
    some = MeasuredModel(model.module, model.sites, model.batches, curved=(0, 2))
    table_of_few = build_table(some, request, ("tiny", "text"))
    few = build_table(
        MeasuredModel(model.module, model.sites, [model.batches[0], model.batches[2]]),
        request,
        ("t", "t"),
    )
    all_of_it, two = table_of_few.whole["int4@16"], few.whole["int4@16"]
    for name in (
        "first_order",
        "fisher",
        "kfac",
        "taylor",
        "gauss_newton",
        "kl",
        "loss",
        "loss_spread",
    ):
        assert getattr(all_of_it, name) == pytest.approx(getattr(table.whole["int4@16"], name))
    for name in ("hutchinson", "monte_carlo"):
        assert getattr(all_of_it, name) == pytest.approx(getattr(two, name), rel=1e-4, abs=1e-7)
    assert table_of_few.units == 3 * few.units / 2
    assert two.curved_spread == 0.0, "of all sequences it is in the spread of the loss already"
    assert table_of_few.passes < build_table(like(model), request, ("t", "t")).passes


def test_what_is_said_of_whole_plans_needs_no_site_by_itself(model: MeasuredModel) -> None:
    names = tuple((site.name, "int4@16") for site in model.block_sites)
    request = MeasureRequest(
        ("int4@16",), ranks=(4,), samples=2, joint=(("plan", names),), uniform=False
    )
    full = build_table(like(model), request, ("t", "t"))
    quick = build_table(like(model), replace(request, exact=False), ("t", "t"))
    assert quick.whole == full.whole
    assert quick.passes < full.passes
    ranks = {site.name: 4 for site in model.block_sites}
    assert remaining_share(quick, dict(names), ranks) == remaining_share(full, dict(names), ranks)
    for site, other in zip(quick.sites, full.sites, strict=True):
        assert site.reach == other.reach
        damage = site.damages["int4@16"]
        assert damage.taylor is None
        assert damage == replace(other.damages["int4@16"], taylor=None)
    assert from_text(to_text(quick)) == quick


def test_second_order_by_losses_is_the_hessians(model: MeasuredModel) -> None:
    """Of every sequence: what a backward pass through a backward pass gives."""
    errors = {s.name: model.error(s.name, "int4@16") for s in model.block_sites}
    full = {s.name: errors.get(s.name, torch.zeros_like(model.weight(s.name))) for s in model.sites}
    sums = products(model.module, model.sites, model.batches, full).sums
    outputs = model.outputs()
    with shifted(model, errors):
        kl = sum(model.losses_and_kl(outputs)[1]) / sum(model.counts)
    halves, newton = second_order(model, errors, outputs, outputs.losses(), kl)
    assert halves == pytest.approx([0.5 * each for each in sums], rel=0.02)
    of_outputs = gauss_newton(model.module, model.sites, model.batches, full)
    assert sum(newton) / sum(model.counts) == pytest.approx(of_outputs, rel=0.01)
    assert model.outputs().losses() == outputs.losses(), "and the weights are where they were"


def like(model: MeasuredModel) -> MeasuredModel:
    return MeasuredModel(model.module, model.sites, model.batches)


def test_a_gradient_that_is_not_finite_is_named(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tiny_measured(tiny_model("llama"))
    site = broken.block_sites[1].name
    honest = walk_curvature.walk_curvature

    def spoilt(*words: Any) -> Iterator[Any]:
        for found, curved in honest(*words):
            if found.name == site:
                curved.gradient[0, 0] = math.inf
            yield found, curved

    monkeypatch.setattr(walk_curvature, "walk_curvature", spoilt)
    with pytest.raises(RunError, match=f"the gradient of {site} is not finite on the calibration"):
        build_table(broken, REQUEST, ("tiny", "text"))
