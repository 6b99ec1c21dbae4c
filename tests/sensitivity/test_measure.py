"""Sensitivities of tiny models against what the loss really does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import batch_of, opened, some_ids

from lowbit.cli.measure import worked
from lowbit.core.errors import RunError, UserError
from lowbit.core.spec import BLOCK_ROLES
from lowbit.sensitivity import curvature
from lowbit.sensitivity import measured_model as lab_module
from lowbit.sensitivity.cached import _architecture, check_room, fewer, sequences, spread
from lowbit.sensitivity.curvature import Factors
from lowbit.sensitivity.hessian import gauss_newton, products
from lowbit.sensitivity.hutchinson import hutchinson
from lowbit.sensitivity.joint_damage import monte_carlo, second_order
from lowbit.sensitivity.measure import measure
from lowbit.sensitivity.measured_model import Lab, divergence, moved, rounded
from lowbit.sensitivity.predictors import left, predictions, trusted
from lowbit.sensitivity.rank_correction import STEP_DAMPING, Ascent, absorbed_shares, metric
from lowbit.sensitivity.rank_gain import KEPT, PACE, highest
from lowbit.sensitivity.table import Asked, Basis, SensitivityTable, from_text, to_text
from lowbit.tasks.base import Example

Folder = Callable[[str], Path]
ASKED = Asked(("int8@16", "int4@16", "int2@16"), ranks=(1, 4, 16), samples=3, walk=True)


def lab_of(folder: Path) -> Lab:
    start = opened(folder, "language")
    ids = some_ids(3, 13)
    batches = [batch_of(row[None, :-1], row[None, 1:]) for row in ids]
    return Lab(start.model().float().eval(), start.sites, batches)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lab(request: pytest.FixtureRequest, tiny_model: Folder) -> Lab:
    return lab_of(tiny_model(request.param))


@pytest.fixture(scope="module")
def table(lab: Lab) -> SensitivityTable:
    return measure(lab, ASKED, ("tiny", "text"))


def loss(lab: Lab) -> float:
    return sum(lab.losses(lab.outputs())) / sum(lab.counts)


def test_the_table_has_every_site_and_format(lab: Lab, table: SensitivityTable) -> None:
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
    lab: Lab, table: SensitivityTable
) -> None:
    errors = {s.name: lab.error(s.name, "int8@16") for s in lab.blocks}
    sides = []
    for sign in (1.0, -1.0):
        with moved(lab, {n: sign * e for n, e in errors.items()}):
            sides.append(loss(lab))
    whole = table.whole["int8@16"]
    assert whole.loss == pytest.approx(sides[0] - loss(lab), abs=1e-6)
    even, odd = sum(sides) / 2 - loss(lab), (sides[0] - sides[1]) / 2
    assert whole.first_order == pytest.approx(odd, rel=0.05, abs=2e-6)
    assert whole.taylor == pytest.approx(even, rel=0.2, abs=5e-6)


def test_the_walk_measures_every_site_alone(lab: Lab, table: SensitivityTable) -> None:
    site = lab.blocks[2]
    error = lab.error(site.name, "int2@16")
    before = lab.outputs()
    with moved(lab, {site.name: error}):
        after = lab.outputs()
    apart = sum(map(divergence, before, after)) / sum(lab.counts)
    (row,) = [s for s in table.sites if s.name == site.name]
    found = row.damages["int2@16"]
    assert found.measured == pytest.approx(apart + found.first_order, rel=1e-4)
    plain = measure(lab, Asked(("int8@16",), samples=2), ("tiny", "text"))
    assert plain.sites[0].damages["int8@16"].measured is None
    with pytest.raises(ValueError, match="was not measured"):
        plain.damage({plain.sites[0].name: "int8@16"}, "measured")


def test_what_the_sites_cost_sums_to_what_all_of_them_do(lab: Lab, table: SensitivityTable) -> None:
    """Block matrices among themselves: an embedding in error is no part of what they cost."""
    blocks = {site.name for site in lab.blocks}
    for text in table.formats:
        mine = [s.damages[text].taylor for s in table.sites if s.name in blocks]
        assert sum(mine) == pytest.approx(table.whole[text].taylor, rel=0.02, abs=2e-7)


def test_a_walk_has_every_predictor_of_every_site(lab: Lab, table: SensitivityTable) -> None:
    for site in table.sites:
        for damage in site.damages.values():
            assert damage.hutchinson_spread is not None
            assert damage.hutchinson_spread > 0
            assert damage.gauss_newton is not None
            assert damage.gauss_newton >= 0
            assert damage.taylor_alone is not None
            assert damage.monte_carlo is not None
    site = lab.blocks[2]
    (row,) = [s for s in table.sites if s.name == site.name]
    # At small errors the outputs' own curvature is what their divergence is made of.
    eight = row.damages["int8@16"]
    assert eight.measured is not None
    assert eight.gauss_newton == pytest.approx(
        eight.measured - eight.first_order, rel=0.1, abs=1e-7
    )
    known = hutchinson(lab, ASKED, lambda *_: None)
    error = lab.error(site.name, "int4@16")
    draws = known.costs(site.name, error)
    four = row.damages["int4@16"]
    assert four.hutchinson == pytest.approx(np.mean(draws), rel=1e-4)
    assert four.hutchinson_spread == pytest.approx(np.std(draws, ddof=1) / 3**0.5, rel=1e-4)


def test_a_walk_takes_curvature_of_a_site_without_its_cross_terms(
    lab: Lab, table: SensitivityTable
) -> None:
    """As where all other sites are exact."""
    exact, crossed = {s.name: torch.zeros_like(lab.weight(s.name)) for s in lab.sites}, 0
    for site in table.sites:
        error, found = lab.error(site.name, "int4@16"), site.damages["int4@16"]
        held = exact | {site.name: error}
        product = products(lab.model, lab.sites, lab.batches, held, lab.kind)
        alone = pytest.approx(0.5 * float((error * product.matrices[site.name]).sum()), rel=1e-3)
        assert found.taylor_alone == alone
        crossed += found.taylor != alone
        newton = gauss_newton(lab.model, lab.sites, lab.batches, held, lab.kind)
        assert found.gauss_newton == pytest.approx(newton, rel=1e-3)
    assert crossed > len(table.sites) / 2  # there is something to leave out


@pytest.mark.late
def test_monte_carlo_agrees_with_the_hessian_that_it_estimates(tiny_model: Folder) -> None:
    """Of one matrix with noise of one size: half the Hessian's trace there, times its square."""
    row, found = some_ids(1, 13), lab_of(tiny_model("llama"))
    lab = Lab(found.model, found.sites, [batch_of(row[:, :4], row[:, 1:5])])
    site = min(lab.blocks, key=lambda s: s.shape[0] * s.shape[1])
    rows, columns = site.shape
    held = {s.name: torch.zeros_like(lab.weight(s.name)) for s in lab.sites}
    trace = 0.0
    for i in range(rows):
        for j in range(columns):
            one = torch.zeros(rows, columns)
            one[i, j] = 1.0
            product = products(lab.model, lab.sites, lab.batches, held | {site.name: one}, lab.kind)
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


