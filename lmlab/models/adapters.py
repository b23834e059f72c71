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
_UNDERSTOOD = """
r lora_alpha use_rslora rank_pattern alpha_pattern fan_in_fan_out
target_modules exclude_modules layers_to_transform layers_pattern
lora_dropout init_lora_weights eva_config bias
revision peft_type peft_version task_type auto_mapping inference_mode base_model_name_or_path
""".split()

# what to do with an adapter that is refused
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
    """adapter_config.json of an adapter's folder. Raises ValueError where there is none."""
    file = Path(adapter) / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"{adapter} holds no adapter_config.json; give a folder that save_adapter wrote")
    return json.loads(file.read_text(encoding="utf-8"))


def changes_base(config: dict) -> bool:
    """Whether the adapter was trained beside weights that are not the base's own (PiSSA and its kin)."""
    return config.get("init_lora_weights", True) not in _PLAIN_STARTS


def check_loadable(adapter: str | Path, strategy: str) -> None:
    """Checks that peft would load an adapter beside the weights that it was trained with.

    Args:
        adapter: its folder.
        strategy: one of ``lmlab.export.merge.MERGE_STRATEGIES``, how the base is loaded.

    Raises:
        ValueError: where it would not; for settings that the peft here does not know; and for what is no
            change of weights: trained prompts, and adapters that begin at a certain token (aLoRA).
    """
    from peft import PeftConfig

    config = read_adapter_config(adapter)
    if changes_base(config):
        start = config["init_lora_weights"]
        # an unknown start, or PiSSA by random projections, would change the base otherwise than in training
        if start not in _REPEATED_STARTS or strategy != "16-bit base":
            raise ValueError(
                f"{adapter} got init_lora_weights {start!r}, which changed the base's 16-bit weights: "
                f"{CONVERT}; or (if it is one of {', '.join(_REPEATED_STARTS)}) {IN_MEMORY}"
            )
    try:
        known = PeftConfig.from_pretrained(str(adapter))
    except KeyError as error:
        raise ValueError(
            f"{adapter} got peft_type {error}, which the peft here does not know; "
            "install the peft that saved it"
        ) from error
    for key in config.keys() - vars(known).keys():
        # peft warns, and goes on without it
        if config[key]:
            raise ValueError(
                f"{adapter} got {key} {config[key]!r}, which the peft here does not know; "
                f"install the peft that saved it (peft_version {config.get('peft_version')})"
            )
    if config.get("alora_invocation_tokens") or known.is_prompt_learning:
        raise ValueError(
            f"{adapter} (peft_type {config['peft_type']!r}, with alora_invocation_tokens or virtual tokens) "
            "is no change of weights: it can neither be merged nor used here; train a LoRA, or run it "
            "with peft"
        )


def check_mergeable(adapter: str | Path) -> None:
    """Checks that an adapter is W + scale * B A in each of its layers, W being the base's own.

    Raises:
        ValueError: where it is more than that, or may be: a setting that is not known here counts, unless it
            has the value that peft gives it by default.
    """
    from peft import LoraConfig

    # no way to load the base has this name, so an adapter that changed its base is refused, too
    check_loadable(adapter, "tensor by tensor")
    config = read_adapter_config(adapter)
    if config["peft_type"] != "LORA":
        raise ValueError(f"{adapter} got peft_type {config['peft_type']!r}, and not LORA; {IN_MEMORY}")
    defaults = LoraConfig().to_dict()
    for key, value in config.items():
        default = defaults.get(key)
        # None, False and empty all say that a setting is not used
        if key not in _UNDERSTOOD and value != default and (value or default):
            raise ValueError(
                f"{adapter} got {key} {value!r}, more than plain LoRA on linear layers; {IN_MEMORY}"
            )


def save_adapter(model: "Module", folder: str | Path, source: str) -> Path:
    """Saves the adapter of a PeftModel alone, with the source of its base ("miniworld/llama", a hub id)."""
    # a name that holds on any machine, in place of the folder that the base was loaded from
    for config in model.peft_config.values():
        config.base_model_name_or_path = source
    with replace_folder(folder) as new:
        # the default one alone: TRL may add a reference adapter
        model.save_pretrained(str(new), save_embedding_layers=False, selected_adapters=["default"])
    return Path(folder)
