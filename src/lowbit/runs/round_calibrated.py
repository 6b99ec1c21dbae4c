"""Rounds a model's matrices with calibration text, block after block.

Each block sees its inputs as the rounded blocks before it give them, so later blocks make up for
earlier errors. For one block:
    1. run it on all sequences, and sum x x' over the inputs x of each matrix;
    2. round its matrices with these moments (`quant.calibrated`), and put the decoded ones in;
    3. run it again; its outputs are the next block's inputs.
One block's weights are in memory at a time, and one hidden state per token. The text is from the
training part, so that plans are chosen and scored on other text. Results are cached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowbit.core import array_store
from lowbit.core.cache import cache_dir
from lowbit.core.errors import UserError, run_error_prefix
from lowbit.core.spec import Choice, Site
from lowbit.models.family import is_transposed
from lowbit.models.packed_attention import use
from lowbit.models.weights import blank
from lowbit.quant.calibrated import encode_calibrated
from lowbit.quant.codec import TENSORS, Packed, decode, encode
from lowbit.quant.formats import spell
from lowbit.runs.prepare import Prepared, weights_digest
from lowbit.tasks.base import Batch
from lowbit.tasks.batching import by_length, collate, split_by_tokens
from lowbit.train.losses import hidden_of

TOKENS = 16_384
"""Tokens of training text."""
TOKENS_AT_A_TIME = 2048
VERSION = 1
"""Increase whenever the same weights and text would be rounded differently."""

OnProgress = Callable[[str, int, int], None]
Choices = Mapping[str, Choice]


class _FirstBlockError(Exception):
    """Carries the first block's arguments out of the model."""

    def __init__(self, hidden: Tensor, named: dict[str, Any]) -> None:
        super().__init__()
        self.hidden, self.named = hidden, named


