"""The byte ledger: the one place that counts.

Exact where bytes are stored (codes with their padding, scales, offsets, adapters), an estimate
where they depend on the run (activations). Torch-free, so that a planner can ask it a million
times and a paper can ask it anywhere. Tests hold every stored figure equal to what the layers
really keep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lowbit.core.spec import Choice, QuantSpec, Site
from lowbit.quant.formats import CASTS, FORMATS, is_cast, parse

SCALE_BYTES = 2
DQ_BLOCK = 256
LOGITS = 2**21
"""Logits alive at a time, as long as 64 tokens have no more."""
SCALE_SPEC = parse(f"int8@{DQ_BLOCK}")
"""How `+dq` stores the scales, their mean removed."""


@dataclass(frozen=True)
class Stored:
    """Bytes of one matrix at rest."""

    codes: int
    scales: int
    offsets: int

    @property
    def total(self) -> int:
        return self.codes + self.scales + self.offsets


def groups(spec: QuantSpec, shape: tuple[int, int]) -> int:
    """How many scales a matrix of this shape has."""
    rows, columns = shape
    if spec.group == "tensor":
        return 1
    return rows if spec.group == "row" else rows * -(-columns // int(spec.group))


def stored(spec: QuantSpec, shape: tuple[int, int]) -> Stored:
    """Exact bytes of a matrix stored as `spec`."""
    rows, columns = shape
    if is_cast(spec):
        return Stored(rows * columns * CASTS[spec.format].bits // 8, 0, 0)
    count = groups(spec, shape)
    # Doubly quantised scales: a byte each, one fp16 scale a block, and their fp32 mean.
    doubled = count + SCALE_BYTES * -(-count // DQ_BLOCK) + 4
    offsets = {"none": 0, "zp": count, "min": SCALE_BYTES * count}[spec.offset]
    return Stored(
        codes=rows * FORMATS[spec.format].packing.row_bytes(columns),
        scales=doubled if spec.dq else SCALE_BYTES * count,
        offsets=offsets,
    )


@dataclass(frozen=True)
class Shape:
    """What a run's activations depend on, read off a model's configuration."""

    layers: int
    width: int
    inner: int
    vocabulary: int


@dataclass(frozen=True)
class Ledger:
    """All bytes of one plan on one model."""

    base: int
    other: int
    adapters: int
    trainable: int
    parameters: int
    largest_decoded: int
    masters: int = 0
    """Of trained bases that are stored in few bits: their 32-bit weights while they train."""

    @property
    def stored(self) -> int:
        """Base, norms and biases, adapters: what has to be kept to use the result."""
        return self.base + self.other + self.adapters

    @property
    def share(self) -> float:
        """Trainable parameters over all parameters of the model before adaptation."""
        return self.trainable / self.parameters


def adapter_numbers(site: Site, rank: int) -> int:
    """Entries of A (rank x in) and B (out x rank)."""
    return rank * (site.shape[0] + site.shape[1])


def ledger(
    sites: Iterable[Site], choices: Mapping[str, Choice], other_numbers: int, other_bytes: int
) -> Ledger:
    """Count a plan. Adapters and trained bases are kept in fp32, as they are trained.

    `other_numbers` and `other_bytes` are of what is no site (`spare`).
    """
    base = adapters = trainable = parameters = largest = masters = 0
    for site in sites:
        choice, numbers = choices[site.name], site.shape[0] * site.shape[1]
        parameters += numbers
        largest = max(largest, numbers)
        delta = adapter_numbers(site, choice.rank)
        if choice.ternary:
            own = numbers + (site.shape[0] if choice.folded else site.bias)
            base, masters, trainable = base + kept(site, choice), masters + 4 * own, trainable + own
            parameters += site.bias
        elif choice.base == "trained":
            delta += numbers + site.bias
            parameters += site.bias
        else:
            base += kept(site, choice)
        adapters += 4 * delta
        trainable += delta
    numbers = parameters + other_numbers
    return Ledger(base, other_bytes, adapters, trainable, numbers, 4 * largest, masters)


def kept(site: Site, choice: Choice) -> int:
    """Bytes of a site's base at rest; a bias that was trained with it lies beside it in 16 bits."""
    bias = (site.shape[0] if choice.folded else site.bias) if choice.ternary else 0
    return stored(choice.quant, site.shape).total + 2 * bias


def spare(sites: Iterable[Site], choices: Mapping[str, Choice], parameters: int) -> int:
    """Of a model's parameters, those that are no part of a site: norms, and biases left alone."""
    return parameters - sum(
        site.shape[0] * site.shape[1] + (site.bias if choices[site.name].base == "trained" else 0)
        for site in sites
    )


@dataclass(frozen=True)
class TrainingBytes:
    """An estimate of what a training step holds at its peak."""

    stored: int
    gradients: int
    optimiser: int
    decoded: int
    activations: int
    teacher: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())


def training_bytes(
    count: Ledger,
    shape: Shape,
    tokens: int,
    item: int,
    checkpointing: bool = False,
    teacher: int = 0,
) -> TrainingBytes:
    """The training view: gradients, AdamW's two moments, one decoded matrix, activations.

    Activations: about eight widths and four inner widths a token and layer are kept for the
    backward pass; with checkpointing one width a layer, and one layer whole. Logits go by in
    slices, three copies of one. `item` is the compute type's bytes.
    """
    return TrainingBytes(
        stored=count.stored + count.masters,
        gradients=4 * count.trainable,
        optimiser=8 * count.trainable,
        decoded=2 * count.largest_decoded,
        activations=activations(shape, tokens, item, checkpointing),
        teacher=teacher,
    )


def activations(shape: Shape, tokens: int, item: int, checkpointing: bool = False) -> int:
    """What a step keeps of its tokens for the backward pass, and a slice of logits."""
    layer = tokens * (8 * shape.width + 4 * shape.inner) * item
    kept = tokens * shape.layers * shape.width * item + layer
    kept = kept if checkpointing else shape.layers * layer
    return kept + 3 * min(tokens * shape.vocabulary, max(LOGITS, 64 * shape.vocabulary)) * 4
