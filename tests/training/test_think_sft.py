"""Think-form fine-tuning with TRL: mask, template, number formats, packing, logits, best model, going on."""

import itertools
import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from lmlab.data import labels, problem_sets
from lmlab.data.preflight import preflight
from lmlab.data.reasoning import question_of, to_reasoning_format
from lmlab.data.sources import load_rows
from lmlab.evaluation import reasoning
from lmlab.evaluation.attention import attention_weights
from lmlab.models import chat_template, generation, parameters, quantization
from lmlab.models.sources import load_model, load_tokenizer
from lmlab.recipes import load_recipe
from lmlab.training.callbacks import CompleteCheckpoints
from lmlab.training.checkpoints import find_resumable_checkpoint
from lmlab.training.trainers import TokenWeightedSFTTrainer

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("miniworld/qwen2")


@pytest.fixture(scope="module")
def rows():
    return [to_reasoning_format(row) for row in load_rows("miniworld/problems", "train", limit=24)]


def arguments(folder, machine, **choices):
    return SFTConfig(
        output_dir=str(folder),
        bf16=machine.bf16,
        fp16=machine.fp16,
        use_cpu=machine.use_cpu,
        **{
            "max_length": 200,
            "per_device_train_batch_size": 8,
            "learning_rate": 4e-3,
            "activation_checkpointing": False,
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 1,
        }
        | choices,
    )


@pytest.fixture(scope="module")
def trainer(machine, tokenizer, rows, tmp_path_factory):
    torch.manual_seed(0)
    data = Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows])
    args = arguments(tmp_path_factory.mktemp("sft"), machine, max_steps=8, assistant_only_loss=True)
    model = quantization.load_four_bit("miniworld/qwen2", machine)
    return SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=LORA)


def test_template_is_r1s_to_the_letter(tokenizer):
    """TRL knows the template by its text; one letter more and it would train with another."""
    published = (files("trl") / "chat_templates" / "deepseek_r1_distill.jinja").read_text(encoding="utf-8")
    assert tokenizer.chat_template == published


def test_stock_template_drops_the_thoughts(tokenizer, rows):
    text = tokenizer.apply_chat_template(rows[0]["prompt"] + rows[0]["completion"], tokenize=False)
    assert "think>" not in text and "The answer is" in text


def test_trl_masks_all_but_what_the_model_must_write(trainer, tokenizer, rows):
    """Brute force on text: labelled tokens spell reasoning, answer and EOS; all others the prompt."""
    assert len(trainer.train_dataset) == len(rows)
    for row, ready in zip(rows, trainer.train_dataset, strict=True):
        spoken = [i for i, label in enumerate(ready["labels"]) if label != -100]
        assert spoken == list(range(spoken[0], len(ready["input_ids"])))  # one piece, up to the end
        assert [ready["labels"][i] for i in spoken] == ready["input_ids"][spoken[0] :]
        content = row["completion"][0]["content"]
        assert (
            tokenizer.decode(ready["input_ids"][spoken[0] :])
            == content.split("<think>\n")[1] + tokenizer.eos_token
        )
        prompt = tokenizer.decode(ready["input_ids"][: spoken[0]])
        assert prompt == chat_template.prompt_text(tokenizer, row["prompt"]) and prompt.endswith("<think>\n")
        assert ready["input_ids"].count(tokenizer.bos_token_id) == 1


def test_mask_is_the_one_by_hand(trainer, tokenizer, rows):
    for row, ready in zip(rows, trainer.train_dataset, strict=True):
        assert (ready["input_ids"], ready["labels"]) == chat_template.reference_labels(tokenizer, row)


@pytest.mark.parametrize("packing", [False, True])
def test_trl_trains_on_our_examples_as_they_are(machine, tokenizer, rows, tmp_path, packing):
    """Tokens and labels are not made anew; packed they stand end to end."""
    ours = labels.tokenize_conversations(rows, tokenizer)
    args = arguments(tmp_path, machine, max_steps=1, packing=packing)
    ready = SFTTrainer(
        load_model("miniworld/qwen2"), args=args, train_dataset=ours, processing_class=tokenizer
    ).train_dataset
    if not packing:
        assert ready["input_ids"][:] == ours["input_ids"][:] and ready["labels"][:] == ours["labels"][:]
    assert len(ready) < len(ours) or not packing
    assert sorted(itertools.chain(*ready["labels"])) == sorted(itertools.chain(*ours["labels"]))
    collator = DataCollatorForLanguageModeling(tokenizer.pad_token_id, padding_free=packing)
    preflight(ready, tokenizer, collator, n_conversations=len(rows), max_length=200).require()


