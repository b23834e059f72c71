"""HellaSwag's 10,042 items by GPT-2 small: how long they take, and whether a GPU scores as a CPU does."""

import random
import time

from gpu import shared
from lmlab.course.trainings import published_config

# Deciles of GPT-2's tokens, counted on 2,000 published validation items (all of ActivityNet): of contexts and
# of endings. ActivityNet has 3,243 of the 10,042 items; WikiHow's are longer, assumed three and two times.
CONTEXT = (9, 13, 17, 20, 22, 24, 26, 29, 32, 37, 71)
ENDING = (2, 7, 8, 10, 11, 12, 14, 16, 18, 22, 76)
WIKIHOW, LONGER = 6799 / 10042, (3, 2)
NATS = 2e-3  # between devices, of an ending's log-probability in float32 (about -300)


def hellaswag(sizes: dict) -> dict:
    """Scores all items in float32, as lesson 03 does, and in bfloat16; some of them on the CPU as well."""
    import torch

    from lmlab.evaluation.prefix_tree import score_choices

    cfg, machine = shared.recipe_of(sizes), shared.this_machine()
    config = published_config(cfg.model)
    items = made_items(sizes["items"], config.vocab_size, longest=config.n_positions)
    model = shared.random_model(config, torch.float32, machine.device).eval()
    score_choices(model, items[:20], cfg.batch_tokens)  # what is made once, such as kernels
    shared.forget_peak()
    scores, seconds = timed(score_choices, model, items, cfg.batch_tokens)
    memory = shared.peaks()
    some = slice(0, sizes["compared"])
    on_cpu = score_choices(model.to("cpu"), items[some], cfg.batch_tokens)
    off = largest_difference(scores[some], on_cpu)
    assert off < NATS, f"an ending's score is off by {off:.4f} nats from the CPU's"
    assert best(scores[some]) == best(on_cpu), "another ending wins than on the CPU"
    half = model.to(machine.device, torch.bfloat16)
    rounded, half_seconds = timed(score_choices, half, items[: sizes["in_bfloat16"]], cfg.batch_tokens)
    same = [a == b for a, b in zip(best(scores[: len(rounded)]), best(rounded), strict=True)]
    return {
        "items": len(items),
        "tokens_read": sum(len(item.contexts[0]) + sum(map(len, item.endings)) for item in items),
        "seconds_scoring": seconds,
        "seconds_scoring_bfloat16": half_seconds,
        "losses": [-scores[0][0]],
        "largest_difference_from_cpu": off,
        "same_choice_in_bfloat16": sum(same) / len(same),
        "forecast": {"seconds": sizes["seconds_wanted"]},
        **memory,
    }


def timed(function, *given):
    shared.wait_for_device()
    began = time.perf_counter()
    result = function(*given)
    shared.wait_for_device()
    return result, time.perf_counter() - began


def made_items(n: int, vocab_size: int, longest: int, seed: int = 0) -> list:
    """Contexts, each with four endings, of the published lengths; their tokens uniformly at random.

    longest: the model's context; a tiny one takes shorter texts.
    """
    from lmlab.evaluation.prefix_tree import Choices

    rng, items = random.Random(seed), []
    for _ in range(n):
        times = LONGER if rng.random() < WIKIHOW else (1, 1)
        lengths = [min(longest // 2, times[0] * between(rng, CONTEXT))]
        lengths += [min(longest // 4, times[1] * between(rng, ENDING)) for _ in range(4)]
        context, *endings = ([rng.randrange(vocab_size) for _ in range(length)] for length in lengths)
        items.append(Choices([context] * 4, endings))
    return items


def between(rng: random.Random, deciles) -> int:
    """A length sampled evenly between two neighbors of the deciles."""
    i = rng.randrange(len(deciles) - 1)
    return rng.randint(deciles[i], deciles[i + 1])


def largest_difference(a: list, b: list) -> float:
    return max(abs(x - y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))


def best(scores: list) -> list[int]:
    """The ending that wins each item."""
    return [max(range(4), key=row.__getitem__) for row in scores]
