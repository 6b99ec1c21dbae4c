"""Norms and gated products: results equal transformers' to the bit, gradients to rounding."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lowbit.models import lean_blocks

DTYPES = (torch.float32, torch.bfloat16)


def _model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data = torch.rand_like(parameter) + 0.5
    return model.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_gives_the_same_logits_to_the_bit_and_the_same_gradient(dtype: torch.dtype) -> None:
    model = _model(dtype)
    lean = copy.deepcopy(model)
    lean_blocks.use(lean)
    embedded = torch.randn(2, 9, 48, dtype=dtype)
    slopes, logits = [], []
    for each in (model, lean):
        x = embedded.clone().requires_grad_()
        logits.append(each(inputs_embeds=x).logits)
        logits[-1].float().square().sum().backward()
        slopes.append(x.grad)
    assert torch.equal(*logits)
    close = 1e-5 if dtype == torch.float32 else 0.03
    assert (slopes[0] - slopes[1]).norm() < close * slopes[0].norm()


def test_gradients_equal_numerical_ones() -> None:
    gate, up, x = (torch.randn(3, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(lean_blocks.GatedProduct.apply, (gate, up))
    wide, weight = x.detach().float().requires_grad_(), torch.rand(8) + 0.5
    out = lean_blocks.RootMeanSquareNorm.apply(wide, weight, 1e-6)
    direction = torch.randn(3, 8)
    (slope,) = torch.autograd.grad(out, wide, direction)
    exact = x.detach().clone().requires_grad_()
    plain = weight.double() * exact / (exact.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    (expected,) = torch.autograd.grad(plain, exact, direction.double())
    torch.testing.assert_close(slope.double(), expected, rtol=1e-4, atol=1e-6)


def _kept(function: object, *inputs: torch.Tensor) -> int:
    """Bytes of distinct tensors that autograd keeps, the inputs left out."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if all(tensor.data_ptr() != x.data_ptr() for x in inputs):
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(*inputs)  # type: ignore[operator]
    return sum(kept.values())


def test_they_keep_nothing_but_their_inputs_and_a_number_a_row() -> None:
    gate, up = (torch.randn(64, 80, requires_grad=True) for _ in range(2))
    assert _kept(lambda a, b: nn.functional.silu(a) * b, gate, up) == 64 * 80 * 4
    assert _kept(lean_blocks.GatedProduct.apply, gate, up) == 0
    x, weight = torch.randn(64, 48).bfloat16().requires_grad_(), torch.ones(48).bfloat16()
    norm = lambda a, w: lean_blocks.RootMeanSquareNorm.apply(a, w, 1e-6)  # noqa: E731
    assert _kept(norm, x, weight) == 64 * 4


def test_a_norm_that_is_trained_keeps_the_gradient_of_its_weight() -> None:
    model = _model(torch.float32)
    lean_blocks.use(model)
    weight = model.get_parameter("model.norm.weight").requires_grad_()
    model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) > 0
