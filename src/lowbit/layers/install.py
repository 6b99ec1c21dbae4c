"""Replace a model's linear and embedding layers by the layers that a plan chooses.

`install` goes over the sites that `models.family` lists. It encodes each weight, inserts the new
layer and drops the original. Norms and biases are frozen and cast to the compute type. Heads that
the checkpoint lacks are trained in full precision. Afterwards the module type and the bytes of
every site are compared with the plan; a difference raises `RunError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lowbit.core.errors import RunError, run_error_prefix
from lowbit.core.spec import BLOCK_ROLES, Choice, Plan, QuantSpec, Site
from lowbit.layers.adapters import Adapter, SvdAdapter, start_from_residual
from lowbit.layers.frozen import Decoder, FrozenEmbedding, FrozenMatrix, Residency
from lowbit.layers.linear import AdaptedLinear, TrainedLinear
from lowbit.layers.ternary.grid import Grid
from lowbit.layers.ternary.linear import Recovery, TernaryLinear
from lowbit.models.family import is_transposed
from lowbit.quant.byte_counts import matrix_bytes
from lowbit.quant.codec import Packed, encode

Correction = tuple[Tensor, Tensor]
"""(out, rank) and (rank, in): the factors of a delta."""


@dataclass(frozen=True)
class LayerSettings:
    """Options that all sites share."""

    plan: Plan
    compute: torch.dtype
    seed: int
    residency: Residency = "packed"
    decoder: Decoder = "own"
    int8: bool = False
    """Products of frozen block matrices round activations and weights to int8."""
    corrections: Mapping[str, Correction] = field(default_factory=dict)
    """For `init = "weighted"`: the factors that each site's adapter starts at."""


class WeightReader(Protocol):
    """Reads the weights of a module that has none yet (`models.weights.Weights`)."""

    def fill(self, module: nn.Module, name: str) -> None: ...


class Encoder(Protocol):
    """Encodes a matrix, or reads it from a cache (`runs.encoding_cache`)."""

    def __call__(self, name: str, weight: Tensor, spec: QuantSpec) -> Packed: ...


def encode_now(name: str, weight: Tensor, spec: QuantSpec) -> Packed:
    """Encode without a cache."""
    return encode(weight, spec)


