"""Hutchinson's estimate of the damage of random noise, for all sites at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lowbit.curvature.measured_model import HESSIAN_WORK, MeasuredModel, OnProgress, resident
from lowbit.sensitivity import hessian
from lowbit.sensitivity.table import MeasureRequest


@dataclass(frozen=True)
class Traces:
    """v'Hv of every site, one value per draw, for noise v with each group's variance of weights.

    `power`: the noise's expected sum of squares at every site.
    """

    values: dict[str, tuple[float, ...]]
    power: dict[str, float]

    def cost(self, name: str, square: float) -> float | None:
        """1/2 v'Hv, scaled to `square`, a format's actual |e|^2; None without draws."""
        costs = self.costs(name, square)
        return mean(costs) if costs else None

    def costs(self, name: str, square: float) -> list[float]:
        """The same for every draw."""
        if not self.values:
            return []
        power = self.power[name]  # 0 for a matrix of zeros, which no format changes
        scale = 0.5 * square / power if power > 0 else 0.0
        return [scale * value for value in self.values[name]]

    def spread(self, name: str, square: float) -> float | None:
        """The standard error over draws; None with fewer than two."""
        costs = self.costs(name, square)
        return standard_error(costs) if len(costs) > 1 else None


def hutchinson(model: MeasuredModel, request: MeasureRequest, on_progress: OnProgress) -> Traces:
    """Adds noise to all sites at once; the cross terms with other sites have mean zero."""
    if not request.samples:
        return Traces({}, {})
    source = torch.Generator().manual_seed(request.seed + 1)
    values: dict[str, list[float]] = {site.name: [] for site in model.sites}
    scales = {site.name: _noise_scale(model.weight(site.name)) for site in model.sites}
    for i in range(request.samples):
        on_progress("curvature", i, request.samples)
        v = {n: s * torch.randn(s.shape, generator=source) for n, s in scales.items()}
        with resident(model):
            product = hessian.products(model.module, model.sites, model.subset, v, model.kind)
        for name in values:
            values[name].append(float((v[name] * product.matrices[name]).sum()))
        model.count_work(HESSIAN_WORK, on_subset=True)
    power = {name: float(scale.square().sum()) for name, scale in scales.items()}
    return Traces({n: tuple(v) for n, v in values.items()}, power)


def _noise_scale(weight: Tensor, group: int = 64) -> Tensor:
    """The largest weight of each group, for all of its weights: a grid's step is proportional."""
    rows, columns = weight.shape
    padded = F.pad(weight.abs(), (0, -columns % group)).view(rows, -1, group)
    largest = padded.amax(-1, keepdim=True).expand_as(padded).reshape(rows, -1)
    return largest[:, :columns].contiguous()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean; infinite for fewer than two values."""
    if len(values) < 2:
        return math.inf
    middle = mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1) / len(values))
