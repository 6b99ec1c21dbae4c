"""Model families, and the list of a model's sites.

A family is data: the `model_type`s that it covers, and name patterns with their roles. A weight
matrix that no pattern matches is an error, so that no layer stays unquantised unnoticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lowbit.core.errors import RunError, UserError
from lowbit.core.plugins import plugins
from lowbit.core.spec import Role, Site
from lowbit.models.packed_attention import Segments

MATRICES = ("Linear", "Conv1D", "Embedding")
"""Classes of modules that hold one weight matrix."""


def last_token(model: nn.Module, hidden: Tensor, segments: Segments) -> Tensor:
    """Class logits of a causal model: its head applied to the last token of each example."""
    head: nn.Module = model.score  # type: ignore[assignment]
    return head(hidden[segments.last])


@dataclass(frozen=True)
class Family:
    """Models that share their module names.

    `sites`: (pattern over module names, role); a group named `depth` in a pattern is the number of
    the block. `classify(model, hidden, segments)`: from (tokens, width) to class logits (examples,
    classes). `transposed`: block matrices are Conv1D modules, which store a weight as (in, out).
    """

    name: str
    model_types: tuple[str, ...]
    sites: tuple[tuple[str, Role], ...]
    classify: Callable[[nn.Module, Tensor, Segments], Tensor] = last_token
    transposed: bool = False

    def match(self, module: str) -> Site | None:
        """The site of a module, by its name; the shape is filled in later."""
        for pattern, role in self.sites:
            match = re.fullmatch(pattern, module)
            if match:
                depth = match.groupdict().get("depth")
                return Site(module, role, (0, 0), None if depth is None else int(depth))
        return None


def family_of(model_type: str) -> Family:
    """The family that covers a configuration's `model_type`."""
    families = plugins("lowbit.models", "FAMILY")
    for family in families.values():
        if model_type in family.model_types:
            return family
    covered = ", ".join(t for f in families.values() for t in f.model_types)
    raise UserError(f"no model family covers '{model_type}'. Covered: {covered}.")


def is_transposed(module: nn.Module) -> bool:
    """Whether a module stores its weight as (in, out), as GPT-2's Conv1D does."""
    return type(module).__name__ == "Conv1D"


def shape_of(module: nn.Module) -> tuple[int, int]:
    """(out_features, in_features), also if the module stores its weight transposed."""
    rows, columns = module.weight.shape  # type: ignore[union-attr, misc]
    return (columns, rows) if is_transposed(module) else (rows, columns)


def matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module that holds one weight matrix."""
    for name, module in model.named_modules():
        if type(module).__name__ in MATRICES:
            yield name, module


def find_sites(model: nn.Module, stored: frozenset[str] | None = None) -> tuple[Site, ...]:
    """All sites of a transformers model, with tied weights as one site; works on the meta device.

    `stored`: the checkpoint's matrices. A head that is not among them is `fresh`. None: the
    checkpoint holds all matrices.
    """
    family = family_of(model.config.model_type)  # type: ignore[union-attr, arg-type]
    sites: dict[int, Site] = {}
    for name, module in matrices(model):
        site = family.match(name)
        if site is None:
            raise RunError(
                f"{family.name}: no pattern matches the matrix '{name}' {tuple(shape_of(module))}, "
                "which would stay unquantised"
            )
        key = id(module.weight)
        if key in sites:
            sites[key] = replace(sites[key], aliases=(*sites[key].aliases, name))
        else:
            fresh = site.role == "head" and stored is not None and not _holds(stored, name)
            bias = getattr(module, "bias", None)
            size = 0 if bias is None else len(bias)
            sites[key] = replace(site, shape=shape_of(module), fresh=fresh, bias=size)
    return tuple(sites.values())


def _holds(stored: frozenset[str], name: str) -> bool:
    """Whether a matrix is stored. Names in a checkpoint of the body alone lack the leading part."""
    return any(name == s or name.endswith("." + s) or s.endswith("." + name) for s in stored)
