"""Float32 products stay float32 while a model trains, on whatever CPU runs this."""

import pytest
import torch

from lmlab.hardware import fast_matmul, onednn_is_exact

# rows x inner x columns: an attention head, a layer of the tiny models, of GPT-2, and one that oneDNN pads
SHAPES = [(64, 32, 64), (512, 128, 512), (256, 768, 768), (100, 70, 90)]
BFLOAT16_ROUNDING = 2.0**-8  # half the distance of two neighbors, relative


@pytest.fixture
def highest():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def relative_error(product: torch.Tensor, exact: torch.Tensor) -> float:
    """The largest error, relative to the root mean square of the exact product."""
    return float((product.double() - exact).abs().max() / exact.square().mean().sqrt())


def products(a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
    """A linear layer's output, and the gradients of its input and weight."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    product = torch.nn.functional.linear(a, b)
    product.backward(torch.ones_like(product))
    return [product.detach(), a.grad, b.grad, torch.bmm(a.detach()[None], b.detach().T[None])[0]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("block_size", [64, 1024])
def test_training_multiplies_in_float32_on_this_cpu(shape, block_size, highest):
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(columns, inner, generator=generator)
    exact = products(a.double(), b.double())
    with fast_matmul("cpu", block_size):
        errors = [relative_error(*pair) for pair in zip(products(a, b), exact, strict=True)]
    # float32 rounds each of the sums to 2^-24; even all errors in one direction stay far below
    # bfloat16's rounding
    assert max(errors) < inner * 2.0**-22, errors
    rounded = a.bfloat16().float() @ b.bfloat16().float().T
    assert relative_error(rounded, exact[0]) > BFLOAT16_ROUNDING > 10 * max(errors)  # the test would see it


@pytest.mark.parametrize(
    ("features", "exact"),
    [
        ({"avx2": True}, False),  # PyTorch leaves the products to MKL: nothing to gain
        ({"avx2": True, "avx512_f": True, "avx512_bf16": True}, True),  # AMD Zen 4 and 5
        ({"avx512_f": True, "amx_tile": True, "amx_bf16": True}, False),  # Intel since Sapphire Rapids
        ({"avx512_f": True, "avx10_2": True}, False),
        ({"architecture": "aarch64", "neon": True}, False),
    ],
)
def test_onednn_takes_over_only_where_it_computes_in_float32(features, exact, monkeypatch, highest):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert onednn_is_exact() is exact
    with fast_matmul("cpu", 64):
        assert torch.get_float32_matmul_precision() == ("medium" if exact else "highest")
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_precision_that_the_caller_chose_stays(highest):
    torch.set_float32_matmul_precision("high")
    with fast_matmul("cpu", 64):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "high"
