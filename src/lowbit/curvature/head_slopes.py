"""The loss of a language model, differentiated by slices of its head's vocabulary.

Logits of every token are the largest thing in a language model. Two rounds over the head avoid
holding them: the first has some tokens and the whole vocabulary, for the normaliser and to draw
labels; the second has all tokens of a sequence and a slice of the vocabulary, for the gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lowbit.curvature.measured_model import MeasuredModel
from lowbit.curvature.model_outputs import Head
from lowbit.curvature.passes import segments_of
from lowbit.curvature.site_curvature import Factors, outer

LARGE = 4096
"""With more outputs than this, only the diagonal of E[g g'] is stored."""


@dataclass(frozen=True)
class Slopes:
    """A part's output, and the loss's gradient of it with own and with drawn labels."""

    output: Tensor
    own: Tensor
    drawn: Tensor


class HeadSlopes:
    """Gradients of the head's inputs, and the sums of its own gradient, Fisher and factors.

    `states`: the last hidden states of every sequence. `tied`: for each sequence, the rows of which
    the head's own gradient is kept as well (`rows_of`).
    """

    def __init__(
        self,
        model: MeasuredModel,
        source: torch.Generator,
        states: Sequence[Tensor],
        tied: Sequence[Tensor] | None,
    ) -> None:
        head = Head(model, model.change)
        self.drawn = [_draw(head, rows, source) for rows in states]
        del head  # its copy in fp32, before the sums take as much
        self.weight, self.bias, self.tied = model.head.weight.detach(), model.head.bias, tied
        self.factors = Factors(out_diagonal=len(self.weight) > LARGE)
        self.kept: dict[int, Tensor] = {}
        self.sums: tuple[Tensor, Tensor] | None = None
        if model.head_site is not None:
            size = self.weight.shape
            self.sums = states[0].new_zeros(size), states[0].new_zeros(size)

    @torch.no_grad()
    def add(self, number: int, rows: Tensor, target: Tensor) -> Slopes:
        """Add one sequence, with `rows` as in `states`; `target` holds its labels."""
        states = rows.detach()
        normaliser, drawn = self.drawn[number]
        of_own, of_drawn = torch.zeros_like(states), torch.zeros_like(states)
        if self.sums is not None:
            self.factors.rows_in += len(states)
            more, before = outer(states), self.factors.inputs
            self.factors.inputs = more if before is None else before.add_(more)
            if self.tied is not None:
                self.kept[number] = states.new_empty(len(self.tied[number]), states.shape[1])
        for start in range(0, len(self.weight), LARGE):
            weight = self.weight[start : start + LARGE].to(states.dtype)
            bias = None if self.bias is None else self.bias[start : start + LARGE]
            logits = F.linear(states, weight, bias)
            chance = logits.sub_(normaliser[:, None]).exp_()
            own, other = _minus_one(chance, target - start), _minus_one(chance, drawn - start)
            of_own += own @ weight
            of_drawn += other @ weight
            if self.sums is not None:
                self._add_to_sums(number, start, states, own, other)
        return Slopes(rows, of_own, of_drawn)

    def rows_of(self, number: int) -> Tensor | None:
        """A sequence's own gradient of the rows that it looks up, with drawn labels."""
        return self.kept.pop(number, None)

    def _add_to_sums(
        self, number: int, start: int, states: Tensor, own: Tensor, drawn: Tensor
    ) -> None:
        assert self.sums is not None
        part = slice(start, start + own.shape[1])
        self.sums[0][part].addmm_(own.t(), states)
        slope = drawn.t() @ states
        if self.tied is not None:
            rows = self.tied[number]
            here = (rows >= start) & (rows < part.stop)
            self.kept[number][here] = slope[rows[here] - start]
        self.sums[1][part].addcmul_(slope, slope)
        factors = self.factors
        if factors.out_diagonal:
            more, length = drawn.square().sum(0), len(self.weight)
            if factors.outputs is None:
                factors.outputs = more.new_zeros(length)
            factors.outputs[part] += more
        else:
            more = outer(drawn)
            factors.outputs = more if factors.outputs is None else factors.outputs.add_(more)


@torch.no_grad()
def _draw(head: Head, states: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each token's normaliser, and a label drawn from the model."""
    normalisers, labels = [], []
    for part in states.split(head.rows_at_a_time):
        logits = head.logits(part)
        normalisers.append(logits.logsumexp(-1))
        labels.append(torch.multinomial(logits.softmax(-1), 1, generator=source)[:, 0])
    return torch.cat(normalisers), torch.cat(labels)


def _minus_one(chance: Tensor, labels: Tensor) -> Tensor:
    """Probabilities less one at each label that is in this slice."""
    slope = chance.clone()
    here = ((labels >= 0) & (labels < chance.shape[1])).nonzero()[:, 0]
    slope[here, labels[here]] -= 1.0
    return slope


class ClassSlopes:
    """A classifier's loss, differentiated by its logits."""

    def __init__(self, model: MeasuredModel, source: torch.Generator) -> None:
        self.model, self.source = model, source

    def __call__(self, i: int, state: Tensor) -> Slopes:
        batch = self.model.batches[i]
        segments = segments_of(batch)
        hidden = self.model.blocks.after(batch.ids, segments, state)
        logits = self.model.classify(hidden, segments)
        probabilities = logits.detach().softmax(-1)
        drawn = torch.multinomial(probabilities, 1, generator=self.source)[:, 0]
        own, other = (
            probabilities - F.one_hot(labels, logits.shape[-1]) for labels in (batch.target, drawn)
        )
        return Slopes(logits, own, other)
