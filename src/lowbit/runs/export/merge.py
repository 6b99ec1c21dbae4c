"""Back to an ordinary model: the decoded base, or base and adapter merged.

Merging is explicit and returns a new model; nothing is merged because a mode changed. It goes
onto the *decoded* base, which computes what was trained. Storing the merged weights in few bits
again is a second quantisation and costs quality: `requantise` does it when asked, so that both
can be scored.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from lowbit.core.errors import UserError
from lowbit.core.spec import Choice, Site
from lowbit.layers.frozen import FrozenEmbedding
from lowbit.layers.install import adapters, trained
from lowbit.layers.linear import Adapted
from lowbit.models.family import is_transposed
from lowbit.models.loading import Checkpoint, Kind, load
from lowbit.quant.codec import decode, encode

_COPIED = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json")


def plain(
    installed: nn.Module,
    sites: tuple[Site, ...],
    checkpoint: Checkpoint,
    kind: Kind,
    labels: int = 0,
    pad: int | None = None,
    merge: bool = False,
    requantise: Mapping[str, Choice] | None = None,
) -> nn.Module:
    """A transformers model in fp32 with the decoded weights, adapters merged where asked."""
    model = load(checkpoint, kind, labels, pad).float()
    weights = decoded(installed, sites, merge)
    heads = trained(installed)
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
            turned = weight.t() if is_transposed(module) else weight
            module.get_parameter("weight").copy_(turned)
            _put_bias(installed.get_submodule(site.name), module, site.name)
    return model


def _put_bias(layer: nn.Module, module: nn.Module, name: str) -> None:
    """A bias that a ternary base was trained with; other frozen layers kept the model's own."""
    bias, own = getattr(layer, "bias", None), getattr(module, "bias", None)
    if bias is None:
        return
    if own is None:
        raise UserError(
            f"{name} was trained with a bias, for which an ordinary model of this kind has no "
            "place: train without reactivation and without bias to export it"
        )
    own.copy_(bias)


def decoded(installed: nn.Module, sites: tuple[Site, ...], merge: bool) -> dict[str, Tensor]:
    """(out, in) matrices of all frozen sites, with B A added where `merge`."""
    deltas = adapters(installed)
    weights = {}
    for site in sites:
        layer = installed.get_submodule(site.name)
        if not isinstance(layer, Adapted | FrozenEmbedding):
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

    model.save_pretrained(folder)  # type: ignore[operator]
    for pattern in _COPIED:
        for path in checkpoint.folder.glob(pattern):
            shutil.copyfile(path, folder / path.name)
