"""MUTABLE. Train a language model towards three values a weight; the only file that is edited.

    python train.py          in a folder with prepare.py and trial.json

The plainest recipe: straight-through gradients, a linear warm-up of lambda, groups of 128 scaled by
the mean size of their weights, a constant learning rate, no recovery of dead weights, no teacher.
Every dial of the program is a constant below; 0 or "none" switches what it belongs to off.
"""

from __future__ import annotations

import math

import prepare
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- 1. quantisation schedule: lambda rises from 0 to 1 over a share of the budget
WARMUP_SHAPE = 'two-phase'  # linear, cosine, exponential, sigmoid, two-phase, none
WARMUP_SHARE = 0.5
WARMUP_KNEE = 0.8  # what two-phase reaches in its first half
# --- 2. learning rate
LR = 0.0002
LR_SCHEDULE = "constant"  # constant, linear, cosine
LR_WARMUP = 0.0  # share of the budget
# --- 3. quantisation details
GROUP = 128  # 32, 64, 128, 256, or 0: a whole row
SCALE = 'lsq'  # absmean, absmax, lsq, learned
THRESHOLD = 0.5  # of the scale; what is smaller is zero
# --- 4. dead zone
REACTIVATION = 0.0  # where the trained factor of dead weights' sum starts
BIAS = False  # a trained bias beside every matrix
DEAD_GRADIENT = 1.0  # times the gradient of weights that are zero
# --- 5. distillation from the same model in full precision
LOGITS_WEIGHT = 0.0
OFF_WEIGHT = 0.0  # cosine between features
FEATURES_WEIGHT = 0.0  # squared distance of features
TEACHER_TOP = 32
TEACHER_LAYERS = (2, 4)
# --- the rest
BATCH = 8
CLIP = 1.0
WEIGHT_DECAY = 0.0


def strength(progress: float) -> float:
    """Lambda."""
    if WARMUP_SHAPE == "none" or WARMUP_SHARE == 0 or progress >= WARMUP_SHARE:
        return 1.0
    x = progress / WARMUP_SHARE
    if WARMUP_SHAPE == "cosine":
        return 0.5 * (1 - math.cos(math.pi * x))
    if WARMUP_SHAPE == "exponential":
        return (1 - math.exp(-5 * x)) / (1 - math.exp(-5))
    if WARMUP_SHAPE == "sigmoid":
        low, high = 1 / (1 + math.exp(5)), 1 / (1 + math.exp(-5))
        return (1 / (1 + math.exp(-10 * (x - 0.5))) - low) / (high - low)
    if WARMUP_SHAPE == "two-phase":
        knee = WARMUP_KNEE
        return 2 * knee * x if x < 0.5 else knee + (1 - knee) * (2 * x - 1)
    return x


def learning_rate(progress: float) -> float:
    if LR_WARMUP and progress < LR_WARMUP:
        return LR * progress / LR_WARMUP
    left = (1 - progress) / (1 - LR_WARMUP) if LR_WARMUP < 1 else 1.0
    if LR_SCHEDULE == "linear":
        return LR * left
    return LR * 0.5 * (1 + math.cos(math.pi * (1 - left))) if LR_SCHEDULE == "cosine" else LR


def grouped(weight: Tensor) -> Tensor:
    """(rows, groups, size), padded with zeros where the last group is short."""
    size = min(GROUP or weight.shape[1], weight.shape[1])
    return F.pad(weight, (0, -weight.shape[1] % size)).view(len(weight), -1, size)


