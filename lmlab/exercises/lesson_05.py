"""Lesson 05: four bits, and two thin matrices."""

from lmlab.exercises.judging import compare, compare_value, exercise

# Llama-3.2-1B: name -> (n_in, n_out) of one layer's matrices
_LLAMA = {
    "q": (2048, 2048),
    "k": (2048, 512),
    "v": (2048, 512),
    "o": (2048, 2048),
    "gate": (2048, 8192),
    "up": (2048, 8192),
    "down": (8192, 2048),
}
_LAYERS, _RANK = 16, 16


@exercise(
    "05.1",
    "Count",
    "A matrix (n_out, n_in) gets A with r · n_in numbers and B with n_out · r.",
    "q, o: 2048 to 2048. k, v: 2048 to 512, for eight heads of 64 serve all 32. gate, up: 2048 to "
    "8192; down "
    "back.",
    "Add n_in + n_out of the seven, times r, times the number of layers.",
)
def count(answer):
    def trained(shapes):
        return _LAYERS * _RANK * sum(n_in + n_out for n_in, n_out in shapes)

    attention = [_LLAMA[name] for name in "qkvo"]
    full_heads = [(2048, 2048) if name in "kv" else shape for name, shape in _LLAMA.items()]
    compare_value(
        answer,
        trained(_LLAMA.values()),
        {
            "That is attention alone; all linear layers are asked, the MLP's three too.": trained(attention),
            "k and v are narrower: their eight heads of 64 give 512.": trained(full_heads),
            "That is for one layer, or for rank 1: there are 16 layers, and r is 16.": trained(
                _LLAMA.values()
            )
            // _RANK,
            "That is for one layer at rank 1: there are 16 layers, and r is 16.": trained(_LLAMA.values())
            // (_LAYERS * _RANK),
            "That is the number of weights in the matrices themselves; an adapter has two thin ones beside each.": _LAYERS
            * sum(n_in * n_out for n_in, n_out in _LLAMA.values()),
            "That is A alone; B trains too.": _LAYERS * _RANK * sum(n_in for n_in, _ in _LLAMA.values()),
            "That is B alone; A trains too.": _LAYERS * _RANK * sum(n_out for _, n_out in _LLAMA.values()),
        },
        tolerance=1e-9,
    )
    return "About one percent of the model. The head and the embeddings stay as they are."


def _quantized(blocks, values, absolute=True, rescale=True, down=False):
    import torch

    scales = (blocks.abs() if absolute else blocks).amax(1, keepdim=True)
    scaled = blocks / scales
    if down:
        codes = (torch.bucketize(scaled, values, right=True) - 1).clamp(0, len(values) - 1)
    else:
        codes = (scaled[..., None] - values).abs().argmin(-1)
    return values[codes] * (scales if rescale else 1)


@exercise(
    "05.2",
    "Quantize",
    "The scale of a block is its largest *absolute* weight: then all lie between -1 and 1.",
    "`(scaled[..., None] - values).abs().argmin(-1)` is the number of the nearest value.",
    "What comes back is the value times the scale of its block.",
)
def quantize(answer):
    import torch

    dice = torch.Generator().manual_seed(0)
    nf4_like = torch.tensor(
        [-1.0, -0.7, -0.53, -0.39, -0.28, -0.18, -0.09, 0, 0.08, 0.16, 0.25, 0.34, 0.44, 0.56, 0.72, 1.0]
    )
    cases = [(0.1 * torch.randn(n, 64, generator=dice) - 0.02, nf4_like) for n in (2, 5)]
    cases.append((torch.randn(3, 64, generator=dice), torch.linspace(-1, 1, 5)))
    compare(
        answer,
        _quantized,
        cases,
        {
            "The scale must be of the largest absolute weight: in some blocks that is a negative one.": lambda *case: (
                _quantized(*case, absolute=False)
            ),
            "Multiplied by the scale of its block it would be a weight again.": lambda *case: _quantized(
                *case, rescale=False
            ),
            "You take the value below; the nearest may be the one above. Compare with the middles between "
            "values.": lambda *case: _quantized(*case, down=True),
        },
    )
    return "Give it the 16 values of NF4 and the `blocks` of section 1: it is `by_hand`."


@exercise(
    "05.3",
    "Bits per weight",
    "A block has one scale: what does it cost per weight?",
    "With double quantization a scale takes 8 bits, and `group` of them share 32 more.",
)
def bits_per_weight(answer):
    cases = [(64, 256), (32, 256), (128, 128), (64, 64)]
    compare(
        answer,
        lambda block, group: 4 + 8 / block + 32 / (block * group),
        cases,
        {
            "That is without double quantization: a scale of 32 bits for each block.": lambda block, group: (
                4 + 32 / block
            ),
            "The bytes need a scale of their own, 32 bits for each `group` of them.": lambda block, group: (
                4 + 8 / block
            ),
            "A `group` is so many scales, that is `block` times as many weights.": lambda block, group: (
                4 + 8 / block + 32 / group
            ),
            "You counted bytes for the scales, not bits.": lambda block, group: (
                4 + 1 / block + 4 / (block * group)
            ),
            "These are the scales alone; a weight takes four bits more.": lambda block, group: (
                8 / block + 32 / (block * group)
            ),
        },
        tolerance=1e-6,
    )
    return (
        "Blocks of 32 cost an eighth of a bit more than those of 64. Section 1 shows what they save in error."
    )


def _gradients(x, A, B, scale, g):
    return scale * B.T @ g.T @ x, scale * g.T @ x @ A.T


@exercise(
    "05.4",
    "Gradients by hand",
    "Call h = x Aᵀ, of shape (batch, r): then y = scale · h Bᵀ is one linear layer.",
    "For y = h Wᵀ: the gradient of W is gᵀ h, and that of h is g W.",
    "So: dB = scale · gᵀ h, and dA = (scale · g B)ᵀ x. Return (dA, dB).",
)
def lora_gradients(answer):
    import torch

    def reference(x, A, B, scale, g):
        A, B = A.clone().requires_grad_(), B.clone().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(scale * (x @ A.T) @ B.T, (A, B), g)

    dice = torch.Generator().manual_seed(0)

    def case(batch, n_in, n_out, r, zero):
        shapes = ((batch, n_in), (r, n_in), (n_out, r), (batch, n_out))
        x, A, B, g = (torch.randn(shape, generator=dice) for shape in shapes)
        return x, A, B * (not zero), 2.0, g

    cases = [case(3, 10, 8, 2, False), case(5, 6, 7, 3, True)]
    compare(
        answer,
        reference,
        cases,
        {
            "The scale, alpha / r, is missing.": lambda x, A, B, scale, g: _gradients(x, A, B, 1, g),
            "The scale enters the gradient of A once, not twice.": lambda x, A, B, scale, g: (
                scale * _gradients(x, A, B, scale, g)[0],
                _gradients(x, A, B, scale, g)[1],
            ),
            "These are means over the batch; g already holds what each row adds.": lambda x, A, B, scale, g: (
                tuple(grad / len(x) for grad in _gradients(x, A, B, scale, g))
            ),
        },
    )
    return (
        "With B = 0, dA is zero and dB is not: the first step moves B alone. With A = 0 as well both are "
        "zero, for ever."
    )
