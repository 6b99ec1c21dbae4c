"""Curvature against definitions written out the slow way, on models of every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.models import batch_of, opened, some_ids
from helpers.sensitivity import AllCurvature, all_curvature
from torch import Tensor, nn

from lowbit.core.spec import Site
from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.site_curvature import (
    as_site,
    fisher_cost,
    kfac_cost,
    logits_of,
    summed_loss,
    weights_of,
)
from lowbit.sensitivity.hessian import gauss_newton, products
from lowbit.tasks.base import Batch

Folder = Callable[[str], Path]
FAMILIES = ("llama", "llama-untied", "gpt2", "qwen3")


@dataclass
class Scene:
    model: nn.Module
    sites: tuple[Site, ...]
    batches: list[Batch]

    def curvature(self, seed: int = 0, batches: list[Batch] | None = None) -> AllCurvature:
        return all_curvature(MeasuredModel(self.model, self.sites, batches or self.batches), seed)


@pytest.fixture(params=FAMILIES)
def scene(request: pytest.FixtureRequest, tiny_model: Folder) -> Scene:
    start = opened(tiny_model(request.param), "language")
    model = start.model().double().eval()
    for module in model.modules():
        if "RMSNorm" in type(module).__name__:
            module.forward = partial(exact_norm, module)  # type: ignore[method-assign]
    ids = some_ids(3, 9)
    batches = [batch_of(row[None, :-1], row[None, 1:]) for row in ids]
    return Scene(model, start.sites, batches)


def exact_norm(module: nn.Module, x: Tensor) -> Tensor:
    """As transformers has it, but for a detour through fp32 that differences would show."""
    spread = x.square().mean(-1, keepdim=True) + module.variance_epsilon  # type: ignore[operator]
    return module.weight * x * spread.rsqrt()  # type: ignore[operator, return-value]


def random_like(scene: Scene, seed: int, size: float = 1.0) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {s.name: size * torch.randn(s.shape, generator=source).double() for s in scene.sites}


def mean_loss(scene: Scene) -> float:
    total = sum(float(summed_loss(scene.model, batch).detach()) for batch in scene.batches)
    return total / sum(len(batch.ids) for batch in scene.batches)


def moved(scene: Scene, direction: dict[str, Tensor], by: float) -> None:
    with torch.no_grad():
        for name, weight in weights_of(scene.model, scene.sites).items():
            weight.add_(by * as_site(scene.model, name, direction[name]))


def test_the_gradient_is_the_slope_of_the_mean_loss(scene: Scene) -> None:
    curvature = scene.curvature(0)
    direction = random_like(scene, 1)
    expected = sum(float((curvature.gradient[n] * v).sum()) for n, v in direction.items())
    step = 1e-5
    moved(scene, direction, step)
    above = mean_loss(scene)
    moved(scene, direction, -2 * step)
    assert (above - mean_loss(scene)) / (2 * step) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_fisher_squares_the_summed_gradient_of_a_sequence_with_the_models_own_labels(
    scene: Scene,
) -> None:
    curvature = scene.curvature(5)
    source = torch.Generator().manual_seed(5)
    weights = weights_of(scene.model, scene.sites)
    squares = {name: torch.zeros_like(w) for name, w in weights.items()}
    for batch in scene.batches:
        logits = logits_of(scene.model, batch)
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=source)[:, 0]
        loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
        for name, slope in zip(
            weights, torch.autograd.grad(loss, list(weights.values())), strict=True
        ):
            squares[name] += slope.square()
    for name, square in squares.items():
        assert torch.allclose(
            curvature.fisher[name], as_site(scene.model, name, square) / curvature.units
        )
    error = random_like(scene, 2)
    name = scene.sites[1].name
    expected = 0.5 * (curvature.fisher[name] * error[name] ** 2).sum()
    assert fisher_cost(curvature.fisher[name], error[name]) == pytest.approx(
        float(expected), rel=1e-5
    )


def test_kfac_of_a_single_token_is_the_square_of_its_slope(scene: Scene) -> None:
    """One token: E[a a'] and E[g g'] are outer products, and nothing is approximate."""
    batch = scene.batches[0]
    single = Batch(batch.ids[:1], batch.target[:1], (1,), (1,), (0,))
    curvature = scene.curvature(3, [single])
    error = random_like(scene, 4)
    for site in scene.sites:
        factors = curvature.factors[site.name]
        if site.role in ("embedding", "head"):
            continue  # two uses, or a diagonal: below
        drawn_slope = curvature.fisher[
            site.name
        ].sqrt()  # up to signs, which an outer product shares
        cost = kfac_cost(factors, error[site.name])
        assert factors.inputs is not None
        assert factors.outputs is not None
        traces = float(torch.trace(factors.inputs) * torch.trace(factors.outputs))
        assert traces == pytest.approx(float(drawn_slope.square().sum()), rel=1e-3, abs=1e-9)
        most = 0.5 * traces * float(error[site.name].square().sum())
        assert 0 <= cost <= most * (1 + 1e-4)


def test_kfacs_cost_is_the_quadratic_form_of_its_factors(scene: Scene) -> None:
    curvature = scene.curvature(3)
    error = random_like(scene, 6)
    for site in scene.sites:
        factors, e = curvature.factors[site.name], error[site.name]
        expected = 0.0
        if factors.inputs is not None and factors.outputs is not None:
            G = torch.diag(factors.outputs) if factors.out_diagonal else factors.outputs
            expected += 0.5 * float(torch.trace(e.t() @ G @ e @ factors.inputs))
        if factors.rows is not None and factors.row_outputs is not None:
            rows = torch.zeros(len(e)).double()
            rows[: len(factors.rows)] = factors.rows
            expected += 0.5 * float(torch.trace(torch.diag(rows) @ e @ factors.row_outputs @ e.t()))
        assert kfac_cost(factors, e) == pytest.approx(expected, rel=1e-4)
        assert expected > 0


def test_a_tied_matrix_has_the_factors_of_both_uses(tiny_model: Folder) -> None:
    for name, both in (("llama", True), ("llama-untied", False)):
        start = opened(tiny_model(name), "language")
        ids = some_ids(2, 6)
        batches = [batch_of(ids[:, :-1], ids[:, 1:])]
        curvature = all_curvature(MeasuredModel(start.model().float(), start.sites, batches))
        embedding = curvature.factors[start.sites[0].name]
        assert embedding.rows is not None
        assert float(embedding.rows.sum()) == pytest.approx(1.0)
        assert (embedding.inputs is not None) == both


def test_hessian_products_are_differences_of_gradients(scene: Scene) -> None:
    direction = random_like(scene, 7)
    product = products(scene.model, scene.sites, scene.batches, direction)
    matrices, step = product.matrices, 1e-5
    moved(scene, direction, step)
    above = scene.curvature(0).gradient
    moved(scene, direction, -2 * step)
    below = scene.curvature(0).gradient
    for site in scene.sites:
        expected = (above[site.name] - below[site.name]) / (2 * step)
        scale = float(expected.abs().max())
        assert float((matrices[site.name] - expected).abs().max()) < 1e-5 * scale + 1e-8
    tokens = sum(sum(batch.labels) for batch in scene.batches)
    along = sum(float((direction[s.name] * matrices[s.name]).sum()) for s in scene.sites)
    assert len(product.sums) == len(scene.batches)
    assert sum(product.sums) / tokens == pytest.approx(along, rel=1e-5)


def test_gauss_newton_is_the_curvature_of_the_output_alone(scene: Scene) -> None:
    direction = random_like(scene, 8)
    damage = gauss_newton(scene.model, scene.sites, scene.batches, direction)
    before = [logits_of(scene.model, b).detach() for b in scene.batches]
    step = 1e-5
    moved(scene, direction, step)
    above = [logits_of(scene.model, b).detach() for b in scene.batches]
    moved(scene, direction, -2 * step)
    below = [logits_of(scene.model, b).detach() for b in scene.batches]
    total, tokens = 0.0, 0
    for logits, up, down in zip(before, above, below, strict=True):
        slope, share = (up - down) / (2 * step), logits.softmax(-1)
        mean = (share * slope).sum(-1, keepdim=True)
        total += 0.5 * float((share * (slope - mean) ** 2).sum())
        tokens += len(logits)
    assert damage == pytest.approx(total / tokens, rel=1e-5)
    assert damage > 0


def test_looking_leaves_the_model_as_it_was(scene: Scene) -> None:
    before = {n: p.detach().clone() for n, p in scene.model.named_parameters()}
    direction = random_like(scene, 9)
    scene.curvature(0)
    gauss_newton(scene.model, scene.sites, scene.batches, direction)
    after = dict(scene.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(p, after[n]) for n, p in before.items())
    assert not any(m._forward_hooks for m in scene.model.modules())