def test_padding_of_a_batch_bears_no_loss(trainer):
    batch = trainer.data_collator([dict(trainer.train_dataset[i]) for i in range(8)])
    for i, row in enumerate(batch["labels"]):
        assert int((row != -100).sum()) == sum(label != -100 for label in trainer.train_dataset[i]["labels"])


@pytest.mark.slow
def test_messages_with_completion_only_loss_mask_nothing(machine, tokenizer, rows, tmp_path):
    """Accepted without a word by TRL, and wrong: the reason for prompt and completion."""
    data = Dataset.from_list([{"messages": row["prompt"] + row["completion"]} for row in rows[:4]])
    args = arguments(tmp_path, machine, max_steps=1, completion_only_loss=True)
    trainer = SFTTrainer(
        quantization.load_four_bit("miniworld/qwen2", machine),
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=LORA,
    )
    for ready in trainer.train_dataset:
        assert "labels" not in ready or -100 not in ready["labels"]


def test_sft_config_asks_for_bfloat16_where_it_is_not_told(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("on a GPU it may have it")
    with pytest.raises(ValueError, match="bf16"):
        SFTConfig(output_dir=str(tmp_path))


@pytest.mark.slow
def test_trl_casts_to_bfloat16_and_we_cast_back_then_train(trainer):
    """One test, since training changes the trainer: casts, then eight steps that move the adapter alone."""
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trainable} == {torch.bfloat16}
    assert parameters.trainable_to_float32(trainer.model) == len(trainable)
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert parameters.trainable_to_float32(trainer.model) == 0

    assert all("lora_" in name for name in parameters.trainable_names(trainer.model))
    digest = parameters.frozen_parameters_hash(trainer.model)
    trainer.train()
    assert parameters.frozen_parameters_hash(trainer.model) == digest
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert float(losses[-1]) < 0.8 * float(losses[0])


def test_small_steps_are_lost_in_bfloat16():
    weight = torch.tensor(1.0, dtype=torch.bfloat16)
    assert (weight + 1e-3) == weight and torch.tensor(1.0) + 1e-3 > 1


# --- problems for the lesson -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cfg():
    sizes = {"n_train": 40, "n_validation": 10, "n_eval": 20, "n_harder": 8, "trained_steps": 2}
    sources = ["miniworld/problems", "miniworld/harder-problems"]
    return load_recipe("06_deepseek_qlora_think", "tiny", data=sources, **sizes)


def test_sets_share_no_problem_and_the_harder_ones_are_harder(cfg, tokenizer):
    sets = problem_sets.reasoning_sets(cfg, tokenizer)
    assert {name: len(rows) for name, rows in sets.items() if name != "train"} == {
        "validation": 10,
        "test": 20,
        "harder": 8,
    }
    assert 40 < len(sets["train"]) <= 80  # some could be augmented
    questions = {name: {question_of(row) for row in rows} for name, rows in sets.items()}
    assert (
        sum(map(len, questions.values())) == len(set().union(*questions.values())) >= len(sets["train"]) + 38
    )
    assert {row["steps"] for row in sets["harder"]} == {3}
    assert all(row["steps"] <= 2 for name in ("train", "validation", "test") for row in sets[name])


def test_an_augmented_problem_that_is_a_test_problem_is_left_out(cfg, tokenizer, monkeypatch):
    plain = problem_sets.reasoning_sets(cfg, tokenizer)
    monkeypatch.setattr(
        problem_sets.augmentation, "augment_problems", lambda *_: plain["test"] + plain["harder"]
    )
    assert len(problem_sets.reasoning_sets(cfg, tokenizer)["train"]) == 40


def test_long_conversations_are_left_out_and_none_left_is_an_error(cfg, tokenizer):
    short = problem_sets.reasoning_sets(cfg.model_copy(update={"max_length": 64}), tokenizer)
    assert all(
        len(chat_template.reference_labels(tokenizer, row)[0]) <= 64
        for row in short["train"] + short["validation"]
    )
    with pytest.raises(ValueError, match="train, validation got no problem"):
        problem_sets.reasoning_sets(cfg.model_copy(update={"max_length": 8}), tokenizer)