def install(
    model: nn.Module,
    sites: tuple[Site, ...],
    choices: Mapping[str, Choice],
    settings: LayerSettings,
    source: WeightReader | None = None,
    encoding: Encoder = encode_now,
) -> None:
    """Replace every site's module in place, freeze the other parameters, and check the result.

    With a `source` the model may still lack its weights. One matrix at a time is then read, encoded
    and dropped, so that at most one unencoded matrix is in memory.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for site in sites:
        if source is not None:
            for name in (site.name, *site.aliases):
                source.fill(model.get_submodule(name), name)
        _install_site(model, site, choices[site.name], settings, encoding)
    if source is not None:
        source.fill(model, "")
    _cast_rest(model, settings.compute)
    for site in sites:
        _check(model, site, choices[site.name])


def _install_site(
    model: nn.Module, site: Site, choice: Choice, settings: LayerSettings, encoding: Encoder
) -> None:
    module = model.get_submodule(site.name)
    weight = _weight(module)
    if choice.ternary:
        _put(model, site.name, _ternary(module, weight, choice, settings))
        return
    if choice.base == "trained":
        _put(model, site.name, _trained(module, weight, site, settings))
        return
    with run_error_prefix(site.name):
        packed = encoding(site.name, weight, choice.quant)
    # A head's gradient, probabilities minus one label, has too many small numbers for 255 levels.
    int8 = settings.int8 and site.role in BLOCK_ROLES
    frozen = FrozenMatrix(packed, settings.residency, settings.decoder, int8)
    for name in (site.name, *site.aliases):
        _put(model, name, _layer(model.get_submodule(name), frozen, site, choice, settings))


def _layer(
    module: nn.Module, frozen: FrozenMatrix, site: Site, choice: Choice, settings: LayerSettings
) -> nn.Module:
    if isinstance(module, nn.Embedding):
        return FrozenEmbedding(frozen, settings.compute)
    adapter = None
    if choice.rank:
        kind = Adapter if settings.plan.schedule.kind == "fixed" else SvdAdapter
        seed = generator(settings.seed, site.name)
        adapter = kind(
            choice.rank,
            site.shape,
            settings.plan.alpha_at(choice.rank),
            settings.plan.dropout,
            seed,
        ).to(frozen.codes.device)
        if settings.plan.init == "residual":
            start_from_residual(adapter, _weight(module).float() - frozen.weight(torch.float32))
        elif settings.plan.init == "weighted":
            left, right = settings.corrections[site.name]
            start_from_residual(adapter, (left @ right).to(frozen.codes.device))
    return AdaptedLinear(frozen, getattr(module, "bias", None), adapter)


def _trained(
    module: nn.Module, weight: Tensor, site: Site, settings: LayerSettings
) -> TrainedLinear:
    bias = getattr(module, "bias", None)
    if site.fresh:
        # The head depends on the run's seed only, so that compared plans start from the same head.
        seed = generator(settings.seed, site.name)
        weight = torch.empty(site.shape).normal_(0, 0.02, generator=seed).to(weight.device)
        bias = None if bias is None else torch.zeros_like(bias)
    out = settings.compute if site.role in BLOCK_ROLES else torch.float32
    return TrainedLinear(weight, bias, out, transposed=is_transposed(module))


def _ternary(
    module: nn.Module, weight: Tensor, choice: Choice, settings: LayerSettings
) -> TernaryLinear:
    recipe = settings.plan.ternary
    if recipe is None:
        raise RunError(
            "a plan with a ternary base needs a [ternary] recipe, and this plan has none"
        )
    # Trainable formats and Grid use the same names for their scale rules.
    rule: Any = "learned" if recipe.learned else choice.quant.scale
    recovery = Recovery(recipe.dead_gradient, recipe.reactivation, recipe.bias, recipe.activations)
    grid = Grid(choice.quant.group, rule, recipe.threshold)
    return TernaryLinear(weight, getattr(module, "bias", None), grid, recovery)


def _weight(module: nn.Module) -> Tensor:
    """The weight as (out, in), detached; Conv1D modules store it transposed."""
    weight: Tensor = module.weight.detach()  # type: ignore[union-attr, operator, assignment]
    return weight.t() if is_transposed(module) else weight


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def _cast_rest(model: nn.Module, compute: torch.dtype) -> None:
    """Cast norms and biases to the compute type; trained parameters stay in fp32."""
    for name, parameter in model.named_parameters():
        is_trained = parameter.requires_grad or ".adapter." in name
        if parameter.is_floating_point() and not is_trained:
            parameter.data = parameter.data.to(compute)


def _check(model: nn.Module, site: Site, choice: Choice) -> None:
    for name in (site.name, *site.aliases):
        module = model.get_submodule(name)
        if not isinstance(module, AdaptedLinear | FrozenEmbedding | TrainedLinear | TernaryLinear):
            raise RunError(
                f"{name} is still a {type(module).__name__}: the plan was not applied to it"
            )
        if isinstance(module, TrainedLinear | TernaryLinear):
            continue
        size, expected = module.frozen.packed.nbytes, matrix_bytes(choice.quant, site.shape).total
        if size != expected:
            raise RunError(f"{name} takes {size} bytes, but the byte count says {expected}")


def generator(seed: int, name: str) -> torch.Generator:
    """The site's own random stream, which does not depend on the rest of the plan."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def adapters(model: nn.Module) -> dict[str, Adapter | SvdAdapter]:
    """Every adapter by its site's name."""
    return {
        name: module.adapter
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLinear) and module.adapter is not None
    }


def trained_layers(model: nn.Module) -> dict[str, TrainedLinear]:
    """Every layer trained in full precision, by its site's name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, TrainedLinear)}
