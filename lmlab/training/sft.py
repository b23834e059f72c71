"""Recipes of lessons 00 and 04 to 06 as a job: examples, model and training, on any number of GPUs.

The notebooks make these calls one by one and look at each; ``lmlab finetune`` makes them all, and a test
holds the two together. Several processes are started by ``accelerate launch`` or ``torchrun``. Which of DDP,
FSDP and DeepSpeed it is, the Trainer reads from what the launcher has set.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed
from trl import SFTConfig
from trl.trainer.utils import add_fused_lm_head

from lmlab.data.conversations import answers_to_learn, read_conversations, split_conversations
from lmlab.data.labels import completion_only_collator, tokenize_conversations
from lmlab.data.packing import document_windows, packed_windows
from lmlab.data.pairs import PROMPT, pair_sets, tokenize_pairs
from lmlab.data.preflight import preflight
from lmlab.data.problem_sets import reasoning_sets
from lmlab.data.reasoning import curriculum_order
from lmlab.data.sources import load_rows
from lmlab.data.usable import leave_out, usable_texts
from lmlab.files import is_write_failure, remove_temporary, replace_folder
from lmlab.hardware import Machine, describe_machine, fast_matmul
from lmlab.models.parameters import freeze_layers, trainable_to_float32
from lmlab.models.quantization import load_four_bit
from lmlab.models.sources import load_model, load_tokenizer, refuse_remote_code
from lmlab.recipes import FullFinetune, InstructionFinetune, LoraFinetune, ReasoningFinetune, Recipe
from lmlab.training.callbacks import CompleteCheckpoints, EvalProgress, TensorBoardCurves
from lmlab.training.checkpoints import find_resumable_checkpoint, remove_checkpoints
from lmlab.training.distributed import (
    check_accumulation,
    cleanup_distributed,
    launched_processes,
    shards_weights,
    uses_fsdp,
)
from lmlab.training.memory import prefer_chunked_loss
from lmlab.training.optimizers import qlora_optimizer
from lmlab.training.tensorboard import FOLDER, TensorBoardLogger
from lmlab.training.trainers import TokenWeightedSFTTrainer, TokenWeightedTrainer

logger = logging.getLogger(__name__)
# eval_loss, as metrics.json calls it
METRICS = {"00": "loss_after", "04": "val_loss_large", "05": "loss_after", "06": "eval_loss"}


def run_recipe(cfg: Recipe, out: Path, bits: int | None = None) -> list[tuple[int, float]]:
    """Carries out a recipe of lesson 00, 04, 05 or 06 in folder ``out``.

    A step of ``grad_accumulation`` batches is shared by all processes, so it is the same for any number of
    them. Killed, the run resumes from its last complete checkpoint when it is called again, with the losses
    that it would have had. The best weights are kept, in ``out``/model or ``out``/adapter; a run is finished
    when that folder is there.

    Args:
        cfg: The recipe.
        out: The folder.
        bits: 4 (the default) or 16, of the frozen weights beside an adapter.

    Returns:
        (step, eval_loss in nats per token), from before the first step to the last evaluation.

    Raises:
        ValueError: A request that cannot be carried out (``check_request``), or ``out`` holds a finished run,
            or an unfinished one of another recipe.
        OSError: The disk is full.
    """
    check_request(cfg, bits)
    machine = describe_machine()
    try:
        # before any model is loaded, for this chooses the device of this process
        args = training_arguments(cfg, out / "trainer", machine)
        # one process speaks
        if not PartialState().is_main_process:
            logging.getLogger("lmlab").setLevel(logging.ERROR)
        return _run(cfg, out, args, machine, bits or 4)
    except Exception as error:
        if not is_write_failure(error):
            raise
        raise OSError(
            f"the disk of {out} is full ({error}); nothing complete is lost: free some space, and the same "
            "command resumes from the last checkpoint"
        ) from error
    finally:
        cleanup_distributed()


def check_request(cfg: Recipe, bits: int | None) -> None:
    """Raises ValueError for what cannot be carried out, before anything is loaded."""
    if not isinstance(cfg, InstructionFinetune | FullFinetune | LoraFinetune | ReasoningFinetune):
        raise ValueError(
            f"finetune got lesson {cfg.lesson}; give 00, 04, 05 or 06 "
            "(02: lmlab pretrain; 08 and 09: lmlab run)"
        )
    if isinstance(cfg, FullFinetune) and bits is not None:
        raise ValueError(f"--bits got {bits}, and lesson 04 trains all weights, in 32; leave it out")
    if not isinstance(cfg, FullFinetune) and bits != 16 and shards_weights():
        raise ValueError(
            "the launcher shards the weights (FSDP or ZeRO-3), which packed 4-bit weights do not allow; "
            "give --bits 16, or launch with ddp.yaml or deepspeed_zero2.yaml"
        )
    check_accumulation(cfg.grad_accumulation, launched_processes())


def _run(cfg, out: Path, args: TrainingArguments, machine, bits: int) -> list[tuple[int, float]]:
    tokenizer = load_tokenizer(cfg.model)
    train, validation = examples(cfg, tokenizer)
    checkpoint = _prepare_folder(cfg, bits, out, train)
    check_examples(cfg, tokenizer, {"train": train, "validation": validation})
    model = build_model(cfg, machine, bits)
    # loading may have drawn random numbers; the order of the data and dropout must not depend on it
    set_seed(cfg.seed)
    trainer = build_trainer(cfg, model, args, tokenizer, train, validation)
    trainer.add_callback(EvalProgress(out, METRICS[cfg.lesson[:2]]))
    trainer.add_callback(TensorBoardCurves(out / FOLDER))
    if trainer.is_world_process_zero():
        # it shows the recipe
        TensorBoardLogger(out, cfg)
    kind = trainer.accelerator.distributed_type.value
    logger.info("trains on %d examples, %d processes, %s", len(train), args.world_size, kind)
    length = cfg.block_size if isinstance(cfg, LoraFinetune) else cfg.max_length
    with fast_matmul(machine.device, length), refuse_remote_code(checkpoint or cfg.model):
        trainer.train(resume_from_checkpoint=checkpoint)
    losses = [(row["step"], row["eval_loss"]) for row in trainer.state.log_history if "eval_loss" in row]
    # with load_best_model_at_end these are the best weights, not the last
    folder = _save(trainer, out, cfg)
    first, best = losses[0][1], min(loss for _, loss in losses)
    logger.info("done: eval_loss %.4f before, %.4f at best; saved in %s", first, best, folder)
    return losses


# --- the calls that the notebooks make --------------------------------------------------------------


def examples(cfg: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Dataset]:
    """(to train on, to evaluate on): Datasets of input_ids and labels, as the lesson makes them."""
    if isinstance(cfg, FullFinetune):
        pairs, invalid = pair_sets(cfg), cfg.max_invalid_fraction
        return tuple(
            tokenize_pairs(pairs[name], tokenizer, cfg.max_length, source=name, max_invalid_fraction=invalid)
            for name in ("train", "validation")
        )
    if isinstance(cfg, LoraFinetune):
        tokenizer.model_max_length = int(1e9)  # texts are cut into blocks here
        texts = usable_texts(load_rows(cfg.data, "train", limit=cfg.n_train), cfg.data)
        held_out = usable_texts(load_rows(cfg.data, "validation", limit=cfg.n_validation), cfg.data)
        # a heading, say, may stand in both splits, and would be evaluated after it was trained on
        seen = {text.strip() for text in texts}
        held_out = [text for text in held_out if text.strip() not in seen]
        train = packed_windows(texts, tokenizer, cfg.block_size)
        return train, document_windows(held_out, tokenizer, cfg.block_size)
    if isinstance(cfg, InstructionFinetune):
        return _instruction_examples(cfg, tokenizer)
    sets = reasoning_sets(cfg, tokenizer)
    train = curriculum_order(sets["train"]) if cfg.order == "curriculum" else sets["train"]
    return tuple(tokenize_conversations(rows, tokenizer) for rows in (train, sets["validation"]))


def _instruction_examples(
    cfg: InstructionFinetune, tokenizer: PreTrainedTokenizerBase
) -> tuple[Dataset, Dataset]:
    conversations, bad = read_conversations(cfg)
    leave_out(bad, len(conversations) + len(bad), cfg.data, cfg.max_invalid_fraction, place="line")
    train, held_out = split_conversations(conversations, cfg.n_validation, cfg.seed)
    sets = []
    for rows in (answers_to_learn(train, tokenizer)[: cfg.n_train], answers_to_learn(held_out, tokenizer)):
        tokenized = tokenize_conversations(rows, tokenizer)
        short = tokenized.filter(lambda row: len(row["input_ids"]) <= cfg.max_length)
        if len(short) < len(tokenized):
            n_long = len(tokenized) - len(short)
            logger.warning(
                "left out %d of %d answers: over %d tokens", n_long, len(tokenized), cfg.max_length
            )
        sets.append(short)
    return sets[0], sets[1]


def check_examples(cfg: Recipe, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset]) -> None:
    """The preflight of what is trained on and evaluated on, as in notebook 06, before weights are loaded.

    Lesson 05's blocks of plain text have no prompt, no answer and no padding that could be wrong.

    Args:
        cfg: The recipe.
        tokenizer: What made the examples.
        sets: name -> Dataset of input_ids and labels.

    Raises:
        ValueError: A check failed; the error names each that did.
    """
    if isinstance(cfg, LoraFinetune):
        return
    # the text of the prompt that an answer follows, which the check looks for before the first label
    before_answer = PROMPT.rpartition("}")[2] if isinstance(cfg, FullFinetune) else None
    collate = completion_only_collator(tokenizer)
    for name, rows in sets.items():
        report = preflight(
            rows,
            tokenizer,
            collate,
            max_length=cfg.max_length,
            opening=before_answer,
            reasoning=isinstance(cfg, ReasoningFinetune),
        )
        report.require()
        logger.info("preflight of %s: %d checks passed on %d examples", name, len(report.checks), len(rows))


def training_arguments(cfg: Recipe, folder: Path, machine: Machine) -> TrainingArguments:
    """The arguments of the lesson's trainer, as its notebook has them."""
    common = {
        "output_dir": str(folder),
        "seed": cfg.seed,
        "num_train_epochs": cfg.epochs,
        "per_device_train_batch_size": cfg.batch_size,
        "per_device_eval_batch_size": cfg.batch_size,
        "gradient_accumulation_steps": cfg.grad_accumulation // launched_processes(),
        "learning_rate": cfg.learning_rate,
        "warmup_steps": 0.05,  # below 1: a fraction of all steps
        "bf16": machine.bf16,
        "fp16": machine.fp16,
        "use_cpu": machine.use_cpu,
        "disable_tqdm": True,
        # each evaluation leaves a checkpoint, and the best of them is loaded at the end
        "eval_strategy": "steps",
        "eval_steps": 1 / cfg.evaluations,
        "eval_on_start": True,
        "save_strategy": "steps",
        "save_steps": 1 / cfg.evaluations,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
    }
    # DDP would search for unused parameters at each step; there are none
    if launched_processes() > 1:
        common["ddp_find_unused_parameters"] = False
    if isinstance(cfg, FullFinetune):
        common["load_best_model_at_end"] = cfg.load_best_model
        return TrainingArguments(
            **common,
            lr_scheduler_type="linear",
            weight_decay=0.01,
            logging_steps=1,
            save_total_limit=2,
            restore_callback_states_from_checkpoint=True,  # the patience that is used up
        )
    common |= {"lr_scheduler_type": "cosine", "logging_steps": 5}
    # FSDP recomputes activations by itself, where its config says so; two passes would cost twice
    common["activation_checkpointing"] = cfg.activation_checkpointing and not uses_fsdp()
    if isinstance(cfg, LoraFinetune):
        return TrainingArguments(**common, save_total_limit=2)
    if isinstance(cfg, ReasoningFinetune):
        common |= {
            "packing": cfg.packing,
            "eval_packing": False,
            "train_sampling_strategy": "sequential" if cfg.order == "curriculum" else "random",
        }
    return SFTConfig(**common, optim=qlora_optimizer(machine), max_length=cfg.max_length, save_total_limit=3)