def ternary(weight: Tensor, learned: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(codes, scales) of every group; scales are rounded as 16 bits will keep them."""
    block = grouped(weight)
    if learned is not None:
        scale = rounded(learned)
        return block.sign() * (block.abs() > THRESHOLD * scale), scale
    if SCALE == "absmax":
        scale = block.abs().amax(-1, keepdim=True)
    else:
        size = block.shape[-1]
        whole, rest = divmod(weight.shape[1], size)
        counts = block.new_tensor([float(size)] * whole + [float(rest)] * bool(rest))
        scale = block.abs().sum(-1, keepdim=True) / counts[None, :, None]
    codes = block.sign() * (block.abs() > THRESHOLD * scale)
    if SCALE == "lsq":
        kept = codes.abs()
        scale = (block.abs() * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp(min=1)
    return codes, rounded(scale)


def rounded(scale: Tensor) -> Tensor:
    return scale.clamp(min=6e-8, max=65504.0).to(torch.float16).float()


class Straight(torch.autograd.Function):
    """(1 - lambda) w + lambda Q(w); the gradient passes straight through to w."""

    @staticmethod
    def forward(ctx, weight: Tensor, learned: Tensor | None, lam: float) -> Tensor:
        codes, scale = ternary(weight, learned)
        ctx.save_for_backward(codes.to(torch.int8))
        ctx.lam = lam
        held = (codes * scale).flatten(1)[:, : weight.shape[1]]
        return held if lam == 1.0 else torch.lerp(weight, held, lam)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (codes,) = ctx.saved_tensors
        own = None
        if ctx.needs_input_grad[1]:
            own = ctx.lam * (grouped(grad) * codes).sum(-1, keepdim=True)
        if DEAD_GRADIENT != 1.0:
            dead = (codes == 0).flatten(1)[:, : grad.shape[1]]
            grad = torch.where(dead, DEAD_GRADIENT * grad, grad)
        return grad, own, None


class BitLinear(nn.Module):
    """A linear layer on its way to three values."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.lam = 0.0
        self.weight = nn.Parameter(plain.weight.detach().clone())
        bias = None if plain.bias is None else plain.bias.detach().clone()
        if bias is None and BIAS:
            bias = self.weight.new_zeros(len(self.weight))
        self.bias = None if bias is None else nn.Parameter(bias)
        revival = self.weight.new_tensor(REACTIVATION)
        self.revival = nn.Parameter(revival) if REACTIVATION else None
        learned = ternary(self.weight.detach())[1] if SCALE == "learned" else None
        self.scale = None if learned is None else nn.Parameter(learned)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, Straight.apply(self.weight, self.scale, self.lam), self.whole_bias())

    def whole_bias(self) -> Tensor | None:
        """Everything that no input reaches, rounded as 16 bits will keep it."""
        found = self.bias
        if self.revival is not None:
            codes = ternary(self.weight.detach(), self.scale)[0]
            dead = (codes == 0).flatten(1)[:, : self.weight.shape[1]]
            revived = self.lam * self.revival * (self.weight * dead).sum(1)
            found = revived if found is None else found + revived
        if found is None:
            return None
        return found + (found.detach().to(torch.float16).float() - found.detach())

    def stored(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes (rows, columns), scales (rows, groups), bias: for good."""
        with torch.no_grad():
            codes, scale = ternary(self.weight, self.scale)
            return codes.flatten(1)[:, : self.weight.shape[1]], scale.squeeze(-1), self.whole_bias()


def made_ternary(model: nn.Module) -> list[BitLinear]:
    """Every matrix of a block replaced."""
    found = prepare.blocks(model)
    prepare.remember(list(found))
    layers = []
    for name, plain in found.items():
        parent, _, last = name.rpartition(".")
        layers.append(BitLinear(plain))
        setattr(model.get_submodule(parent), last, layers[-1])
    return layers


def distillation(student, ids: Tensor, teacher: nn.Module | None) -> Tensor | float:
    """What the teacher adds to the loss; it sees the same tokens and nothing after them."""
    if teacher is None:
        return 0.0
    with torch.no_grad():
        said = teacher(ids, output_hidden_states=True)
    total: Tensor | float = 0.0
    if LOGITS_WEIGHT:
        top, index = said.logits.log_softmax(-1).topk(TEACHER_TOP, -1)
        mine = student.logits.log_softmax(-1).gather(-1, index)
        pairs = [torch.cat([one, rest(one)], -1) for one in (top, mine)]
        both = (pairs[0].exp() * (pairs[0] - pairs[1])).sum(-1).mean()
        total = total + LOGITS_WEIGHT * both
    for layer in TEACHER_LAYERS:
        ours, theirs = student.hidden_states[layer], said.hidden_states[layer]
        if OFF_WEIGHT:
            near = F.cosine_similarity(ours, theirs, dim=-1).mean()
            total = total + OFF_WEIGHT / len(TEACHER_LAYERS) * (1 - near)
        if FEATURES_WEIGHT:
            apart = (ours - theirs).square().mean() / theirs.square().mean()
            total = total + FEATURES_WEIGHT / len(TEACHER_LAYERS) * apart
    return total


def rest(values: Tensor) -> Tensor:
    """log(1 - sum exp): the mass of all outcomes that are not among the largest."""
    return torch.log1p(-values.exp().sum(-1, keepdim=True).clamp(max=1 - 1e-6))


def train() -> None:
    model = prepare.model()
    layers = made_ternary(model)
    wanted = LOGITS_WEIGHT or OFF_WEIGHT or FEATURES_WEIGHT
    teacher = prepare.model().eval().requires_grad_(False) if wanted else None
    optimiser = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    model.train()
    budget = prepare.Budget()
    for batch in prepare.batches(BATCH):
        if budget.over:
            break
        progress = budget.progress
        for layer in layers:
            layer.lam = strength(progress)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress)
        ids, target = batch[:, :-1], batch[:, 1:]
        said = model(ids, output_hidden_states=teacher is not None)
        loss = F.cross_entropy(said.logits.flatten(0, 1), target.flatten())
        (loss + distillation(said, ids, teacher)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP or math.inf)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        budget.step(target.numel())
    for layer in layers:
        layer.lam = 1.0
    prepare.export(model, lambda layer: layer.stored())
    claim = prepare.val_ppl(model)
    prepare.report(budget, claim, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    train()