def test_moving_weights_leaves_no_trace(lab: Lab) -> None:
    before = {n: p.detach().clone() for n, p in lab.model.named_parameters()}
    with moved(lab, {s.name: torch.ones(s.shape) for s in lab.sites}):
        assert not torch.equal(
            next(iter(before.values())), next(iter(lab.model.parameters())).detach()
        )
    assert all(torch.equal(p, before[n]) for n, p in lab.model.named_parameters())


def test_more_rank_takes_back_more_and_full_rank_all(table: SensitivityTable) -> None:
    for site in table.sites:
        if site.reach is None:
            continue
        for shares in site.reach.absorbed.values():
            assert list(shares) == sorted(shares)
            assert 0 <= shares[0] <= shares[-1] <= 1 + 1e-5
        assert site.reach.gains == (), "not asked for"


def test_shares_are_eckart_youngs_in_the_metric_of_the_factors() -> None:
    source = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=source)
    other = torch.randn(5, 5, generator=source)
    factors = Factors(inputs=root @ root.t(), outputs=other @ other.t())
    error = torch.randn(5, 6, generator=source)
    assert absorbed_shares(metric(factors), [error], (5,))[0][0] == pytest.approx(1.0)
    plain = metric(Factors(inputs=torch.eye(6), outputs=torch.eye(5)))
    singular = torch.linalg.svdvals(error).square()
    expected = float(singular[:2].sum() / singular.sum())
    shares = absorbed_shares(plain, [error, 3 * error, 0 * error], (2,))
    assert shares[0] == pytest.approx((expected,), rel=1e-4)
    assert shares[1] == pytest.approx(shares[0])
    assert shares[2] == (0.0,)


