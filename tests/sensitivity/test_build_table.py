"""Sensitivities of tiny models against what the loss really does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import batch_of, some_ids
from helpers.sensitivity import ASKED, Folder, lab_of

from lowbit.core.errors import RunError
from lowbit.core.spec import BLOCK_ROLES
from lowbit.sensitivity import curvature
from lowbit.sensitivity import measured_model as lab_module
from lowbit.sensitivity.build_table import build_table
from lowbit.sensitivity.hessian import gauss_newton, products
from lowbit.sensitivity.joint_damage import monte_carlo, second_order
from lowbit.sensitivity.measured_model import MeasuredModel, in_bf16, kl_divergence, shifted
from lowbit.sensitivity.predictors import remaining_share
from lowbit.sensitivity.table import MeasureRequest, SensitivityTable, from_text, to_text


def loss(lab: MeasuredModel) -> float:
    return sum(lab.losses(lab.outputs())) / sum(lab.counts)


def test_the_table_has_every_site_and_format(lab: MeasuredModel, table: SensitivityTable) -> None:
    assert [site.name for site in table.sites] == [site.name for site in lab.sites]
    assert table.formats == list(ASKED.formats)
    assert table.loss == pytest.approx(loss(lab), rel=1e-5)
    for site in table.sites:
        assert (site.reach is not None) == (site.role in BLOCK_ROLES)
        for found in site.damages.values():
            assert found.weight_error > 0
            assert found.fisher >= 0
            assert found.kfac >= 0
    assert table.passes > 10


def test_second_order_is_what_the_loss_does_when_errors_are_small(
    lab: MeasuredModel, table: SensitivityTable
) -> None:
    errors = {s.name: lab.error(s.name, "int8@16") for s in lab.blocks}
    sides = []
    for sign in (1.0, -1.0):
        with shifted(lab, {n: sign * e for n, e in errors.items()}):
            sides.append(loss(lab))
    whole = table.whole["int8@16"]
    assert whole.loss == pytest.approx(sides[0] - loss(lab), abs=1e-6)
    even, odd = sum(sides) / 2 - loss(lab), (sides[0] - sides[1]) / 2
    assert whole.first_order == pytest.approx(odd, rel=0.05, abs=2e-6)
    assert whole.taylor == pytest.approx(even, rel=0.2, abs=5e-6)


def test_the_walk_measures_every_site_alone(lab: MeasuredModel, table: SensitivityTable) -> None:
    site = lab.blocks[2]
    error = lab.error(site.name, "int2@16")
    before = lab.outputs()
    with shifted(lab, {site.name: error}):
        after = lab.outputs()
    apart = sum(map(kl_divergence, before, after)) / sum(lab.counts)
    (row,) = [s for s in table.sites if s.name == site.name]
    found = row.damages["int2@16"]
    assert found.measured == pytest.approx(apart + found.first_order, rel=1e-4)
    plain = build_table(lab, MeasureRequest(("int8@16",), samples=2), ("tiny", "text"))
    assert plain.sites[0].damages["int8@16"].measured is None
    with pytest.raises(ValueError, match="was not measured"):
        plain.damage({plain.sites[0].name: "int8@16"}, "measured")


def test_what_the_sites_cost_sums_to_what_all_of_them_do(
    lab: MeasuredModel, table: SensitivityTable
) -> None:
    """Block matrices among themselves: an embedding in error is no part of what they cost."""
    blocks = {site.name for site in lab.blocks}
    for text in table.formats:
        mine = [s.damages[text].taylor for s in table.sites if s.name in blocks]
        assert sum(mine) == pytest.approx(table.whole[text].taylor, rel=0.02, abs=2e-7)


def test_a_walk_takes_curvature_of_a_site_without_its_cross_terms(
    lab: MeasuredModel, table: SensitivityTable
) -> None:
    """As where all other sites are exact."""
    exact, crossed = {s.name: torch.zeros_like(lab.weight(s.name)) for s in lab.sites}, 0
    for site in table.sites:
        error, found = lab.error(site.name, "int4@16"), site.damages["int4@16"]
        held = exact | {site.name: error}
        product = products(lab.module, lab.sites, lab.batches, held, lab.kind)
        alone = pytest.approx(0.5 * float((error * product.matrices[site.name]).sum()), rel=1e-3)
        assert found.taylor_alone == alone
        crossed += found.taylor != alone
        newton = gauss_newton(lab.module, lab.sites, lab.batches, held, lab.kind)
        assert found.gauss_newton == pytest.approx(newton, rel=1e-3)
    assert crossed > len(table.sites) / 2  # there is something to leave out


@pytest.mark.late
def test_monte_carlo_agrees_with_the_hessian_that_it_estimates(tiny_model: Folder) -> None:
    """Of one matrix with noise of one size: half the Hessian's trace there, times its square."""
    row, found = some_ids(1, 13), lab_of(tiny_model("llama"))
    lab = MeasuredModel(found.model, found.sites, [batch_of(row[:, :4], row[:, 1:5])])
    site = min(lab.blocks, key=lambda s: s.shape[0] * s.shape[1])
    rows, columns = site.shape
    held = {s.name: torch.zeros_like(lab.weight(s.name)) for s in lab.sites}
    trace = 0.0
    for i in range(rows):
        for j in range(columns):
            one = torch.zeros(rows, columns)
            one[i, j] = 1.0
            product = products(
                lab.module, lab.sites, lab.batches, held | {site.name: one}, lab.kind
            )
            trace += float(product.matrices[site.name][i, j])
    size = 1e-2
    asked = replace(ASKED, samples=40)
    drawn = monte_carlo(lab, asked, {site.name: torch.full(site.shape, size)})
    wanted = 0.5 * size**2 * trace
    assert np.mean(drawn) == pytest.approx(
        wanted, abs=4 * np.std(drawn) / 40**0.5 + 0.05 * abs(wanted)
    )