def sets_of_a_file(cfg, tokenizer, path, rows, n_eval, n_validation):
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    sizes = {"n_train": None, "n_eval": n_eval, "n_validation": n_validation}
    changes = {"data": [str(path)], "trained_steps": None, "augmented_copies": 0}
    return problem_sets.reasoning_sets(cfg.model_copy(update=sizes | changes), tokenizer)


def sums(n: int) -> list[dict]:
    return [
        {"question": f"What is {i} + 3?", "answer": f"{i} + 3 = <<{i}+3={i + 3}>>{i + 3}\n#### {i + 3}"}
        for i in range(10, 10 + n)
    ]


def test_a_file_is_divided_by_problem(cfg, tokenizer, tmp_path):
    rows = sums(50)
    sets = sets_of_a_file(cfg, tokenizer, tmp_path / "rows.jsonl", rows + rows, n_eval=4, n_validation=4)
    held_out = {question_of(row) for row in sets["test"] + sets["validation"]}
    assert len(sets["train"]) == 90 and not held_out & {question_of(row) for row in sets["train"]}


def test_of_few_problems_half_of_those_held_out_are_left_to_test(cfg, tokenizer, tmp_path):
    sets = sets_of_a_file(cfg, tokenizer, tmp_path / "rows.jsonl", sums(100), n_eval=40, n_validation=80)
    assert len(sets["validation"]) == len(sets["test"]) == 5, "of ten"


# --- training ----------------------------------------------------------------------------------------


def trained(machine, tokenizer, rows, folder, resume=None, stop_at=None, **choices):
    """A finished run of 6 steps on a fresh 4-bit base, with its adapter in float32."""

    def pairs(some):
        return Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in some])

    torch.manual_seed(0)
    choices = {"max_steps": 6, "per_device_train_batch_size": 4, "assistant_only_loss": True} | choices
    model = quantization.load_four_bit("miniworld/qwen2", machine)
    trainer = TokenWeightedSFTTrainer(
        model,
        args=arguments(folder, machine, **choices),
        train_dataset=pairs(rows[:8]),
        eval_dataset=pairs(rows[8:12]),
        processing_class=tokenizer,
        peft_config=LORA,
        callbacks=[CompleteCheckpoints()],
    )
    parameters.trainable_to_float32(trainer.model)
    if stop_at:
        trainer.add_callback(StopAt(stop_at))
    trainer.train(resume_from_checkpoint=resume)
    return trainer


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **_):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def adapter(trainer):
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def losses(trainer, key="loss"):
    return [float(row[key]) for row in trainer.state.log_history if key in row]


def arguments_with_evals(every=2, **choices):
    return {
        "eval_strategy": "steps",
        "eval_steps": every,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 3,
    } | choices


@pytest.mark.slow
def test_evaluating_in_mid_training_changes_nothing(machine, tokenizer, rows, tmp_path):
    """On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights in a forward pass without gradients."""
    with_evals = trained(machine, tokenizer, rows, tmp_path / "a", eval_strategy="steps", eval_steps=1)
    without = trained(machine, tokenizer, rows, tmp_path / "b")
    assert len(losses(with_evals, "eval_loss")) == 6
    assert losses(with_evals) == losses(without)
    assert all(
        torch.equal(a, b)
        for a, b in zip(adapter(with_evals).values(), adapter(without).values(), strict=True)
    )


