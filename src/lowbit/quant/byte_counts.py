"""Count the bytes of a plan: stored, and while training. No other module counts bytes.

Stored bytes are exact: codes with their padding, scales, offsets, adapters. Bytes of activations,
which depend on the run, are an estimate. No torch is needed, so a planner can count millions of
plans quickly. Tests compare every stored figure with the tensors of the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lowbit.core.spec import Choice, QuantSpec, Site
from lowbit.quant.formats import CASTS, FORMATS, is_cast, parse

SCALE_BYTES = 2
DQ_BLOCK = 256
LOGITS = 2**21
"""The number of logits in memory at a time, unless those of 64 tokens are more."""
SCALE_SPEC = parse(f"int8@{DQ_BLOCK}")
"""How `+dq` stores the scales, after their mean is subtracted."""


@dataclass(frozen=True)
class MatrixBytes:
    """Stored bytes of one matrix, by part."""

    codes: int
    scales: int
    offsets: int

    @property
    def total(self) -> int:
        return self.codes + self.scales + self.offsets


def groups(spec: QuantSpec, shape: tuple[int, int]) -> int:
    """The number of scales of a matrix of this shape."""
    rows, columns = shape
    if spec.group == "tensor":
        return 1
    return rows if spec.group == "row" else rows * -(-columns // int(spec.group))


def matrix_bytes(spec: QuantSpec, shape: tuple[int, int]) -> MatrixBytes:
    """Exact bytes of a matrix stored as `spec`."""
    rows, columns = shape
    if is_cast(spec):
        return MatrixBytes(rows * columns * CASTS[spec.format].bits // 8, 0, 0)
    count = groups(spec, shape)
    # Doubly quantised scales: one byte each, one fp16 scale per block, and their fp32 mean.
    doubled = count + SCALE_BYTES * -(-count // DQ_BLOCK) + 4
    offsets = {"none": 0, "zp": count, "min": SCALE_BYTES * count}[spec.offset]
    return MatrixBytes(
        codes=rows * FORMATS[spec.format].packing.row_bytes(columns),
        scales=doubled if spec.dq else SCALE_BYTES * count,
        offsets=offsets,
    )


@dataclass(frozen=True)
class ModelShape:
    """The sizes that activation memory depends on, from a model's configuration."""

    layers: int
    width: int
    inner: int
    vocabulary: int


@dataclass(frozen=True)
class ByteCount:
    """The byte count of one plan on one model."""

    base: int
    other: int
    adapters: int
    trainable: int
    parameters: int
    largest_decoded: int
    masters: int = 0
    """fp32 master weights, during training, of trained bases that are stored in few bits."""

    @property
    def stored(self) -> int:
        """Bytes needed to use the result: base, norms and biases, adapters."""
        return self.base + self.other + self.adapters

    @property
    def share(self) -> float:
        """Trainable parameters divided by the model's parameters before adaptation."""
        return self.trainable / self.parameters


def adapter_numbers(site: Site, rank: int) -> int:
    """The number of entries of A (rank x in) and B (out x rank) together."""
    return rank * (site.shape[0] + site.shape[1])


def count_bytes(
    sites: Iterable[Site], choices: Mapping[str, Choice], other_numbers: int, other_bytes: int
) -> ByteCount:
    """Count the bytes of a plan. Adapters and trained bases are stored in fp32.

    `other_numbers` and `other_bytes`: parameters outside all sites (`other_parameters`), and their
    bytes.
    """
    base = adapters = trainable = parameters = largest = masters = 0
    for site in sites:
        choice, numbers = choices[site.name], site.shape[0] * site.shape[1]
        parameters += numbers
        largest = max(largest, numbers)
        delta = adapter_numbers(site, choice.rank)
        if choice.ternary:
            own = numbers + (site.shape[0] if choice.folded else site.bias)
            base += base_bytes(site, choice)
            masters += 4 * own
            trainable += own
            parameters += site.bias
        elif choice.base == "trained":
            delta += numbers + site.bias
            parameters += site.bias
        else:
            base += base_bytes(site, choice)
        adapters += 4 * delta
        trainable += delta
    numbers = parameters + other_numbers
    return ByteCount(base, other_bytes, adapters, trainable, numbers, 4 * largest, masters)


def base_bytes(site: Site, choice: Choice) -> int:
    """Stored bytes of a site's base, with the 16-bit bias that was trained with it, if any."""
    bias = (site.shape[0] if choice.folded else site.bias) if choice.ternary else 0
    return matrix_bytes(choice.quant, site.shape).total + 2 * bias


def other_parameters(sites: Iterable[Site], choices: Mapping[str, Choice], parameters: int) -> int:
    """The number of parameters outside all sites: norms, and biases that are not trained."""
    return parameters - sum(
        site.shape[0] * site.shape[1] + (site.bias if choices[site.name].base == "trained" else 0)
        for site in sites
    )


@dataclass(frozen=True)
class TrainingBytes:
    """An estimate of the bytes in memory at the peak of a training step."""

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
    count: ByteCount,
    shape: ModelShape,
    tokens: int,
    item: int,
    checkpointing: bool = False,
    teacher: int = 0,
) -> TrainingBytes:
    """Estimate a training step: gradients, AdamW's two moments, a decoded matrix, activations.

    `item`: bytes of the compute type. `teacher`: bytes of the teacher's outputs. Activations are
    estimated by `activations`.
    """
    return TrainingBytes(
        stored=count.stored + count.masters,
        gradients=4 * count.trainable,
        optimiser=8 * count.trainable,
        decoded=2 * count.largest_decoded,
        activations=activations(shape, tokens, item, checkpointing),
        teacher=teacher,
    )


def activations(shape: ModelShape, tokens: int, item: int, checkpointing: bool = False) -> int:
    """Bytes of the tensors saved for the backward pass, and of a slice of logits.

    A layer keeps about eight widths and four inner widths per token. With checkpointing it keeps
    one width, and one layer at a time is kept in full. Logits are computed in slices, of which
    three copies are in memory.
    """
    layer = tokens * (8 * shape.width + 4 * shape.inner) * item
    checkpointed = tokens * shape.layers * shape.width * item + layer
    hidden = checkpointed if checkpointing else shape.layers * layer
    return hidden + 3 * min(tokens * shape.vocabulary, max(LOGITS, 64 * shape.vocabulary)) * 4