def test_fewer_bits_do_more_damage(table: SensitivityTable) -> None:
    for predictor in ("weight_error", "fisher", "kfac"):
        eight, four, two = (
            table.damage({s.name: text for s in table.sites}, predictor)  # type: ignore[arg-type]
            for text in ASKED.formats
        )
        assert eight < four < two
    assert table.damage({}, "kfac") == 0.0


def test_moving_weights_leaves_no_trace(lab: MeasuredModel) -> None:
    before = {n: p.detach().clone() for n, p in lab.module.named_parameters()}
    with shifted(lab, {s.name: torch.ones(s.shape) for s in lab.sites}):
        assert not torch.equal(
            next(iter(before.values())), next(iter(lab.module.parameters())).detach()
        )
    assert all(torch.equal(p, before[n]) for n, p in lab.module.named_parameters())


def test_damage_that_plans_rest_on_comes_to_what_the_stored_model_shows(lab: MeasuredModel) -> None:
    asked = replace(ASKED, walk=False, uniform=False, exact=False, samples=0, costed=True)
    table = build_table(lab, asked, ("tiny", "text"))
    outputs, blocks = lab.outputs(), {site.name for site in lab.blocks}
    for text in table.formats:
        with shifted(lab, {name: lab.error(name, text) for name in blocks}):
            apart = sum(lab.losses_and_kl(outputs)[1]) / sum(lab.counts)
        each = {s.name: s.damages[text].anchored or 0.0 for s in table.sites}
        assert min(each.values()) >= 0
        assert sum(each[name] for name in blocks) == pytest.approx(apart, rel=1e-3, abs=1e-8)
        for rest in set(each) - blocks:
            with shifted(lab, {rest: lab.error(rest, text)}):
                apart = sum(lab.losses_and_kl(outputs)[1]) / sum(lab.counts)
            assert each[rest] == pytest.approx(apart, rel=1e-3, abs=1e-8)
    with pytest.raises(ValueError, match="was not measured"):
        table.damage({table.sites[0].name: "int8@16"}, "taylor")


