"""Changes of a model's weights, which are added while a block is used and stored nowhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from torch import Tensor

Errors = Mapping[str, Tensor]
"""The error of every site's weights, (out, in), by its name."""
NO_CHANGE: Errors = {}


class Lazy(Mapping[str, Tensor]):
    """A change of many weights, each computed whenever it is looked up, and kept by nobody."""

    def __init__(self, names: Collection[str], compute: Callable[[str], Tensor]) -> None:
        self.names, self.compute = names, compute

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        return self.compute(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names


def scaled(by: float, errors: Errors) -> Errors:
    """Changes times a factor."""
    return Lazy(errors, lambda name: by * errors[name])
