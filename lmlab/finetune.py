"""Fine-tuning: what the notebooks need around the trainers of transformers and TRL, which they call themselves."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

# --- 4-bit bases and adapters ----------------------------------------------------------------------


def four_bit_config(machine):
    """The BitsAndBytesConfig of QLoRA: NF4, double quantisation, matrices multiplied in the machine's dtype.

    Source: Dettmers et al. 2023, sections 2 and 3. Raises ValueError where the machine has no 4-bit kernels.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if not machine.four_bit:
        raise ValueError(f"4-bit weights got device {machine.device!r}, where bitsandbytes cannot compute; "
                         "use a CPU or CUDA machine, and check that bitsandbytes is installed")
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                              bnb_4bit_compute_dtype=getattr(torch, machine.compute_dtype))


def load_four_bit(source: str, machine, config=None):
    """The causal model of a source with its linear layers in 4 bits, safe to train and to evaluate in turn.

    config: a BitsAndBytesConfig, ``four_bit_config(machine)`` by default. What is not quantised (embeddings,
    norms) is in the machine's dtype.
    """
    from lmlab.data import load_model

    config = four_bit_config(machine) if config is None else config
    place = {"device_map": {"": 0}} if machine.device == "cuda" else {}
    model = load_model(source, quantization_config=config, dtype=machine.torch_dtype, **place)
    keep_packing(model)
    return model


def keep_packing(model) -> int:
    """Stops bitsandbytes from repacking 4-bit weights in place on CPUs with AVX512-BF16; returns the layers.

    Its first forward pass without gradients rewrites the weights for a faster kernel. Training after that
    crashes or gets zero gradients, and dequantising gives garbage (seen with bitsandbytes 0.50).
    """
    layers = four_bit_layers(model)
    for layer in layers.values():
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def four_bit_layers(model) -> dict:
    """name -> bitsandbytes ``Linear4bit`` of every layer in 4 bits."""
    import bitsandbytes

    return {name: module for name, module in model.named_modules()
            if isinstance(module, bitsandbytes.nn.Linear4bit)}


def trainable_to_float32(model) -> int:
    """Casts the trainable parameters to float32 and returns how many tensors were not.

    TRL casts them to bfloat16 whenever the base is in 4 bits: Adam's small updates are then rounded away, and
    on a GPU without bfloat16 the gradient scaler fails. Call it after SFTTrainer is built, before training.
    """
    import torch

    low = [p for p in model.parameters() if p.requires_grad and p.dtype != torch.float32]
    for parameter in low:
        parameter.data = parameter.data.float()
    return len(low)


def trainable_names(model) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def frozen_digest(model) -> str:
    """SHA-256 over the bytes of all parameters that do not train, packed 4-bit weights among them."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.data.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


# --- memory ----------------------------------------------------------------------------------------


def weight_bytes(model) -> dict[str, int]:
    """Bytes of a model's weights, counted from its tensors.

    four_bit: packed 4-bit numbers; constants: their scales; other: weights that are not quantised;
    trainable: parameters that train (the adapter); float16: what all weights but the trainable ones would take
    in 16 bits. Tied tensors count once.
    """
    import bitsandbytes

    sizes = dict.fromkeys(("four_bit", "constants", "other", "trainable", "float16"), 0)
    for parameter in model.parameters():
        n_bytes = parameter.numel() * parameter.element_size()
        if isinstance(parameter, bitsandbytes.nn.Params4bit):
            sizes["four_bit"] += n_bytes
            sizes["constants"] += _constant_bytes(parameter.quant_state)
            sizes["float16"] += 2 * parameter.quant_state.shape.numel()
        elif parameter.requires_grad:
            sizes["trainable"] += n_bytes
        else:
            sizes["other"] += n_bytes
            sizes["float16"] += 2 * parameter.numel()
    return sizes


def _constant_bytes(state) -> int:
    """Scales of the blocks; with double quantisation these are bytes with float32 scales and a mean.

    The code books (16 and 256 numbers, the same for every layer) are left out.
    """
    tensors = [state.absmax]
    if state.nested:
        tensors += [state.state2.absmax, state.offset]
    return sum(t.numel() * t.element_size() for t in tensors)


def optimizer_bytes(optimizer) -> int:
    """Bytes of an optimizer's state, such as Adam's two moments, counted from its tensors."""
    import torch

    return sum(value.numel() * value.element_size() for state in optimizer.state.values()
               for value in state.values() if torch.is_tensor(value))


# --- conversations ---------------------------------------------------------------------------------


def prompt_text(tokenizer, messages: list[dict]) -> str:
    """A conversation as the model reads it before it answers, with all special tokens in it."""
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def labels_by_hand(tokenizer, row: dict) -> tuple[list[int], list[int]]:
    """(input_ids, labels) of a row {"prompt", "completion"} where only what the model must write counts.

    The prompt ends where the chat template lets the model begin (R1: after "<think>" and a line break), so that
    piece is taken off the completion; its end is the EOS. Labels of the prompt are -100. It is what TRL's mask
    is checked against; it is not fast.
    """
    prompt = prompt_text(tokenizer, row["prompt"])
    answer = row["completion"][0]["content"].removeprefix("<think>\n") + tokenizer.eos_token
    prompt_ids, answer_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, answer))
    return prompt_ids + answer_ids, [-100] * len(prompt_ids) + answer_ids


def generate_greedy(model, tokenizer, prompts: Sequence[str], max_new_tokens: int,
                    batch_size: int = 64) -> list[str]:
    """What the model writes after each prompt, likeliest token by token, without special tokens.

    prompts are texts with their special tokens in them. Batches are padded on the left, so that every prompt
    ends where its answer begins; those of like length go together. An answer ends with EOS or after
    ``max_new_tokens``.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers, was_training = [""] * len(prompts), model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start:start + batch_size]
        inputs = tokenizer([prompts[i] for i in batch], return_tensors="pt", padding=True, padding_side="left",
                           add_special_tokens=False, return_token_type_ids=False).to(model.device)
        with torch.no_grad():
            written = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True,
                                     pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
        texts = tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text
    model.train(was_training)
    return answers


# --- adapters on disk ------------------------------------------------------------------------------


def save_adapter(model, folder: str | Path, source: str) -> Path:
    """Saves the adapter of a PeftModel alone, with the source of its base ("miniworld/llama", a hub id)."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = source
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return Path(folder)