@pytest.mark.slow
def test_the_best_model_is_loaded_and_few_checkpoints_stay(machine, tokenizer, rows, tmp_path):
    """A rate so high that the loss rises again: the best model is not the last."""
    trainer = trained(
        machine,
        tokenizer,
        rows,
        tmp_path,
        learning_rate=0.2,
        lr_scheduler_type="constant",
        **arguments_with_evals(1, load_best_model_at_end=True, metric_for_best_model="eval_loss"),
    )
    found = losses(trainer, "eval_loss")
    best = found.index(min(found)) + 1
    assert best < 6
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(found), rel=1e-4)
    kept = {int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*")}
    assert len(kept) == 3 and best in kept
    assert not list(tmp_path.rglob("model*.safetensors"))  # the base is not among them
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 10e6


@pytest.mark.slow
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(machine, tokenizer, rows, tmp_path):
    whole = trained(machine, tokenizer, rows, tmp_path / "whole", **arguments_with_evals())
    choices = {"rate": 4e-3}
    assert find_resumable_checkpoint(tmp_path / "cut", choices, Dataset.from_list(rows)) is None
    with pytest.raises(KeyboardInterrupt):
        trained(machine, tokenizer, rows, tmp_path / "cut", stop_at=2, **arguments_with_evals())
    (tmp_path / "cut" / "checkpoint-4").mkdir()  # a checkpoint that was being written
    left = find_resumable_checkpoint(tmp_path / "cut", choices, Dataset.from_list(rows))
    assert left.endswith("checkpoint-2")
    again = trained(machine, tokenizer, rows, tmp_path / "cut", resume=left, **arguments_with_evals())
    assert again.state.global_step == 6
    assert losses(again) == losses(whole) and losses(again, "eval_loss") == losses(whole, "eval_loss")
    for a, b in zip(adapter(again).values(), adapter(whole).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_curriculum_order_is_the_order_of_training(machine, tokenizer, rows, tmp_path):
    trainer = trained(machine, tokenizer, rows, tmp_path, max_steps=1, train_sampling_strategy="sequential")
    batch = next(iter(trainer.get_train_dataloader()))["input_ids"]
    assert [row.tolist()[:20] for row in batch] == [
        chat_template.reference_labels(tokenizer, row)[0][:20] for row in rows[:4]
    ]


# --- packing -----------------------------------------------------------------------------------------


def packed_batch(machine, tokenizer, rows, folder, strategy):
    """One batch as the trainer would have it, and each conversation's ids."""
    data = Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows[:6]])
    args = arguments(
        folder, machine, max_steps=1, assistant_only_loss=True, packing=True, packing_strategy=strategy
    )
    trainer = SFTTrainer(
        quantization.load_four_bit("miniworld/qwen2", machine),
        args=args,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=LORA,
    )
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))])
    return trainer.model.eval(), batch


@pytest.mark.slow
def test_packed_conversations_do_not_see_each_other(machine, tokenizer, rows, tmp_path):
    model, batch = packed_batch(machine, tokenizer, rows, tmp_path, "bfd")
    assert "attention_mask" not in batch and batch["input_ids"].shape[0] == 1
    ids, positions = batch["input_ids"], batch["position_ids"]
    starts = [*(positions[0] == 0).nonzero().flatten().tolist(), ids.shape[1]]
    conversations = [ids[0, a:b].tolist() for a, b in itertools.pairwise(starts)]
    assert sorted(conversations) == sorted(
        chat_template.reference_labels(tokenizer, row)[0] for row in rows[:6]
    )
    with torch.no_grad():
        alone = torch.cat([model(torch.tensor([row]), use_cache=False).logits[0] for row in conversations])
        packed = model(ids, position_ids=positions, use_cache=False).logits[0]
        leaking = model(ids, use_cache=False).logits[0]
    assert torch.allclose(packed, alone, atol=1e-3)
    assert (leaking - alone).abs().max() > 1  # the test would see a leak
    labels = {
        tuple(label for label in chat_template.reference_labels(tokenizer, row)[1] if label != -100)
        for row in rows[:6]
    }
    assert {
        tuple(x for x in batch["labels"][0, a:b].tolist() if x != -100) for a, b in itertools.pairwise(starts)
    } == labels


# --- logits ------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numel, self.shape = 0, ()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.numel() > self.numel:
                self.numel, self.shape = tensor.numel(), tuple(tensor.shape)
        return out