def test_a_rank_wins_what_both_halves_of_the_text_agree_on() -> None:
    source = torch.Generator().manual_seed(0)
    plain = metric(Factors(inputs=torch.eye(40), outputs=torch.eye(30)))
    drawn = torch.randn(3, 30, 40, generator=source)
    signal = 3 * torch.outer(drawn[0, :, 0], drawn[1, 0])
    singular = torch.linalg.svdvals(signal).square()
    ranks, damped = (1, 4, 30), 1 / (1 + STEP_DAMPING) ** 2
    won = Ascent.of(plain, signal, signal).gains(ranks)
    assert won[0] == pytest.approx(0.5 * damped * float(singular[0]), rel=1e-3)
    assert won == pytest.approx([won[0]] * 3, rel=1e-3), "a signal of rank one"
    noisy = Ascent.of(plain, signal + drawn[1], signal + drawn[2]).gains(ranks)
    assert noisy == pytest.approx([won[0]] * 3, rel=0.1), "noise has no two halves alike"
    noise = Ascent.of(plain, drawn[1], drawn[2]).gains(ranks)
    alike = Ascent.of(plain, drawn[1], drawn[1]).gains(ranks)
    assert max(noise) < 0.1 * max(alike)
    assert list(noise) == sorted(noise)


def test_a_step_of_a_rank_is_the_best_of_its_rank_down_the_gradient() -> None:
    source = torch.Generator().manual_seed(0)
    root, other, slope = (torch.randn(n, n, generator=source) for n in (6, 6, 6))
    sides = metric(Factors(inputs=root @ root.t(), outputs=other @ other.t()))
    ascent = Ascent.of(sides, slope, slope)
    for rank in (1, 3, 6):
        step = ascent.step(rank)
        assert int(torch.linalg.matrix_rank(step, rtol=1e-4)) == rank
        # Half of what it wins to first order goes to the second, where it is of the right length.
        won = ascent.gains((rank,))[0]
        assert -0.5 * float((step * slope).sum()) == pytest.approx(won, rel=1e-4)


def test_ranks_are_worth_what_a_step_of_each_really_wins(tiny_model: Folder) -> None:
    lab = lab_of(tiny_model("llama"))
    asked = replace(ASKED, walk=False, uniform=False, exact=False, samples=0, costed=True)
    table = measure(lab, asked, ("tiny", "text"))
    reaches = [site.reach for site in table.sites if site.reach is not None]
    for reach in reaches:
        assert list(reach.gains) == sorted(reach.gains)
        assert reach.gains[0] >= 0
    found = curvature.measure(lab.model, lab.sites, lab.batches, 0, kind=lab.kind)
    half = lab.batches[1::2]
    base, won = lab.loss_on(half), []
    for rank in (1, 16):
        steps = {
            s.name: Ascent.of(
                metric(found.factors[s.name]), found.half[s.name], found.other_half(s.name)
            ).step(rank)
            for s in lab.blocks
        }
        tried, length = [0.0], 1e-4
        while tried[-1] >= tried[-2:][0]:
            with moved(lab, {name: length * step for name, step in steps.items()}):
                tried.append(base - lab.loss_on(half))
            length *= 1.1
        won.append(max(tried))
    total = sum(reach.gains[-1] - reach.gains[0] for reach in reaches)
    assert total == pytest.approx(KEPT * max(0.0, won[1] - won[0]), rel=0.2, abs=1e-5)