def build_model(cfg: Recipe, machine: Machine, bits: int = 4) -> nn.Module:
    """All of the model to train (04), an adapter beside frozen weights (05), or the base that SFTTrainer
    adapts (00, 06).

    Sharded weights are float32, whatever ``bits`` says: FSDP wants one dtype, and computes in the machine's.
    """
    if isinstance(cfg, FullFinetune):
        model = load_model(cfg.model)
        freeze_layers(model, cfg.frozen_layers)
        return model
    if bits == 4:
        base = load_four_bit(cfg.model, machine)
    else:
        base = load_model(cfg.model, dtype=torch.float32 if shards_weights() else machine.torch_dtype)
    return with_lora(base, cfg) if isinstance(cfg, LoraFinetune) else base


def lora_config(cfg: Recipe) -> LoraConfig:
    """The adapter that a recipe of lesson 00, 05 or 06 asks for."""
    return LoraConfig(
        r=cfg.lora_r,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        target_modules=cfg.target_modules,
        task_type="CAUSAL_LM",
    )


def with_lora(base: nn.Module, cfg: Recipe) -> PeftModel:
    """A PeftModel of a loaded base: the recipe's adapter in float32, all else frozen, TRL's chunked head."""
    base.requires_grad_(False)
    add_fused_lm_head(base)
    set_seed(cfg.seed)  # the adapter's A is random
    model = get_peft_model(base, lora_config(cfg))
    trainable_to_float32(model)
    return model


