"""Rewards on right, wrong and ill-formed answers; advantages against TRL's own; pass@k against counting."""

import dataclasses
import itertools
import random
import statistics

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import GRPOConfig, GRPOTrainer

from lmlab.evaluation import rewards
from lmlab.models import parameters, quantization
from lmlab.models.sources import load_tokenizer
from lmlab.recipes import RecipeError, load_recipe

GROUP = 4


def said(*texts: str) -> list[list[dict]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


# --- rewards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, right, form",
    [
        ("7 + 14 = 21.\n</think>\n\nThe answer is 21.", 1, 1),
        ("7 + 14 = 22.\n</think>\n\nThe answer is 22.", 0, 1),
        ("7 + 14 = 21.\n</think>\n\nThe answer is 22.", 0, 1),  # what is thought is not what is answered
        ("</think>\n\nThe answer is 21.", 1, 0),  # no thought
        ("It must be 21.", 1, 0),
        ("7 + 14 = 21. 21 - 1 = 20", 0, 0),  # cut off
        ("</think></think>\n\nThe answer is 21.", 1, 0),
        ("", 0, 0),
    ],
)
def test_right_and_form_are_rewarded_apart(text, right, form):
    columns = {"answer": ["21"], "tolerance": [0.0], "unit": [""]}
    assert rewards.accuracy_reward(said(text), **columns) == [right]
    assert rewards.format_reward(said(text), **columns) == [form]


def test_each_answer_is_compared_with_its_own_row():
    completions = said(*("1\n</think>\n\nThe answer is 9.8." for _ in range(3)))
    columns = {"answer": ["9.81", "9.81", "9.8"], "tolerance": [0.05, 0.0, 0.0], "unit": ["m", "m", ""]}
    assert rewards.accuracy_reward(completions, prompts=[None] * 3, completion_ids=[[1]] * 3, **columns) == [
        1,
        0,
        1,
    ]


@pytest.mark.parametrize(
    "text, holds",
    [
        ("4 x 8 = 32. 38 - 32 = 6.\n</think>\n\nThe answer is 6.", True),
        ("Half of it is $48/2 = $24, so $24 in all.\n</think>\n\nThe answer is 24.", True),
        ("1,000 + 200 = 1,200\n</think>\n\nThe answer is 1200.", True),
        ("3 × 4 = 12\n</think>\n\nThe answer is 12.", True),
        ("3 \\times 4 = 12, and 12 ÷ 2 = 6\n</think>\n\nThe answer is 6.", True),
        ("3 - 5 = -2. -2 + 9 = 7\n</think>\n\nThe answer is 7.", True),
        ("2 * (3 + 4) = 14\n</think>\n\nThe answer is 14.", True),
        ("2 * (3 + 4) = 10\n</think>\n\nThe answer is 10.", False),
        ("4 x 8 = 33. 38 - 33 = 5.\n</think>\n\nThe answer is 5.", False),  # a sum is wrong
        ("4 x 8 = 32.\n</think>\n\nThe answer is 6.", False),  # the answer comes from nowhere
        ("I am sure.\n</think>\n\nThe answer is 6.", False),
    ],
)
def test_a_thought_is_sound_when_its_sums_are_true_and_lead_to_the_answer(text, holds):
    assert rewards.consistency_reward(text) is holds


# --- groups ------------------------------------------------------------------------------------------


def test_a_group_is_silent_as_often_as_its_pass_rate_says():
    rng = random.Random(0)
    for p in (0.05, 0.5, 0.9):
        hits = [[rng.random() < p for _ in range(GROUP)] for _ in range(4000)]
        assert rewards.zero_variance_fraction(hits) == pytest.approx(p**GROUP + (1 - p) ** GROUP, abs=0.03)


def test_pass_at_k_is_the_mean_over_all_choices_of_k():
    hits = [[True, False, False, True, False], [False] * 5, [True] * 5, [False, False, False, False, True]]
    for k in range(1, 6):
        brute = statistics.fmean(
            statistics.fmean(any(some) for some in itertools.combinations(group, k)) for group in hits
        )
        assert rewards.pass_at_k(hits, k) == pytest.approx(brute)


# --- against TRL -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("miniworld/qwen2")


def one_step(machine, tokenizer, folder, reward, **choices):
    """A trainer after one step of two groups; the adapter begins with noise, so that it can move."""
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(quantization.load_four_bit("miniworld/qwen2", machine).dequantize(), lora)
    args = GRPOConfig(
        output_dir=str(folder),
        max_steps=1,
        per_device_train_batch_size=2 * GROUP,
        num_generations=GROUP,
        max_completion_length=4,
        learning_rate=0.1,
        weight_decay=0.0,
        activation_checkpointing=False,
        bf16=machine.bf16,
        fp16=machine.fp16,
        use_cpu=machine.use_cpu,
        save_strategy="no",
        disable_tqdm=True,
        **choices,
    )
    data = Dataset.from_list([{"prompt": [{"role": "user", "content": f"{i} + 1?"}]} for i in range(4)])
    trainer = GRPOTrainer(model, reward, args=args, train_dataset=data, processing_class=tokenizer)
    cast = parameters.trainable_to_float32(trainer.model)
    adapter = [p for p in trainer.model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in adapter]
    trainer.train()
    moved = any(not torch.equal(p, old) for p, old in zip(adapter, before, strict=True))
    return trainer, cast, moved


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["group", "none"])
def test_advantages_are_trls(machine, tokenizer, tmp_path, scale):
    """TRL's are read from what it keeps of its last step; a base that came in 4 bits is still cast by it."""
    given = [0.1, 1.1, 0.0, 1.1, 0.1, 0.1, 0.1, 0.1]
    trainer, cast, moved = one_step(machine, tokenizer, tmp_path, lambda **_: given, scale_rewards=scale)
    theirs = list(trainer._logs["advantages"])
    ours = []
    for group in (given[:GROUP], given[GROUP:]):
        deviation = statistics.stdev(group) + 1e-4 if scale == "group" else 1.0
        ours += [(reward - statistics.fmean(group)) / deviation for reward in group]
    assert theirs == pytest.approx(ours, abs=1e-5)
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == 0.5
    assert moved and cast == 8  # A and B of four layers


@pytest.mark.slow
def test_groups_with_equal_rewards_move_nothing(machine, tokenizer, tmp_path):
    trainer, _, moved = one_step(machine, tokenizer, tmp_path, lambda **_: [1.0] * GROUP + [0.0] * GROUP)
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == 1 and not moved


def test_trls_choices_are_those_that_the_lesson_explains():
    defaults = {field.name: field.default for field in dataclasses.fields(GRPOConfig)}
    explained = {
        "scale_rewards": "group",
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": None,
        "beta": 0.0,
        "num_iterations": 1,
        "multi_objective_aggregation": "sum_then_normalize",
    }
    assert {name: defaults[name] for name in explained} == explained


# --- recipe ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override, message",
    [({"num_generations": 1}, "num_generations"), ({"n_probe": 1000}, "n_probe is 1000, more than n_eval")],
)
def test_recipes_that_cannot_be(override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("09_grpo_reasoning", **override)
