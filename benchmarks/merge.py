"""Merging at full size, tensor by tensor: the most memory that it takes, and the seconds.

python benchmarks/merge.py llama-3.2-1b|r1-distill-1.5b --tokenizers FOLDER

The base is written with random weights in bfloat16 (``real_sizes.write_random``), the adapter with random
ones in the shape of the lesson's recipe. Asserted of both ways of merging: the numbers of tensors and of
changed ones, and of three tensors the very bits.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from abab import conditions
from real_sizes import LARGE, forget_peak, peak_gib, write_random

RESULTS = Path(__file__).parent / "results" / "merge"


def write_adapter(config, lora: dict, folder: Path, base: Path) -> int:
    """A LoRA adapter with random A and B, as peft saves it; returns how many numbers it has."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config_of_lora = LoraConfig(**lora, task_type="CAUSAL_LM")
    with torch.device("meta"):
        model = get_peft_model(AutoModelForCausalLM.from_config(config), config_of_lora)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.empty(tensor.shape).normal_(0, 0.01, generator=generator)
        for name, tensor in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config_of_lora.base_model_name_or_path = str(base)
    config_of_lora.save_pretrained(folder)
    return sum(tensor.numel() for tensor in weights.values())


def as_one_file(folder: Path) -> None:
    """The tensors of a folder in one file, as both bases are published."""
    from safetensors import safe_open

    from lmlab.export.weight_files import INDEX, write_safetensors

    files = json.loads((folder / INDEX).read_text())["weight_map"]

    def tensors():
        for name, file in files.items():
            with safe_open(folder / file, "pt") as found:
                yield found.get_tensor(name)

    layout = {
        name: {"dtype": "BF16", "shape": list(tensor.shape)}
        for name, tensor in zip(files, tensors(), strict=True)
    }
    write_safetensors(folder / "model.safetensors", layout, tensors())
    for file in [*files.values(), INDEX]:
        (folder / file).unlink()


def check(base: Path, adapter: Path, merged: Path, way: str, machine, lora: dict) -> None:
    """A changed matrix, one that the adapter leaves alone, and the embedding, each by a line of its own."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file

    from lmlab.export.merge import quantize_dequantize

    def read(folder: Path, name: str):
        with safe_open(folder / "model.safetensors", "pt") as tensors:
            return tensors.get_tensor(name)

    def as_base(tensor):
        return quantize_dequantize(tensor, machine) if way == "dequantized base" else tensor

    layer = "model.layers.3.self_attn.q_proj"
    factors = load_file(adapter / "adapter_model.safetensors")
    A, B = (factors[f"base_model.model.{layer}.lora_{side}.weight"] for side in "AB")
    expected = as_base(read(base, f"{layer}.weight")).float() + B @ A * (lora["lora_alpha"] / lora["r"])
    assert torch.equal(read(merged, f"{layer}.weight"), expected.bfloat16())
    embedding = "model.embed_tokens.weight"
    assert torch.equal(read(merged, embedding), read(base, embedding))
    if lora["target_modules"] != "all-linear":
        alone = "model.layers.5.mlp.down_proj.weight"
        assert torch.equal(read(merged, alone), as_base(read(base, alone)).bfloat16())


def measure(name: str, tokenizers: Path) -> dict:
    from transformers import AutoConfig

    from lmlab.export.merge import STREAMED, merge_to_folder
    from lmlab.hardware import describe_machine
    from lmlab.models.sources import load_tokenizer

    values, lora, n_weights, n_adapter = LARGE[name]
    machine, config = describe_machine(), AutoConfig.for_model(**values)
    tokenizer, found = load_tokenizer(str(tokenizers / "gpt2")), {}  # fewer tokens than either has rows
    with tempfile.TemporaryDirectory() as place:
        base, adapter, merged = (Path(place) / part for part in ("base", "adapter", "merged"))
        base.mkdir()
        assert write_random(config, base) == n_weights
        as_one_file(base)
        assert write_adapter(config, lora, adapter, base) == n_adapter
        for way in STREAMED:
            forget_peak()
            held, began = peak_gib(), time.perf_counter()
            done = merge_to_folder(adapter, merged, way, machine, tokenizer)
            seconds, peak = time.perf_counter() - began, peak_gib()
            assert done.n_bytes == 2 * n_weights, (done, n_weights)
            check(base, adapter, merged, way, machine, lora)
            found[way] = {
                "tensors": done.n_tensors,
                "changed": done.n_changed,
                "weights_gib": done.n_bytes / 2**30,
                "held_gib_before": held,
                "peak_gib": peak,
                "seconds": seconds,
            }
    return {
        "weights": n_weights,
        "adapter": n_adapter,
        "largest_tensor_gib": 2 * config.vocab_size * config.hidden_size / 2**30,
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=LARGE, help="one at a time, for the peak is that of a process")
    parser.add_argument("--tokenizers", type=Path, required=True, help="a folder with gpt2/ in it")
    args = parser.parse_args()
    measured = {"conditions": conditions(), args.name: measure(args.name, args.tokenizers)}
    out = RESULTS / f"{args.name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(measured, indent=1))
    print(out.read_text())


if __name__ == "__main__":
    main()