def build_trainer(
    cfg: Recipe,
    model: nn.Module,
    args: TrainingArguments,
    tokenizer: PreTrainedTokenizerBase,
    train: Dataset,
    validation: Dataset,
) -> Trainer:
    """The lesson's trainer, with the callbacks for checkpoints and early stopping."""
    sets = {"train_dataset": train, "eval_dataset": validation, "processing_class": tokenizer}
    if isinstance(cfg, InstructionFinetune | ReasoningFinetune):
        trainer = TokenWeightedSFTTrainer(model, args=args, peft_config=lora_config(cfg), **sets)
        trainable_to_float32(trainer.model)  # TRL casts the adapter to bfloat16 where the base is in 4 bits
    else:
        collate = completion_only_collator(tokenizer)
        # the chunked head reads the head's whole weight, of which a process has a shard alone
        if isinstance(cfg, LoraFinetune) and not shards_weights():
            chunked = prefer_chunked_loss(cfg.batch_size * cfg.block_size, model.config.vocab_size)
            collate = chunked_loss_collator(collate, chunked)
        trainer = TokenWeightedTrainer(model, args, data_collator=collate, **sets)
    trainer.add_callback(CompleteCheckpoints())
    if getattr(cfg, "early_stopping_patience", None):
        trainer.add_callback(EarlyStoppingCallback(cfg.early_stopping_patience))
    return trainer