@pytest.mark.parametrize("win", [3.0, 0.5, 0.02, 1e-3])
def test_a_step_wins_what_the_hill_is_high_however_short_it_must_be(win: float) -> None:
    """A quadratic hill beside a loss of 4: its top is where first order wins twice its height."""

    def won(place: int) -> float:
        length = PACE**place
        return 4 / 2 * length - (4 / 2 * length) ** 2 / (4 * win)

    assert highest(won) == pytest.approx(win, rel=0.1)
    assert highest(lambda place: -1.0) == 0.0
    assert highest(lambda place: math.nan) == 0.0


def test_damage_that_plans_rest_on_comes_to_what_the_stored_model_shows(lab: Lab) -> None:
    asked = replace(ASKED, walk=False, uniform=False, exact=False, samples=0, costed=True)
    table = measure(lab, asked, ("tiny", "text"))
    outputs, blocks = lab.outputs(), {site.name for site in lab.blocks}
    for text in table.formats:
        with moved(lab, {name: lab.error(name, text) for name in blocks}):
            apart = sum(lab.beside(outputs)[1]) / sum(lab.counts)
        each = {s.name: s.damages[text].anchored or 0.0 for s in table.sites}
        assert min(each.values()) >= 0
        assert sum(each[name] for name in blocks) == pytest.approx(apart, rel=1e-3, abs=1e-8)
        for rest in set(each) - blocks:
            with moved(lab, {rest: lab.error(rest, text)}):
                apart = sum(lab.beside(outputs)[1]) / sum(lab.counts)
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
    monkeypatch.setattr(lab_module, "TOKENS", most)
    alone = lab.outputs()
    assert [len(x) for x in together] == lab.counts
    torch.testing.assert_close(together, alone)
    assert torch.is_grad_enabled()


def test_a_table_reads_back_as_it_was_written(table: SensitivityTable) -> None:
    assert from_text(to_text(table)) == table


def test_a_model_that_is_not_finite_is_refused(tiny_model: Folder) -> None:
    lab = lab_of(tiny_model("llama"))
    with torch.no_grad():
        lab.model.get_submodule(lab.blocks[0].name).weight[0, 0] = math.nan  # type: ignore
    with pytest.raises(RunError, match="outputs are not finite on the calibration text"):
        measure(lab, ASKED, ("tiny", "text"))


def test_a_matrix_of_zeros_costs_nothing_in_any_format(tiny_model: Folder) -> None:
    """As blocks are that were added to a model and not trained yet."""
    lab = lab_of(tiny_model("llama"))
    names = [n for n in (s.name for s in lab.blocks) if n.endswith(("o_proj", "down_proj"))][:2]
    with torch.no_grad():
        for name in names:
            lab.model.get_submodule(name).weight.zero_()  # type: ignore
    table = measure(lab, replace(ASKED, walk=False, costed=True), ("tiny", "text"))
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
    honest = Lab.error

    def spoilt(self: Lab, name: str, text: str) -> torch.Tensor:
        return honest(self, name, text) * (math.inf if text == "int4@16" else 1.0)

    monkeypatch.setattr(Lab, "error", spoilt)
    asked = Asked(("int8@16", "int4@16"), (2,), 0, uniform=False, exact=False, costed=True)
    with pytest.raises(RunError, match="int4@16: the outputs of the stored model are not finite"):
        measure(lab, asked, ("tiny", "text"))


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


