"""Think-form fine-tuning with TRL: the mask against brute force, the template, the number formats."""

from importlib.resources import files

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from lmlab import finetune
from lmlab.data import load_rows, load_tokenizer
from lmlab.reasoning import to_think

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("miniworld/qwen2")


@pytest.fixture(scope="module")
def rows():
    return [to_think(row) for row in load_rows("miniworld/problems", "train", limit=24)]


def arguments(folder, machine, **choices):
    return SFTConfig(output_dir=str(folder), max_length=200, per_device_train_batch_size=8, learning_rate=4e-3,
                     gradient_checkpointing=False, bf16=machine.bf16, fp16=machine.fp16, use_cpu=machine.use_cpu,
                     save_strategy="no", disable_tqdm=True, logging_steps=1, **choices)


@pytest.fixture(scope="module")
def trainer(machine, tokenizer, rows, tmp_path_factory):
    torch.manual_seed(0)
    data = Dataset.from_list([{key: row[key] for key in ("prompt", "completion")} for row in rows])
    args = arguments(tmp_path_factory.mktemp("sft"), machine, max_steps=8, assistant_only_loss=True)
    model = finetune.load_four_bit("miniworld/qwen2", machine)
    return SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=LORA)


def test_template_is_r1s_to_the_letter(tokenizer):
    """TRL knows the template by its text; one letter more and it would train with another."""
    published = (files("trl") / "chat_templates" / "deepseek_r1_distill.jinja").read_text(encoding="utf-8")
    assert tokenizer.chat_template == published


def test_stock_template_drops_the_thoughts(tokenizer, rows):
    text = tokenizer.apply_chat_template(rows[0]["prompt"] + rows[0]["completion"], tokenize=False)
    assert "think>" not in text and "The answer is" in text


def test_trl_masks_all_but_what_the_model_must_write(trainer, tokenizer, rows):
    """Brute force on text: labelled tokens spell thoughts, answer and EOS; the others the prompt, to the last."""
    assert len(trainer.train_dataset) == len(rows)
    for row, ready in zip(rows, trainer.train_dataset, strict=True):
        spoken = [i for i, label in enumerate(ready["labels"]) if label != -100]
        assert spoken == list(range(spoken[0], len(ready["input_ids"])))  # one piece, up to the end
        assert [ready["labels"][i] for i in spoken] == ready["input_ids"][spoken[0]:]
        content = row["completion"][0]["content"]
        assert tokenizer.decode(ready["input_ids"][spoken[0]:]) == content.split("<think>\n")[1] + tokenizer.eos_token
        prompt = tokenizer.decode(ready["input_ids"][:spoken[0]])
        assert prompt == finetune.prompt_text(tokenizer, row["prompt"]) and prompt.endswith("<think>\n")
        assert ready["input_ids"].count(tokenizer.bos_token_id) == 1


def test_mask_is_the_one_by_hand(trainer, tokenizer, rows):
    for row, ready in zip(rows, trainer.train_dataset, strict=True):
        assert (ready["input_ids"], ready["labels"]) == finetune.labels_by_hand(tokenizer, row)


def test_padding_of_a_batch_bears_no_loss(trainer):
    batch = trainer.data_collator([dict(trainer.train_dataset[i]) for i in range(8)])
    for i, labels in enumerate(batch["labels"]):
        assert int((labels != -100).sum()) == sum(label != -100 for label in trainer.train_dataset[i]["labels"])


def test_messages_with_completion_only_loss_mask_nothing(machine, tokenizer, rows, tmp_path):
    """Accepted without a word by TRL, and wrong: the reason for prompt and completion."""
    data = Dataset.from_list([{"messages": row["prompt"] + row["completion"]} for row in rows[:4]])
    args = arguments(tmp_path, machine, max_steps=1, completion_only_loss=True)
    trainer = SFTTrainer(finetune.load_four_bit("miniworld/qwen2", machine), args=args, train_dataset=data,
                         processing_class=tokenizer, peft_config=LORA)
    for ready in trainer.train_dataset:
        assert "labels" not in ready or -100 not in ready["labels"]


def test_sft_config_asks_for_bfloat16_where_it_is_not_told(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("on a GPU it may have it")
    with pytest.raises(ValueError, match="bf16"):
        SFTConfig(output_dir=str(tmp_path))


def test_trl_casts_to_bfloat16_and_we_cast_back_then_train(trainer):
    """One test, since training changes the trainer: casts, then eight steps that move the adapter alone."""
    trainable = [p for p in trainer.model.parameters() if p.requires_grad]
    assert {p.dtype for p in trainable} == {torch.bfloat16}
    assert finetune.trainable_to_float32(trainer.model) == len(trainable)
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}
    assert finetune.trainable_to_float32(trainer.model) == 0

    assert all("lora_" in name for name in finetune.trainable_names(trainer.model))
    digest = finetune.frozen_digest(trainer.model)
    trainer.train()
    assert finetune.frozen_digest(trainer.model) == digest
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert float(losses[-1]) < 0.8 * float(losses[0])


def test_small_steps_are_lost_in_bfloat16():
    weight = torch.tensor(1.0, dtype=torch.bfloat16)
    assert (weight + 1e-3) == weight and torch.tensor(1.0) + 1e-3 > 1
