"""The state of one training: parameters, optimiser, position, and the best parameters so far.

`tensors` returns everything that the next step depends on; `load` restores it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lowbit.core.spec import TrainSpec
from lowbit.train.checkpoint import Position
from lowbit.train.hooks import Hooks


class TrainState:
    """Everything that changes while a model is trained."""

    def __init__(
        self,
        model: nn.Module,
        train: TrainSpec,
        hooks: Hooks,
        position: Position,
        device: torch.device,
    ) -> None:
        self.device, self.hooks, self.position = device, hooks, position
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.flags = {n: b for n, b in model.named_buffers() if n.endswith("adapter.alive")}
        self.best: dict[str, Tensor] = {}
        self.optimiser = torch.optim.AdamW(
            self.named.values(),
            lr=train.lr,
            weight_decay=train.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )

    def noise_share(self) -> float:
        """The share of noise in the squared gradients, 1 - (E g)^2 / E g^2, from AdamW's moments.

        The moments average about ten and a thousand steps of clipped gradients; clipping cancels in
        a share. A mean over few steps still contains noise, so it is corrected. After a single step
        the share is 1.
        """
        noise = torch.zeros((), device=self.device)
        total = torch.zeros((), device=self.device)
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                moments = self.optimiser.state.get(parameter)
                if moments:
                    steps, beta = moments["step"].to(self.device), group["betas"][0]
                    first = moments["exp_avg"] / (1 - beta**steps)
                    second = (moments["exp_avg_sq"] / (1 - group["betas"][1] ** steps)).sum()
                    excess = (second - first.square().sum()) / (1 - _squared_weights(beta, steps))
                    noise += torch.where(steps > 1, excess, second)
                    total += second
        return float((noise / total).clamp(0, 1)) if float(total) > 0 else 0.0

    def keep_as_best(self) -> None:
        self.best = {name: tensor.detach().clone() for name, tensor in self._trained().items()}

    def restore_best(self) -> None:
        _copy(self._trained(), self.best)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        groups: dict[str, Mapping[str, Tensor]] = {
            "now": self._trained(),
            "best": self.best,
            "optimiser": self._moments(),
            "hooks": self.hooks.state,
            "random": random_state(self.device),
        }
        return {f"{g}:{name}": t for g, named in groups.items() for name, t in named.items()}

    def load(self, position: Position, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(":")
            groups.setdefault(group, {})[rest] = tensor
        self.position = position
        self.best = {n: t.to(self.device) for n, t in groups.get("best", {}).items()}
        _copy(self._trained(), groups["now"])
        _copy(self.hooks.state, groups.get("hooks", {}))
        self._load_moments(groups.get("optimiser", {}))
        set_random_state(groups["random"], self.device)

    def _trained(self) -> dict[str, Tensor]:
        return {**self.named, **self.flags}

    def _moments(self) -> dict[str, Tensor]:
        names = {id(p): n for n, p in self.named.items()}
        return {
            f"{names[id(p)]}/{key}": value
            for p, state in self.optimiser.state.items()
            for key, value in state.items()
        }

    def _load_moments(self, saved: Mapping[str, Tensor]) -> None:
        for full, tensor in saved.items():
            name, _, key = full.rpartition("/")
            parameter = self.named[name]
            # A fused optimiser counts its steps on the parameter's device.
            self.optimiser.state[parameter][key] = tensor.to(parameter.device)


def _squared_weights(beta: float, steps: Tensor) -> Tensor:
    """The sum of squared weights of an exponential mean after `steps` steps.

    It is the share of one step's noise that the mean still contains.
    """
    decay = beta**steps
    return (1 - beta) / (1 + beta) * (1 + decay) / (1 - decay)


@torch.no_grad()
def _copy(into: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    for name, tensor in source.items():
        into[name].copy_(tensor)


def random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
