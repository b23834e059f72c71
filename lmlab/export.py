"""Merging an adapter into its base, proving that the merge is right, and saving the result as a model folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

WAYS = {
    "4-bit base": "multiply out inside the 4-bit weights, which are then rounded to 4 bits again",
    "16-bit base": "add to the original weights, which the adapter never saw in training",
    "dequantized base": "unpack the 4-bit weights first, then add: what the adapter was trained on",
}


# --- merging ---------------------------------------------------------------------------------------


def adapter_base(adapter: str | Path) -> str:
    """The source of the base that an adapter folder names, such as "miniworld/llama" or a hub id."""
    from peft import PeftConfig

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ValueError(f"{adapter} holds no adapter_config.json; give a folder that save_adapter wrote")
    return PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path


def load_adapted(adapter: str | Path, way: str, machine, base: str | None = None):
    """A ``PeftModel`` in eval mode: the base in one of the ``WAYS``, with the adapter beside it, not merged yet.

    base: the base's source, by default what the adapter names. Off the 4-bit base weights and adapter are
    float32: the sums are exact, and rounding to 16 bits can be measured by itself. On it, the layers that are
    not in 4 bits have the machine's dtype.
    ``merge_and_unload()`` of the result merges.
    """
    import torch
    from peft import PeftModel

    from lmlab.data import load_model
    from lmlab.finetune import load_four_bit

    if way not in WAYS:
        raise ValueError(f"way of merging got {way!r}; give one of {', '.join(WAYS)}")
    base = base or adapter_base(adapter)
    model = load_model(base) if way == "16-bit base" else load_four_bit(base, machine)
    if way == "dequantized base":
        model = model.dequantize()
        model = model.to(torch.float32)
    if way != "4-bit base" and machine.device != "cpu":
        model.to(machine.device)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


# --- the proof -------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """How near two models are on the same tokens."""

    max_difference: float  # largest absolute difference of any logit
    top1: float  # share of positions at which both find the same token likeliest
    positions: int


def logits_of(model, sequences: Sequence[Sequence[int]]) -> list:
    """Float32 logits (T, V) on the CPU for each sequence of token ids, in eval mode, one by one: no padding."""
    import torch

    was_training = model.training
    model.eval()
    with torch.no_grad():
        logits = [model(torch.tensor([list(ids)], device=model.device)).logits[0].float().cpu() for ids in sequences]
    model.train(was_training)
    return logits


def compare_logits(reference: Sequence, candidate: Sequence) -> Agreement:
    """The agreement of two lists of logits (T, V), as ``logits_of`` gives them for the same sequences."""
    pairs = list(zip(reference, candidate, strict=True))
    if not pairs:
        raise ValueError("compare_logits got no sequences; give at least one")
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(f"compare_logits got logits of shapes {tuple(a.shape)} and {tuple(b.shape)}; "
                             "both models must read the same sequences with the same vocabulary")
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in pairs)
    positions = sum(len(a) for a, _ in pairs)
    return Agreement(max(float((a - b).abs().max()) for a, b in pairs), same / positions, positions)


def verify_merge(reference: Sequence, merged, sequences: Sequence[Sequence[int]],
                 tolerance: float = 1e-4) -> Agreement:
    """Checks that a merged model says what base and adapter said, and returns how near it is.

    reference: ``logits_of`` the adapted model for ``sequences``, taken before merging (which changes the base
    in place). Raises ValueError when a logit differs by more than ``tolerance``.
    """
    agreement = compare_logits(reference, logits_of(merged, sequences))
    if not agreement.max_difference <= tolerance:  # a NaN fails too
        raise ValueError(f"the merged model's logits got as far as {agreement.max_difference:.2g} from the adapted "
                         f"model's, allowed are {tolerance:.2g} (same likeliest token at {agreement.top1:.1%}); "
                         "check alpha / r, that both ran in eval mode, and that the base is the adapter's own")
    return agreement


# --- a folder to hand on ---------------------------------------------------------------------------


def base_dtype(source: str):
    """The torch dtype in which a base is published: what a merged model should be saved in."""
    import torch
    from transformers import AutoConfig

    from lmlab.data import model_path

    dtype = AutoConfig.from_pretrained(model_path(source)).dtype
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype)
    return dtype if dtype in (torch.float16, torch.bfloat16) else torch.float16


def round_weights(model, dtype):
    """Casts all weights to ``dtype`` in place, and leaves the buffers as they are. Returns the model.

    ``model.to(dtype)`` would round the rotary frequencies too. They are not saved but computed anew in float32
    at loading, so the model in memory would not be the one in the folder.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def save_model_folder(model, tokenizer, folder: str | Path, *, title: str, base: str,
                      facts: Mapping[str, object]) -> Path:
    """Weights, config, tokenizer and a model card in the hub's layout; loads with ``from_pretrained``.

    The weights are saved in the dtype that they are in. facts: what the card's table says.
    """
    folder = Path(folder)
    model.save_pretrained(folder)  # not the raw state dict: tied weights are stored once
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(model_card(title, base, facts), encoding="utf-8")
    return folder


def model_card(title: str, base: str, facts: Mapping[str, object]) -> str:
    """A model card in the hub's form: front matter, a table of facts, how to load it."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
base_model: {base}
library_name: transformers
tags: [lmlab, lora, merged]
---
# {title}

{base} with a LoRA adapter merged into its weights. It needs neither peft nor bitsandbytes.

| what | value |
|---|---|
{rows}

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```
"""


def folder_bytes(folder: str | Path) -> int:
    """Bytes of all files under a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