@pytest.mark.slow
def test_logits_are_never_whole(tokenizer, rows, machine, tmp_path):
    """R1's 151,936 entries on a model of width 16: forward and backward hold a tile of the logits at most."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    n_vocab = 151_936
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=n_vocab,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )
    model.model.embed_tokens.weight.requires_grad_(False)
    data = Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows[:2]])
    args = arguments(tmp_path, machine, max_steps=1, assistant_only_loss=True)
    trainer = SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    n_tokens = batch["input_ids"].numel()
    with Largest() as piecewise:
        trainer.compute_loss(trainer.model, dict(batch)).backward()
    with Largest() as whole:
        trainer.model(**batch).loss.backward()
    assert whole.numel >= (n_tokens - 2) * n_vocab  # the test would see them
    assert piecewise.numel <= n_tokens * 32_768 < n_tokens * n_vocab / 4, piecewise.shape


def test_adapter_of_r1_distill_and_its_checkpoints_by_the_numbers():
    """From the architecture alone: 18.5 million parameters; checkpoints of QLoRA's optimizer under 500 MB."""
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    cfg = load_recipe("06_deepseek_qlora_think", "t4")
    assert (cfg.batch_size, cfg.grad_accumulation, cfg.learning_rate) == (2, 8, 2e-4)
    assert (cfg.epochs, cfg.max_length) == (3, 2048)
    with torch.device("meta"):
        model = Qwen2ForCausalLM(
            Qwen2Config(
                hidden_size=1536,
                intermediate_size=8960,
                num_hidden_layers=28,
                num_attention_heads=12,
                num_key_value_heads=2,
                vocab_size=151_936,
                tie_word_embeddings=False,
            )
        )
        model = get_peft_model(
            model, LoraConfig(r=cfg.lora_r, target_modules=cfg.target_modules, task_type="CAUSAL_LM")
        )
    n_trainable, n_all = model.get_nb_trainable_parameters()
    assert n_trainable == 28 * 16 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960)) == 18_464_768
    assert n_all - n_trainable == 1_777_088_000
    adapter_and_moments = n_trainable * (4 + 2)
    tokenizer_and_state = 12e6
    assert 4 * (adapter_and_moments + tokenizer_and_state) < 500e6  # three, and the one that is being written


# --- what is written, and looked at ------------------------------------------------------------------


@pytest.fixture(scope="module")
def base():
    return load_model("miniworld/qwen2").eval()


def test_samples_are_the_seeds_and_cold_ones_are_greedy(base, tokenizer, rows):
    prompts = [chat_template.prompt_text(tokenizer, row["prompt"]) for row in rows[:4]]

    def drawn(temperature, seed):
        return generation.generate_sampled(base, tokenizer, prompts, 12, 3, temperature, seed=seed)

    greedy = generation.generate_greedy(base, tokenizer, prompts, 12)
    assert drawn(1e-4, 0) == [[text] * 3 for text in greedy]
    state = torch.get_rng_state()
    warm = drawn(2.0, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert drawn(2.0, 0) == warm != drawn(2.0, 1)
    assert any(len(set(texts)) > 1 for texts in warm)


def test_problems_are_tried_and_scored(base, tokenizer, cfg, monkeypatch):
    rows = problem_sets.reasoning_sets(cfg, tokenizer)["test"][:3]
    monkeypatch.setattr(
        reasoning,
        "generate_greedy",
        lambda *_: [
            f"1 + 1 = 2.\n</think>\n\nThe answer is {rows[0]['answer']}.",
            f"The answer is {rows[1]['answer']}.",
            "So 99.",
        ],
    )
    tried = reasoning.generate_answers(base, tokenizer, rows, 64)
    assert tried.format_valid == [True, False, False] and tried.correct == [True, True, False]
    assert tried.lengths[0] > tried.lengths[1] > tried.lengths[2] > 0


def test_no_problems_are_no_answers(base, tokenizer):
    """Of data without harder problems: the set is empty, and the lesson goes on."""
    assert reasoning.generate_answers(base, tokenizer, [], 8) == reasoning.Predictions([], [], [], [])


def test_attention_is_what_the_eager_model_computes(base, tokenizer, rows):
    """Weights sum to one and look back only, equal those by hand in layer 0; the model is left as it was."""
    ids, _ = chat_template.reference_labels(tokenizer, rows[0])
    with torch.no_grad():
        logits = base(torch.tensor([ids])).logits
    weights = attention_weights(base, ids)
    T = len(ids)
    assert weights.shape == (4, 4, T, T)
    assert np.allclose(weights.sum(-1), 1, atol=1e-5) and np.allclose(np.triu(weights, 1), 0)
    assert np.allclose(weights[0], first_layer(base, ids), atol=1e-5)
    assert base.config._attn_implementation == "sdpa"
    with torch.no_grad():
        assert torch.equal(base(torch.tensor([ids])).logits, logits)


def first_layer(model, ids):
    """softmax(QK') of layer 0, with rotary positions: Su et al. 2021, Vaswani et al. 2017."""
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    layer, T = model.model.layers[0], len(ids)
    with torch.no_grad():
        x = layer.input_layernorm(model.model.embed_tokens(torch.tensor([ids])))
        q, k = (
            f(x).view(1, T, -1, 48).transpose(1, 2) for f in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, *model.model.rotary_emb(x, torch.arange(T)[None]))
        scores = q @ k.repeat_interleave(2, dim=1).transpose(2, 3) / 48**0.5
        return scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf).softmax(-1)[0].numpy()
