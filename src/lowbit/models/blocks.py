"""Runs a model block after block, so that a caller can fill, change or free one block at a time.

The model itself computes what its first block is given and what follows its last block; this module
only stands in for its blocks. Inputs are packed examples, as everywhere in lowbit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lowbit.core.spec import Site
from lowbit.models import packed_attention
from lowbit.models.packed_attention import Segments


@dataclass(frozen=True)
class Arguments:
    """What a model hands to each of its blocks besides the hidden states."""

    positional: tuple[Any, ...]
    named: dict[str, Any]


class _FirstBlockError(Exception):
    """Carries the first block's arguments out of the model."""

    def __init__(self, hidden: Tensor, arguments: Arguments) -> None:
        super().__init__()
        self.hidden, self.arguments = hidden, arguments


class _Given(nn.Module):
    """Stands in for all blocks: its output is what the last of them gave."""

    def __init__(self, output: Tensor | tuple[Tensor]) -> None:
        super().__init__()
        self.output = output

    def forward(self, *positional: Any, **named: Any) -> Tensor | tuple[Tensor]:
        return self.output


class Blocks:
    """The blocks of a model, run one at a time. Hidden states are (1, tokens, width)."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        packed_attention.use(model)
        self.model, self.prefix = model, block_prefix(sites)
        self.gives_tuples = False

    @property
    def modules(self) -> nn.ModuleList:
        return self.model.get_submodule(self.prefix)  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.modules)

    def name(self, depth: int) -> str:
        return f"{self.prefix}.{depth}"

    def first_inputs(self, ids: Tensor, segments: Segments) -> tuple[Tensor, Arguments]:
        """The first block's hidden states, and the other arguments of all blocks."""

        def stop(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden, *rest = positional or (named.pop("hidden_states"),)
            raise _FirstBlockError(hidden, Arguments(tuple(rest), dict(named)))

        handle = self.modules[0].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            self._run_body(ids, segments)
        except _FirstBlockError as reached:
            return reached.hidden, reached.arguments
        finally:
            handle.remove()
        raise AssertionError("the model never reached its first block")

    def run(self, depth: int, hidden: Tensor, arguments: Arguments) -> Tensor:
        """The hidden states after one block."""
        output = self.modules[depth](hidden, *arguments.positional, **arguments.named)
        self.gives_tuples = isinstance(output, tuple)
        first: Tensor = output[0] if self.gives_tuples else output
        return first

    def after(self, ids: Tensor, segments: Segments, hidden: Tensor) -> Tensor:
        """(tokens, width): what the model's body makes of the last block's hidden states."""
        with self._replaced(nn.ModuleList([_Given((hidden,) if self.gives_tuples else hidden)])):
            return self._run_body(ids, segments)

    def _run_body(self, ids: Tensor, segments: Segments) -> Tensor:
        body: nn.Module = self.model.base_model  # type: ignore[assignment]
        return packed_attention.hidden_states(body, ids, segments)

    @contextmanager
    def absent(self) -> Iterator[None]:
        """The model without its blocks, to read or convert everything else."""
        with self._replaced(nn.ModuleList()):
            yield

    @contextmanager
    def _replaced(self, others: nn.ModuleList) -> Iterator[None]:
        blocks = self.modules
        parent, _, name = self.prefix.rpartition(".")
        setattr(self.model.get_submodule(parent), name, others)
        try:
            yield
        finally:
            setattr(self.model.get_submodule(parent), name, blocks)


def block_prefix(sites: Sequence[Site]) -> str:
    """The name of the list of blocks, such as `model.layers`."""
    site = next(site for site in sites if site.depth is not None)
    return site.name.partition(f".{site.depth}.")[0]
