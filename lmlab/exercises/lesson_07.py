"""Lesson 07: one addition, roundings, and what a bit costs."""

from lmlab.exercises.judging import compare, compare_value, exercise


@exercise(
    "07.1",
    "Merge into GPT-2",
    "For an ordinary layer it is W + alpha / r · B A, of shape (n_out, n_in).",
    "GPT-2 stores its matrices as (n_in, n_out): transpose what you add.",
    "r is the first size of A.",
)
def merge_transposed(answer):
    import torch

    dice = torch.Generator().manual_seed(0)

    def case(n, r, alpha):  # square, so that a forgotten transpose is not found by the shapes
        return *(torch.randn(shape, generator=dice) for shape in ((n, n), (r, n), (n, r))), alpha

    cases = [case(6, 2, 8.0), case(5, 3, 6.0)]
    compare(
        answer,
        lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).T,
        cases,
        {
            "B A has to be transposed: this matrix is stored as (n_in, n_out).": lambda W, A, B, alpha: (
                W + alpha / len(A) * B @ A
            ),
            "The scale alpha / r is missing.": lambda W, A, B, alpha: W + (B @ A).T,
            "You multiplied by alpha, and did not divide by r.": lambda W, A, B, alpha: W + alpha * (B @ A).T,
            "This is the difference alone; add it to W.": lambda W, A, B, alpha: alpha / len(A) * (B @ A).T,
            "It is added, not subtracted: you took the adapter out.": lambda W, A, B, alpha: (
                W - alpha / len(A) * (B @ A).T
            ),
        },
    )
    return (
        "A square matrix hides the fault from every check of shapes. That is why a merge is proved by "
        "its logits."
    )


@exercise(
    "07.2",
    "The worst rounding",
    "Store and come back: `x.to(dtype).to(x.dtype)`.",
    "Divide the absolute error of each number by the number's own size, and take the largest.",
)
def worst_rounding(answer):
    import torch

    dice = torch.Generator().manual_seed(0)
    x = torch.randn(2000, generator=dice, dtype=torch.float64)
    x = x[x.abs() > 0.01]  # far from where float16 runs out of exponents

    def error(x, dtype):
        return (x.to(dtype).to(x.dtype) - x).abs()

    dtypes = (torch.float16, torch.bfloat16, torch.float32)
    cases = [(factor * x, dtype) for factor in (1, 7) for dtype in dtypes]
    compare(
        answer,
        lambda x, dtype: (error(x, dtype) / x.abs()).max().item(),
        cases,
        {
            "That is the largest absolute error; asked is the share of the number itself.": lambda x, dtype: (
                error(x, dtype).max().item()
            ),
            "That is the mean; asked is the worst.": lambda x, dtype: (
                (error(x, dtype) / x.abs()).mean().item()
            ),
            "The worst error by the largest number is no number's own share.": lambda x, dtype: (
                error(x, dtype).max() / x.abs().max()
            ).item(),
            "`eps` is the step from 1 to the next number. Rounding to the nearest errs by at most half a step.": lambda x, dtype: (
                torch.finfo(dtype).eps
            ),
        },
        tolerance=1e-3,
    )
    return "Just below 2^-11 for float16, 2^-8 for bfloat16, 2^-24 for float32: the units of section 5."


@exercise(
    "07.3",
    "What a weight takes in GGUF",
    "A block of q8_0: 32 weights of 8 bits, and one scale of 16 bits.",
    "q4_1 has two numbers of 16 bits for each block, a scale and a least value.",
)
def bits_in_gguf(answer):
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    wanted = {}
    for name in ("q8_0", "q4_0", "q4_1"):
        n_weights, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
        wanted[name] = 8 * n_bytes / n_weights
    compare_value(
        answer,
        wanted,
        {
            "These are the weights alone; each block of 32 has a scale (q4_1 a least value too), of 16 bits.": {
                "q8_0": 8.0,
                "q4_0": 4.0,
                "q4_1": 4.0,
            },
            "Scales are of 16 bits here, not of 32.": {"q8_0": 9.0, "q4_0": 5.0, "q4_1": 6.0},
            "q4_1 has a least value beside the scale.": {**wanted, "q4_1": 4.5},
            "These are bytes of a block; asked are bits of a weight.": {
                "q8_0": 34.0,
                "q4_0": 18.0,
                "q4_1": 20.0,
            },
        },
        tolerance=1e-9,
    )
    return "So a model of a billion weights takes about 1.06 GB in q8_0, and 0.56 GB in q4_0."


@exercise(
    "07.4",
    "How far apart?",
    "`trained.log_softmax(-1)` gives log p, its exponential p; the same for q.",
    "Of each row: the sum of p (log p − log q). Then the mean over rows.",
)
def divergence(answer):
    import torch

    def kl(a, b):
        log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    dice = torch.Generator().manual_seed(0)
    cases = [tuple(2 * torch.randn(T, V, generator=dice) for _ in range(2)) for T, V in ((4, 7), (9, 30))]
    compare(
        answer,
        lambda a, b: kl(a, b).mean().item(),
        cases,
        {
            "You have it the wrong way round: p, that of the trained model, weighs.": lambda a, b: (
                kl(b, a).mean().item()
            ),
            "That is the sum over the rows; their mean is asked.": lambda a, b: kl(a, b).sum().item(),
            "You averaged over the vocabulary too; sum over it, and average over the rows.": lambda a, b: (
                kl(a, b).mean().item() / a.shape[-1]
            ),
            "Logits are no log-probabilities: take `log_softmax` of both.": lambda a, b: (
                (a.softmax(-1) * (a - b)).sum(-1).mean().item()
            ),
            "In bits; nats are asked, by the natural logarithm.": lambda a, b: (
                kl(a, b).mean().item() / torch.tensor(2.0).log().item()
            ),
        },
    )
    return "It is zero only if the two say the same, at every place. It is not symmetric: note who weighs."