@pytest.mark.parametrize("most", [1, 20])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sequences_that_pass_together_are_as_they_are_alone(
    family: str, most: int, tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = lab_of(tiny_model(family))
    some = zip(some_ids(3, 13), (5, 12, 8), strict=True)
    lab.batches = [batch_of(row[None, :n], row[None, 1 : n + 1]) for row, n in some]
    together = lab.outputs()
    monkeypatch.setattr(lab_module, "MAX_TOKENS", most)
    alone = lab.outputs()
    assert [len(x) for x in together] == lab.counts
    torch.testing.assert_close(together, alone)
    assert torch.is_grad_enabled()


def test_a_model_that_is_not_finite_is_refused(tiny_model: Folder) -> None:
    lab = lab_of(tiny_model("llama"))
    with torch.no_grad():
        lab.module.get_submodule(lab.blocks[0].name).weight[0, 0] = math.nan  # type: ignore
    with pytest.raises(RunError, match="outputs are not finite on the calibration text"):
        build_table(lab, ASKED, ("tiny", "text"))


def test_a_matrix_of_zeros_costs_nothing_in_any_format(tiny_model: Folder) -> None:
    """As blocks are that were added to a model and not trained yet."""
    lab = lab_of(tiny_model("llama"))
    names = [n for n in (s.name for s in lab.blocks) if n.endswith(("o_proj", "down_proj"))][:2]
    with torch.no_grad():
        for name in names:
            lab.module.get_submodule(name).weight.zero_()  # type: ignore
    table = build_table(lab, replace(ASKED, walk=False, costed=True), ("tiny", "text"))
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
    lab = lab_of(tiny_model("llama"))
    honest = MeasuredModel.error

    def spoilt(self: MeasuredModel, name: str, text: str) -> torch.Tensor:
        return honest(self, name, text) * (math.inf if text == "int4@16" else 1.0)

    monkeypatch.setattr(MeasuredModel, "error", spoilt)
    asked = MeasureRequest(("int8@16", "int4@16"), (2,), 0, uniform=False, exact=False, costed=True)
    with pytest.raises(RunError, match="int4@16: the outputs of the stored model are not finite"):
        build_table(lab, asked, ("tiny", "text"))


def test_a_matrix_that_no_format_can_hold_is_named(tiny_model: Folder) -> None:
    lab = lab_of(tiny_model("llama"))
    name = lab.blocks[0].name
    lab.base = {site.name: lab.weight(site.name).clone() for site in lab.sites}
    lab.base[name][0, 0] = 1e6
    with pytest.raises(RunError, match=f"{name} in fp16: .* too large for float16"):
        lab.error(name, "fp16")
    lab.base[name][0, 0] = math.nan
    with pytest.raises(RunError, match=f"{name} in int4@16: .* NaN or infinity"):
        lab.error(name, "int4@16")


def test_errors_are_counted_from_sixteen_bits(lab: MeasuredModel) -> None:
    name = lab.blocks[0].name
    exact = lab.weight(name)
    lab.base = {site.name: lab.weight(site.name) for site in lab.sites}
    try:
        assert not lab.error(name, "bf16").any()
        grid = lab.error(name, "int3@16") + in_bf16(exact)
        lab.base = None
        assert torch.allclose(grid, exact + lab.error(name, "int3@16"), atol=1e-6)
    finally:
        lab.base = None


def test_second_derivatives_may_be_taken_on_fewer_sequences(
    lab: MeasuredModel, table: SensitivityTable
) -> None:
    """Gradients, KL and losses take all of them; what is taken on fewer is that of the fewer."""
    asked = replace(ASKED, formats=("int4@16",), walk=False)
    some = MeasuredModel(lab.module, lab.sites, lab.batches, curved=(0, 2))
    found = build_table(some, asked, ("tiny", "text"))
    few = build_table(
        MeasuredModel(lab.module, lab.sites, [lab.batches[0], lab.batches[2]]), asked, ("t", "t")
    )
    all_of_it, two = found.whole["int4@16"], few.whole["int4@16"]
    for name in ("first_order", "fisher", "kfac", "taylor", "kl", "loss", "loss_spread"):
        assert getattr(all_of_it, name) == pytest.approx(getattr(table.whole["int4@16"], name))
    for name in ("gauss_newton", "hutchinson", "monte_carlo"):
        assert getattr(all_of_it, name) == pytest.approx(getattr(two, name), rel=1e-4, abs=1e-7)
    assert found.units == 3 * few.units / 2
    assert two.curved_spread == 0.0, "of all sequences it is in the spread of the loss already"
    assert found.passes < build_table(lab_like(lab), asked, ("t", "t")).passes


def test_what_is_said_of_whole_plans_needs_no_site_by_itself(lab: MeasuredModel) -> None:
    names = tuple((site.name, "int4@16") for site in lab.blocks)
    asked = MeasureRequest(
        ("int4@16",), ranks=(4,), samples=2, joint=(("plan", names),), uniform=False
    )
    full = build_table(lab_like(lab), asked, ("t", "t"))
    quick = build_table(lab_like(lab), replace(asked, exact=False), ("t", "t"))
    assert quick.whole == full.whole
    assert quick.passes < full.passes
    ranks = {site.name: 4 for site in lab.blocks}
    assert remaining_share(quick, dict(names), ranks) == remaining_share(full, dict(names), ranks)
    for one, other in zip(quick.sites, full.sites, strict=True):
        assert one.reach == other.reach
        damage = one.damages["int4@16"]
        assert damage.taylor is None
        assert damage == replace(other.damages["int4@16"], taylor=None)
    assert from_text(to_text(quick)) == quick


def test_second_order_by_losses_is_the_hessians(lab: MeasuredModel) -> None:
    """Of every sequence: what a backward pass through a backward pass gives."""
    errors = {s.name: lab.error(s.name, "int4@16") for s in lab.blocks}
    held = {s.name: errors.get(s.name, torch.zeros_like(lab.weight(s.name))) for s in lab.sites}
    wanted = products(lab.module, lab.sites, lab.batches, held).sums
    outputs = lab.outputs()
    with shifted(lab, errors):
        kl = sum(lab.losses_and_kl(outputs)[1]) / sum(lab.counts)
    found = second_order(lab, errors, lab.losses(outputs), kl)
    assert found == pytest.approx([0.5 * each for each in wanted], rel=0.02)
    assert lab.current_losses() == lab.losses(outputs), "and the weights are where they were"


def lab_like(lab: MeasuredModel) -> MeasuredModel:
    return MeasuredModel(lab.module, lab.sites, lab.batches)


def test_a_gradient_that_is_not_finite_is_named(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lab_of(tiny_model("llama"))
    site = found.blocks[1].name
    honest = curvature.measure_curvature

    def spoilt(*words: Any) -> Any:
        made = honest(*words)
        made.gradient[site][0, 0] = math.inf
        return made

    monkeypatch.setattr(curvature, "measure_curvature", spoilt)
    with pytest.raises(RunError, match=f"the gradient of {site} is not finite on the calibration"):
        build_table(found, ASKED, ("tiny", "text"))