def test_predictions_hold_the_first_order_and_their_errors(table: SensitivityTable) -> None:
    whole = table.whole["int4@16"]
    found = predictions(whole)
    assert found["taylor"].gap == pytest.approx(whole.first_order + whole.taylor)
    assert found["loss"].gap == whole.loss
    assert found["hutchinson"].spread > found["kfac"].spread == pytest.approx(whole.loss_spread)
    assert found["kl"].low < found["kl"].gap < found["kl"].high
    assert {n for n, one in found.items() if one.runs_model} == {"monte_carlo", "kl", "loss"}


def test_spreads_are_over_documents(lab: Lab) -> None:
    one = measure(lab, Asked(("int2@16",), (4,), 2), ("tiny", "text")).whole["int2@16"]
    lab.documents = [0, 0, 1]
    two = measure(lab, Asked(("int2@16",), (4,), 2), ("tiny", "text")).whole["int2@16"]
    lab.documents = [7, 7, 7]
    table = measure(lab, Asked(("int2@16",), (4,), 2), ("tiny", "text"))
    lab.documents = ()
    assert one.loss == two.loss
    assert one.loss_spread != two.loss_spread
    assert table.whole["int2@16"].loss_spread == one.loss_spread, "of one document: its stretches"
    assert table.documents == 1
    assert "one document" in worked(table.basis, 1)


def test_what_a_table_rests_on_is_said_beside_what_was_asked_for() -> None:
    assert worked(Basis("token", 8100, 20, 14.2), 8192) == (
        "8,100 tokens of calibration text; work of 14 forward passes over it"
    )
    assert "600 tokens of calibration text, all there are of the 4,096 asked for" in worked(
        Basis("token", 600, 20, 9), 4096
    )


def test_errors_are_counted_from_sixteen_bits(lab: Lab) -> None:
    name = lab.blocks[0].name
    exact = lab.weight(name)
    lab.base = {site.name: lab.weight(site.name) for site in lab.sites}
    try:
        assert not lab.error(name, "bf16").any()
        grid = lab.error(name, "int3@16") + rounded(exact)
        lab.base = None
        assert torch.allclose(grid, exact + lab.error(name, "int3@16"), atol=1e-6)
    finally:
        lab.base = None


def test_ranks_leave_what_they_do_not_take_back(table: SensitivityTable) -> None:
    blocks = {s.name: "int2@16" for s in table.sites if s.reach is not None}
    shares = [left(table, blocks, dict.fromkeys(blocks, rank)) for rank in (0, 1, 2, 4, 16)]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    reach = next(s.reach for s in table.sites if s.reach is not None)
    between = reach.share("int2@16", 2)
    assert reach.share("int2@16", 1) < between < reach.share("int2@16", 4)


def test_below_four_bits_another_predictor_is_believed() -> None:
    assert trusted("int8@64") == trusted("nf4@64") == trusted("int3@64") == "taylor"
    assert trusted("int2@64") == trusted("ternary@64") == "kfac"


def test_second_derivatives_may_be_taken_on_fewer_sequences(
    lab: Lab, table: SensitivityTable
) -> None:
    """Gradients, KL and losses take all of them; what is taken on fewer is that of the fewer."""
    asked = replace(ASKED, formats=("int4@16",), walk=False)
    some = Lab(lab.model, lab.sites, lab.batches, curved=(0, 2))
    found = measure(some, asked, ("tiny", "text"))
    few = measure(Lab(lab.model, lab.sites, [lab.batches[0], lab.batches[2]]), asked, ("t", "t"))
    all_of_it, two = found.whole["int4@16"], few.whole["int4@16"]
    for name in ("first_order", "fisher", "kfac", "taylor", "kl", "loss", "loss_spread"):
        assert getattr(all_of_it, name) == pytest.approx(getattr(table.whole["int4@16"], name))
    for name in ("gauss_newton", "hutchinson", "monte_carlo"):
        assert getattr(all_of_it, name) == pytest.approx(getattr(two, name), rel=1e-4, abs=1e-7)
    assert found.units == 3 * few.units / 2
    assert two.curved_spread == 0.0, "of all sequences it is in the spread of the loss already"
    assert found.passes < measure(lab_like(lab), asked, ("t", "t")).passes


