"""How much of a format's damage calibrated rounding is expected to leave, without rounding.

Write the moment of a matrix's inputs as H = U' D U, U with a unit diagonal. An error e_j of a
column j costs H_jj e_j^2 by itself. Once the columns that are rounded later make up for it as well
as they can, it costs D_jj e_j^2 (Chee et al. 2023). So the share is sum D_jj e_j^2 over
sum H_jj e_j^2, with errors as large as those of nearest rounding. Each row counts by its output's
gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lowbit.core.errors import RunError
from lowbit.quant.formats import parse
from lowbit.quant.input_metric import (
    LOOKUP_SHARE,
    Moment,
    left_by_later_columns,
    with_every_direction,
)

USUAL = parse("int4@64")
"""The order of columns depends on the group size, and the share hardly on the order."""


@dataclass(frozen=True)
class ColumnCosts:
    """What a squared error of a column costs: by itself, and once later ones make up for it."""

    alone: Tensor
    made_up: Tensor

    @classmethod
    def of(cls, moment: Moment) -> ColumnCosts | None:
        """None if there is no such moment: then nothing is known of the columns."""
        try:
            made_up = left_by_later_columns(moment, USUAL)
        except RunError:
            return None
        return None if made_up is None else cls(moment.diagonal().clone(), made_up)


@dataclass
class SharedColumns:
    """Matrices with the same input have the same moment, and its factor takes the most time."""

    last: tuple[Tensor, ColumnCosts | None] | None = None

    def of(self, inputs: Tensor | None, role: str) -> ColumnCosts | None:
        """None for an embedding that is no head, which has no such inputs."""
        if inputs is None:
            return None
        if self.last is None or self.last[0] is not inputs:
            tied = role == "embedding"
            moment = with_every_direction(inputs, LOOKUP_SHARE) if tied else inputs
            self.last = inputs, ColumnCosts.of(moment)
        return self.last[1]


@dataclass
class ShareSums:
    """The sums of the share, over the rows of an error."""

    columns: ColumnCosts
    alone: float = 0.0
    made_up: float = 0.0

    def add(self, error: Tensor, outputs: Tensor) -> None:
        """`outputs`: how much each of these rows counts."""
        squares = outputs @ error.square()
        self.alone += float(squares @ self.columns.alone)
        self.made_up += float(squares @ self.columns.made_up)

    @property
    def share(self) -> float:
        # A damped moment may cost more than the moment itself.
        return min(1.0, self.made_up / self.alone) if self.alone > 0 else 1.0
