"""Builds an ordinary transformers model: the decoded base, or base and adapter merged.

Merging is always explicit and returns a new model. The adapter is added to the *decoded* base, so
the merged model computes the same as the trained one. Quantising the merged weights again costs
quality; `requantise` does so, to measure that cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.core.spec import Choice, Site
from lowbit.layers.frozen import FrozenEmbedding
from lowbit.layers.install import adapters, trained_layers
from lowbit.layers.linear import AdaptedLinear
from lowbit.models.checkpoint import Checkpoint, tokenizer_of
from lowbit.models.family import is_transposed
from lowbit.models.loading import load
from lowbit.models.skeleton import Kind, quiet
from lowbit.quant.codec import decode, encode

_COPIED = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")


def plain_model(
    installed: nn.Module,
    sites: tuple[Site, ...],
    checkpoint: Checkpoint,
    kind: Kind,
    labels: int = 0,
    pad: int | None = None,
    merge: bool = False,
    requantise: Mapping[str, Choice] | None = None,
) -> nn.Module:
    """A transformers model in fp32 with the decoded weights; `merge` adds the adapters."""
    model = load(checkpoint, kind, labels, pad).float()
    weights = decoded(installed, sites, merge)
    heads = trained_layers(installed)
    with torch.no_grad():
        for site in sites:
            module = model.get_submodule(site.name)
            if site.name in heads:
                for name, tensor in heads[site.name].exported().items():
                    module.get_parameter(name).copy_(tensor)
                continue
            weight = weights[site.name]
            if requantise is not None:
                weight = decode(encode(weight, requantise[site.name].quant))
            oriented = weight.t() if is_transposed(module) else weight
            module.get_parameter("weight").copy_(oriented)
            _put_bias(installed.get_submodule(site.name), module, site.name)
    return model


def _put_bias(layer: nn.Module, module: nn.Module, name: str) -> None:
    """Copy the bias of a trained ternary layer; other frozen layers have the model's own bias."""
    bias, own = getattr(layer, "bias", None), getattr(module, "bias", None)
    if bias is None:
        return
    if own is None:
        raise UserError(
            f"{name} was trained with a bias, but an ordinary model of this kind has none there. "
            "To export it, train without reactivation and without bias"
        )
    own.copy_(bias)


def decoded(installed: nn.Module, sites: tuple[Site, ...], merge: bool) -> dict[str, Tensor]:
    """The decoded (out, in) matrices of all frozen sites; `merge` adds B A."""
    deltas = adapters(installed)
    weights = {}
    for site in sites:
        layer = installed.get_submodule(site.name)
        if not isinstance(layer, AdaptedLinear | FrozenEmbedding):
            continue
        weight = layer.frozen.weight(torch.float32).clone()
        if merge and site.name in deltas:
            a, b = deltas[site.name].factors()
            weight += b @ a
        weights[site.name] = weight
    return weights


def save(model: nn.Module, checkpoint: Checkpoint, folder: Path) -> None:
    """Write a model folder that transformers and PEFT open, tokenizer included."""
    import shutil

    with quiet():
        model.save_pretrained(folder)  # type: ignore[operator]
    if checkpoint.gguf is not None:
        tokenizer_of(checkpoint.folder).save_pretrained(folder)
        return
    for pattern in _COPIED:
        for path in checkpoint.folder.glob(pattern):
            shutil.copyfile(path, folder / path.name)