@dataclass
class _Moments:
    """The summed x x' of each matrix's inputs. Matrices with the same input share one sum."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    same_as: dict[str, str] = field(default_factory=dict)
    last: tuple[str, Tensor] | None = None

    def add(self, name: str, inputs: Tensor) -> None:
        if self.last is not None and self.last[1] is inputs:
            self.same_as[name] = self.last[0]
            return
        self.last = (name, inputs)
        rows = inputs.reshape(-1, inputs.shape[-1]).float()
        if name not in self.sums:
            self.sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
        self.sums[name].addmm_(rows.t(), rows)

    def of(self, name: str) -> Tensor:
        return self.sums[self.same_as.get(name, name)]


def calibrated_matrices(
    prepared: Prepared, sites: Sequence[Site], choices: Choices, on_progress: OnProgress
) -> dict[str, Packed]:
    """The matrices whose choice is calibrated rounding, by site; from the cache if they are there.

    Only sites inside blocks can be calibrated: an embedding has no inputs to calibrate on.
    """
    wanted = [s for s in sites if choices[s.name].rounding == "calibrated" and s.depth is not None]
    if not wanted:
        return {}
    batches = calibration_batches(prepared)
    keys = _keys(prepared, sites, choices, batches)
    cached = {site.name: _cached(keys[site.name], site, choices[site.name]) for site in wanted}
    if all(matrix is not None for matrix in cached.values()):
        return {name: matrix for name, matrix in cached.items() if matrix is not None}
    matrices = dict(_Rounding(prepared, sites, choices, batches).run(on_progress))
    for name, matrix in matrices.items():
        arrays = {key: tensor.numpy() for key, tensor in matrix.tensors().items()}
        array_store.save(_path(keys[name]), keys[name], arrays)
    return matrices


def calibration_batches(prepared: Prepared, tokens: int = TOKENS) -> list[Batch]:
    """Training text, spread evenly, in batches of packed sequences."""
    part = prepared.data.parts["train"]
    total = sum(len(example.ids) for example in part)
    if not total:
        raise UserError(f"{prepared.task.name} has no training text to calibrate rounding on")
    count = max(1, min(len(part), round(len(part) * tokens / total)))
    chosen = [int(i * len(part) / count) for i in range(count)]
    order = by_length(part, chosen)
    return [collate(part, index) for index in split_by_tokens(part, TOKENS_AT_A_TIME, order)]


class _Rounding:
    """One pass over the blocks of a model."""

    def __init__(
        self, prepared: Prepared, sites: Sequence[Site], choices: Choices, batches: Sequence[Batch]
    ) -> None:
        self.sites, self.choices = sites, choices
        self.model, self.weights = blank(
            prepared.checkpoint, prepared.kind, prepared.labels, prepared.pad, torch.device("cpu")
        )
        self.prefix = _block_prefix(sites)
        self.blocks: Any = self.model.get_submodule(self.prefix)
        self._fill_outside_blocks()
        self.states, self.arguments = self._first_inputs(batches)

    def _fill_outside_blocks(self) -> None:
        """Read everything but the blocks, and round it as the plan does."""
        blocks = list(self.blocks)
        parent, _, name = self.prefix.rpartition(".")
        setattr(self.model.get_submodule(parent), name, nn.ModuleList())
        self.weights.fill(self.model, "")
        self.model.float()
        setattr(self.model.get_submodule(parent), name, nn.ModuleList(blocks))
        self.blocks = self.model.get_submodule(self.prefix)
        for site in self.sites:
            if site.depth is None and not site.fresh:
                module = self.model.get_submodule(site.name)
                _put_weight(module, decode(encode(_weight(module), self.choices[site.name].quant)))

    @torch.no_grad()
    def _first_inputs(self, batches: Sequence[Batch]) -> tuple[list[Tensor], list[dict[str, Any]]]:
        """The first block's input and its other arguments, for every batch."""
        use(self.model)

        def stop(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            hidden = positional[0] if positional else named.pop("hidden_states")
            raise _FirstBlockError(hidden, dict(named))

        handle = self.blocks[0].register_forward_pre_hook(stop, with_kwargs=True)
        states, arguments = [], []
        try:
            for batch in batches:
                try:
                    hidden_of(self.model, batch)
                except _FirstBlockError as reached:
                    states.append(reached.hidden)
                    arguments.append(reached.named)
        finally:
            handle.remove()
        return states, arguments

    @torch.no_grad()
    def run(self, on_progress: OnProgress) -> Iterator[tuple[str, Packed]]:
        """Round block after block."""
        count = len(self.blocks)
        on_progress("rounding", 0, count)
        for depth in range(count):
            name = f"{self.prefix}.{depth}"
            block = self.blocks[depth]
            self.weights.fill(block, name)
            block.float()
            inside = [site for site in self.sites if site.depth == depth]
            moments = self._moments(block, inside)
            for site in inside:
                packed = self._round(site, moments)
                if packed is not None:
                    _put_weight(self.model.get_submodule(site.name), decode(packed))
                    if self.choices[site.name].rounding == "calibrated":
                        yield site.name, packed
            if depth + 1 < count:
                self.states = [
                    self._call(block, state, named)
                    for state, named in zip(self.states, self.arguments, strict=True)
                ]
            self.blocks[depth] = nn.Identity()  # frees the block's weights
            on_progress("rounding", depth + 1, count)

    def _moments(self, block: nn.Module, inside: Sequence[Site]) -> _Moments:
        """The moments of the inputs of this block's calibrated matrices."""
        moments = _Moments()
        names = [s.name for s in inside if self.choices[s.name].rounding == "calibrated"]
        if names:
            with _recording(self.model, names, moments):
                for state, named in zip(self.states, self.arguments, strict=True):
                    self._call(block, state, named)
        return moments

    def _round(self, site: Site, moments: _Moments) -> Packed | None:
        """A matrix as the plan stores it; None if it is trained."""
        choice = self.choices[site.name]
        if choice.base == "trained":
            return None
        weight = _weight(self.model.get_submodule(site.name))
        with run_error_prefix(site.name):
            if choice.rounding == "nearest":
                return encode(weight, choice.quant)
            tokens = sum(state.shape[-2] for state in self.states)
            return encode_calibrated(weight, choice.quant, moments.of(site.name) / tokens)

    @staticmethod
    def _call(block: nn.Module, state: Tensor, named: dict[str, Any]) -> Tensor:
        output = block(state, **named)
        hidden: Tensor = output[0] if isinstance(output, tuple) else output
        return hidden


@contextmanager
def _recording(model: nn.Module, names: Sequence[str], moments: _Moments) -> Iterator[None]:
    """Add every input of these modules to `moments`."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: moments.add(name, inputs[0])

    handles = [model.get_submodule(n).register_forward_pre_hook(hook(n)) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _block_prefix(sites: Sequence[Site]) -> str:
    """The name of the list of blocks, such as `model.layers`."""
    site = next(site for site in sites if site.depth is not None)
    return site.name.partition(f".{site.depth}.")[0]


def _weight(module: nn.Module) -> Tensor:
    """(out, in) in fp32."""
    weight: Tensor = module.weight.detach().float()  # type: ignore[union-attr, operator, assignment]
    return weight.t() if is_transposed(module) else weight


def _put_weight(module: nn.Module, weight: Tensor) -> None:
    stored: Tensor = module.weight  # type: ignore[assignment]
    stored.data = (weight.t() if is_transposed(module) else weight).contiguous()


def _keys(
    prepared: Prepared, sites: Sequence[Site], choices: Choices, batches: Sequence[Batch]
) -> dict[str, str]:
    """The cache key of each site: its weights, the text, and how everything before it is stored."""
    text = sha256()
    for batch in batches:
        text.update(batch.ids.numpy().tobytes() + repr(batch.lengths).encode())
    outside = [s for s in sites if s.depth is None]
    inside = sorted((s for s in sites if s.depth is not None), key=lambda s: s.depth or 0)
    start = f"{VERSION}|{weights_digest(prepared.checkpoint)}|{text.hexdigest()}"
    stored = {s.name: f"{s.name}={_stored_as(choices[s.name])}" for s in (*outside, *inside)}
    keys = {}
    for site in inside:
        earlier = [s.name for s in (*outside, *inside) if s.depth is None or s.depth < site.depth]  # type: ignore[operator]
        keys[site.name] = "|".join([start, *(stored[name] for name in earlier), stored[site.name]])
    return keys


def _stored_as(choice: Choice) -> str:
    return f"{spell(choice.quant)} {choice.rounding} {choice.base}"


def _path(key: str) -> Path:
    return cache_dir() / "rounded" / f"{sha256(key.encode()).hexdigest()[:24]}.safetensors"


def _cached(key: str, site: Site, choice: Choice) -> Packed | None:
    arrays = array_store.load(_path(key), key)
    if arrays is None:
        return None
    tensors = {n: torch.from_numpy(np.array(arrays[n])) for n in TENSORS if n in arrays}
    return Packed(choice.quant, site.shape, **tensors)