def test_what_is_said_of_whole_plans_needs_no_site_by_itself(lab: Lab) -> None:
    names = tuple((site.name, "int4@16") for site in lab.blocks)
    asked = Asked(("int4@16",), ranks=(4,), samples=2, joint=(("plan", names),), uniform=False)
    full = measure(lab_like(lab), asked, ("t", "t"))
    quick = measure(lab_like(lab), replace(asked, exact=False), ("t", "t"))
    assert quick.whole == full.whole
    assert quick.passes < full.passes
    ranks = {site.name: 4 for site in lab.blocks}
    assert left(quick, dict(names), ranks) == left(full, dict(names), ranks)
    for one, other in zip(quick.sites, full.sites, strict=True):
        assert one.reach == other.reach
        damage = one.damages["int4@16"]
        assert damage.taylor is None
        assert damage == replace(other.damages["int4@16"], taylor=None)
    assert from_text(to_text(quick)) == quick


def test_what_few_sequences_say_of_second_order_has_a_spread(lab: Lab) -> None:
    """Of documents: two sequences of one count once."""
    asked = replace(ASKED, formats=("int4@16",), walk=False)
    few = Lab(lab.model, lab.sites, lab.batches, curved=(0, 2))
    errors = {s.name: lab.error(s.name, "int4@16") for s in lab.sites}
    held = {n: e if n in {b.name for b in lab.blocks} else 0 * e for n, e in errors.items()}
    each = [
        0.5 * products(lab.model, lab.sites, [batch], held).sums[0] / sum(batch.labels)
        for batch in few.few
    ]
    whole = measure(few, asked, ("t", "t")).whole["int4@16"]
    wanted = abs(each[0] - each[1]) / 2  # of the mean of two, as long as each other
    assert whole.curved_spread == pytest.approx(wanted, rel=0.05)
    told = predictions(whole)
    wide = math.hypot(whole.loss_spread, whole.curved_spread)
    assert told["gauss_newton"].spread == pytest.approx(wide, rel=1e-3)
    for name in ("taylor", "kfac"):
        assert told[name].spread == pytest.approx(whole.loss_spread), (
            "which are taken on all of them"
        )


def test_what_training_takes_back_takes_its_error_with_it(table: SensitivityTable) -> None:
    """The first order stays, and so does its own; of second order everything shrinks alike."""
    whole = replace(table.whole["int4@16"], loss_spread=5.0, kl_spread=3.0, curved_spread=2.0)
    first = whole.first_order
    full, half, none = (predictions(whole, share) for share in (1.0, 0.5, 0.0))
    for name in full:
        assert half[name].gap == pytest.approx(first + 0.5 * (full[name].gap - first))
        assert none[name].gap == pytest.approx(first)
        assert none[name].spread == pytest.approx(4.0), "what the KL's error leaves of the loss's"
    assert full["kl"].spread == pytest.approx(5.0)
    assert half["kl"].spread == pytest.approx(math.hypot(4, 1.5))
    assert half["gauss_newton"].spread == pytest.approx(math.hypot(4, 1.5, 1))
    steady = predictions(replace(whole, loss_spread=2.0), 0.5)
    assert steady["kl"].spread == pytest.approx(1.0), "a KL that scatters more than the loss"


def test_second_order_by_losses_is_the_hessians(lab: Lab) -> None:
    """Of every sequence: what a backward pass through a backward pass gives."""
    errors = {s.name: lab.error(s.name, "int4@16") for s in lab.blocks}
    held = {s.name: errors.get(s.name, torch.zeros_like(lab.weight(s.name))) for s in lab.sites}
    wanted = products(lab.model, lab.sites, lab.batches, held).sums
    outputs = lab.outputs()
    with moved(lab, errors):
        kl = sum(lab.beside(outputs)[1]) / sum(lab.counts)
    found = second_order(lab, errors, lab.losses(outputs), kl)
    assert found == pytest.approx([0.5 * each for each in wanted], rel=0.02)
    assert lab.losses_now() == lab.losses(outputs), "and the weights are where they were"