def chunked_loss_collator(collate: Callable, chunked: bool) -> Callable:
    """A collator that tells a model with TRL's fused head whether to compute the logits in chunks."""
    return lambda rows: collate(rows) | {"fused_lm_head": chunked}


# --- the folder of a run ----------------------------------------------------------------------------


def _prepare_folder(cfg, bits: int, out: Path, train) -> str | None:
    """The checkpoint to resume from, None to begin anew: one process looks, and all learn it."""
    is_main = PartialState().is_main_process
    if any((out / name).exists() for name in ("adapter", "model")):
        # killed after its last save, the run has not come so far itself
        if is_main:
            remove_checkpoints(out / "trainer")
            remove_temporary(out)
        raise ValueError(f"{out} holds a finished run; give another --out, or remove it")
    found: list = [None]
    if is_main:
        config = {**dict(cfg.rows()), "bits": bits}
        # should this raise, the launcher ends the other processes
        found[0] = find_resumable_checkpoint(out / "trainer", config, train, replace=False)
    broadcast_object_list(found)
    return found[0]


def _save(trainer: Trainer, out: Path, cfg) -> Path:
    """Saves all that was trained, gathered from every process, with the tokenizer.

    Not by the Trainer (transformers 5.23, peft 0.21): with sharded tied weights it fails, and of an adapter
    whose layers FSDP has wrapped the file is empty.
    """
    folder = out / ("model" if isinstance(cfg, FullFinetune) else "adapter")
    state = _full_state(trainer)
    if trainer.args.should_save:
        with replace_folder(folder) as new:
            if isinstance(cfg, FullFinetune):
                # a fresh model knows which weights are tied; the gathered state has a copy of each
                model = load_model(cfg.model)
                model.load_state_dict(state)
                model.save_pretrained(str(new))
            else:
                model = trainer.accelerator.unwrap_model(trainer.model)
                _save_adapter(model.peft_config["default"], state, new, cfg)
            trainer.processing_class.save_pretrained(str(new))
        remove_checkpoints(Path(trainer.args.output_dir))
    trainer.accelerator.wait_for_everyone()
    return folder


def _save_adapter(config: LoraConfig, state: dict, folder: Path, cfg) -> None:
    from safetensors.torch import save_file

    config.base_model_name_or_path, config.inference_mode = cfg.model, True
    config.save_pretrained(str(folder))
    adapter = {}
    for name, tensor in state.items():
        if "lora_" in name and ".default." in name:  # TRL may add a second adapter, of reference
            adapter[name.replace(".default.", ".")] = tensor.contiguous()
    save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _full_state(trainer: Trainer) -> dict:
    """All weights, in the first process at least. Every process must ask, since each may have a shard."""
    if not trainer.is_fsdp_enabled:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    state = {}
    for name, value in trainer.model.state_dict().items():  # accelerate 1.15 would give FSDP2's shards
        state[name] = value.full_tensor().cpu() if hasattr(value, "full_tensor") else value
    return state
