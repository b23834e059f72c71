"""What an adapter's config says of it: can it be loaded as it was trained, and merged tensor by tensor?

peft saves A and B, and not the base that they were trained beside. Some ways of initializing a LoRA change
that base, and some settings make more of it than W + scale * B A: such an adapter is refused, with what to
do.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lmlab.files import replace_folder

if TYPE_CHECKING:
    from torch.nn import Module

# values of init_lora_weights that leave the base as it is
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")
# these subtract from the base's 16-bit weights what A and B start with; peft does so again when it loads them
_REPEATED_STARTS = ("pissa", "olora", "loftq")
# settings of which peft's layers make B A and its scale, that choose the layers, or that end with training
_UNDERSTOOD = {
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "fan_in_fan_out",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "lora_dropout",
    "init_lora_weights",
    "eva_config",
    "bias",
    "revision",
    "peft_type",
    "peft_version",
    "task_type",
    "auto_mapping",
    "inference_mode",
    "base_model_name_or_path",
}


CONVERT = (
    "where it was trained, save it once more by save_pretrained(FOLDER, path_initial_model_for_weight_"
    "conversion=THE ADAPTER BEFORE TRAINING), which makes a plain LoRA of it"
)
IN_MEMORY = (
    "merge it in memory, by load_adapted(ADAPTER, '16-bit base', machine).merge_and_unload(), and "
    "see with compare_logits that this says what the adapter said"
)
UNTIE = (
    "in this base the output head is the embeddings (tie_word_embeddings), and a merge would change "
    "both: load the base, set model.config.tie_word_embeddings = False and model.lm_head.weight = "
    "torch.nn.Parameter(model.lm_head.weight.clone()), save it, and merge into that"
)


def read_adapter_config(adapter: str | Path) -> dict:
    """adapter_config.json of an adapter's folder.

    Raises ValueError where there is none, or none of peft's.
    """
    file = Path(adapter) / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"{adapter} holds no adapter_config.json; give a folder that save_adapter wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); save the adapter again") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise ValueError(f"{file} got no peft_type; save the adapter again, by peft's save_pretrained")
    return config


def changes_base(config: dict) -> bool:
    """Whether the adapter was trained beside weights that are not the base's own (PiSSA and its kin)."""
    return config.get("init_lora_weights", True) not in _PLAIN_STARTS


def check_loadable(adapter: str | Path, way: str) -> None:
    """Checks that peft would load an adapter beside the weights that it was trained with.

    Args:
        adapter: its folder.
        way: one of ``lmlab.export.merge.MERGE_STRATEGIES``, how the base is loaded.

    Raises:
        ValueError: where it would not; for settings that the peft here does not know; and for what is no
            change of weights: trained prompts, and adapters that begin at a certain token (aLoRA).
    """
    from peft import PeftConfig

    config = read_adapter_config(adapter)
    start = config.get("init_lora_weights", True)
    if changes_base(config) and start not in _REPEATED_STARTS:
        raise ValueError(
            f"{adapter} got init_lora_weights {start!r}, which changed the base in a way that "
            f"is not saved and cannot be repeated; {CONVERT}"
        )
    if changes_base(config) and way != "16-bit base":
        raise ValueError(
            f"{adapter} got init_lora_weights {start!r}, which changed the base's 16-bit "
            f"weights, and way {way!r}; give '16-bit base', or {CONVERT}"
        )
    try:
        known = PeftConfig.from_pretrained(str(adapter))
    except KeyError as error:
        raise ValueError(
            f"{adapter} got peft_type {config['peft_type']!r}, which the peft here does not "
            "know; install the peft that saved it"
        ) from error
    for key in config.keys() - vars(known).keys():
        if config[key]:  # peft warns, and goes on without it
            raise ValueError(
                f"{adapter} got {key} {config[key]!r}, which the peft here does not know; "
                f"install the peft that saved it (peft_version {config.get('peft_version')})"
            )
    key = "alora_invocation_tokens" if config.get("alora_invocation_tokens") else "peft_type"
    if key != "peft_type" or known.is_prompt_learning:
        raise ValueError(
            f"{adapter} got {key} {config[key]!r}, which is no change of weights: it can "
            "neither be merged nor used here; train a LoRA, or run it with peft"
        )


def check_mergeable(adapter: str | Path) -> None:
    """Checks that an adapter is W + scale * B A in each of its layers, W being the base's own.

    Raises:
        ValueError: where it is more than that, or may be: a setting that is not known here counts, unless it
            has the value that peft gives it by default.
    """
    from peft import LoraConfig

    check_loadable(adapter, "16-bit base")
    config = read_adapter_config(adapter)
    if config["peft_type"] != "LORA":
        raise ValueError(
            f"{adapter} got peft_type {config['peft_type']!r}, and LORA alone is merged tensor "
            f"by tensor; {IN_MEMORY}"
        )
    if changes_base(config):
        raise ValueError(
            f"{adapter} got init_lora_weights {config['init_lora_weights']!r}, which changed "
            f"the base that its A and B stand beside; {CONVERT}, or {IN_MEMORY}"
        )
    defaults = LoraConfig().to_dict()
    for key, value in config.items():
        default = defaults.get(key)
        if key not in _UNDERSTOOD and value != default and (value or default):
            raise ValueError(
                f"{adapter} got {key} {value!r}, more than plain LoRA on linear layers; {IN_MEMORY}"
            )


def save_adapter(model: "Module", folder: str | Path, source: str) -> Path:
    """Saves the adapter of a PeftModel alone, with the source of its base ("miniworld/llama", a hub id)."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = source
    with replace_folder(folder) as new:
        model.save_pretrained(
            str(new), save_embedding_layers=False, selected_adapters=["default"]
        )  # TRL may add one
    return Path(folder)