def lab_like(lab: Lab) -> Lab:
    return Lab(lab.model, lab.sites, lab.batches)


def test_fewer_sequences_are_spread_over_all() -> None:
    ids = some_ids(10, 9)
    batches = [batch_of(row[None, :-1], row[None, 1:]) for row in ids]
    assert fewer(batches, 0) == fewer(batches, 10_000) == ()
    assert fewer(batches, 40) == (0, 2, 4, 6, 8)
    assert fewer(batches, 1) == (0,)
    assert spread([1] * 10, 7) == (0, 1, 2, 4, 5, 7, 8)
    assert spread([9, 1], 10) == spread([9, 1], 99) == (0, 1)


def test_what_is_measured_on_is_composed_as_what_is_scored() -> None:
    """Sequences of all text, evenly: a document speaks as often as it is long."""
    rows = [(document, k) for document, long in enumerate((6, 1, 3)) for k in range(long)]
    part = tuple(Example(np.arange(9), np.arange(9), document, 9) for document, _ in rows)
    start = SimpleNamespace(
        data=SimpleNamespace(parts={"calibration": part, "train": part[:1]}),
        task=SimpleNamespace(name="t"),
    )
    _, documents = sequences(start, 9 * 5)  # type: ignore[arg-type]
    assert documents == [0, 0, 0, 1, 2]
    _, documents = sequences(start, 9 * 10)  # type: ignore[arg-type]
    assert documents == [0, 0, 0, 0, 0, 0, 1, 2, 2, 2]
    _, documents = sequences(start, 9 * 11, ("calibration", "train"))  # type: ignore[arg-type]
    assert documents[-2:] == [2, 3], "the other part's documents are others"


def test_a_gradient_that_is_not_finite_is_named(
    tiny_model: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = lab_of(tiny_model("llama"))
    site = found.blocks[1].name
    honest = curvature.measure

    def spoilt(*words: Any) -> Any:
        made = honest(*words)
        made.gradient[site][0, 0] = math.inf
        return made

    monkeypatch.setattr(curvature, "measure", spoilt)
    with pytest.raises(RunError, match=f"the gradient of {site} is not finite on the calibration"):
        measure(found, ASKED, ("tiny", "text"))


def test_too_little_text_to_calibrate_on_says_how_little_it_would_tell() -> None:
    part = tuple(Example(np.arange(9), np.arange(9), i, 9) for i in range(9))
    for kind, known in (("language", r"0\.031"), ("classification", r"0\.092")):
        start = SimpleNamespace(
            data=SimpleNamespace(parts={"calibration": part}),
            task=SimpleNamespace(name="t", kind=kind),
        )
        with pytest.raises(UserError, match=rf"81 tokens to calibrate on; 512 .* ± {known}"):
            sequences(start, 4096)  # type: ignore[arg-type]


def test_outputs_that_memory_cannot_hold_are_refused_before_anything_is_read() -> None:
    part = tuple(Example(np.arange(9), np.arange(9), i, 9) for i in range(9))
    start = SimpleNamespace(
        data=SimpleNamespace(parts={"calibration": part}),
        task=SimpleNamespace(name="t", kind="language"),
        checkpoint=SimpleNamespace(config=SimpleNamespace(vocab_size=1000)),
    )
    text = sequences(start, 81, least=1)  # type: ignore[arg-type]
    scored = sum(sum(batch.labels) for batch in text[0])
    check_room(start, text, 4000 * scored)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=rf"of {scored} tokens, over 1,000 words, .* 40 for inst"):
        check_room(start, text, 4000 * 80)  # type: ignore[arg-type]


def test_the_same_weights_otherwise_put_together_are_another_model(tiny_model: Folder) -> None:
    config = opened(tiny_model("llama")).checkpoint.config
    before = _architecture(config)
    config._name_or_path = "elsewhere"
    assert _architecture(config) == before
    config.rms_norm_eps *= 10
    assert _architecture(config) != before
