"""Recipes of lessons 04 to 06 carried out as a job: examples, model and training, on any number of GPUs.

The notebooks take these steps one by one and look at each; ``lmlab finetune`` takes them all. Several processes
are started by ``accelerate launch`` or ``torchrun``. Which of DDP, FSDP and DeepSpeed it is, the Trainer reads
from what the launcher has set.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path

from lmlab.data.labels import completion_only_collator, tokenize_conversations
from lmlab.data.loading import load_rows
from lmlab.data.packing import document_windows
from lmlab.data.pairs import PROMPT, pair_sets, tokenize_pairs
from lmlab.data.preflight import preflight
from lmlab.data.problem_sets import reasoning_sets
from lmlab.data.usable import usable_texts
from lmlab.files import is_write_failure, replace_folder, write_atomic
from lmlab.hardware import describe_machine, fast_matmul
from lmlab.models import IGNORE_INDEX
from lmlab.models.parameters import freeze_layers, trainable_to_float32
from lmlab.models.quantization import load_four_bit
from lmlab.models.sources import eos_id, load_model, load_tokenizer, refuse_remote_code
from lmlab.recipes import FullFinetune, LoraFinetune, ReasoningFinetune, Recipe
from lmlab.training.checkpoints import find_resumable_checkpoint, remove_checkpoints, trainer_checkpoints
from lmlab.training.distributed import cleanup_distributed, silent
from lmlab.training.memory import many_logits
from lmlab.training.tensorboard import TensorBoardLogger
from lmlab.training.trainers import History, training_arguments

EVALUATIONS = 4  # of lesson 04's recipes, which name none


def run_recipe(
    cfg: Recipe, out: Path, bits: int | None = None, report: Callable[[str], None] = print
) -> list[tuple[int, float]]:
    """Carries out a recipe of lesson 04, 05 or 06 in folder ``out``; (step, validation loss), first to last.

    bits: 4 (the default) or 16, of the frozen weights beside an adapter. ``grad_accumulation`` of the recipe
    counts the batches of one step over all processes, so a step is the same for any number of them. Killed, it
    goes on from its last complete checkpoint when it is called again, with the losses that it would have had:
    it has one every ``checkpoint_every`` steps of the recipe, or at each evaluation (06). What is kept in the
    end are the last weights: "model" or "adapter" in ``out``; a run is finished when that folder is there.
    Raises ValueError for another lesson, a number of processes that does not divide a step, 4 bits in pieces, a
    finished run in ``out`` or one of other choices; OSError when the disk gets full.
    """
    from accelerate import PartialState

    check_request(cfg, bits)
    machine = describe_machine()
    try:
        args = _arguments(cfg, out, machine)  # first: loading a model asks it where to put the weights
        first = PartialState().is_main_process
        with open(os.devnull, "w", encoding="utf-8") as null, redirect_stdout(sys.stdout if first else null):
            return _run(cfg, out, args, machine, bits or 4, report if first else silent)
    except Exception as error:
        if not is_write_failure(error):
            raise
        raise OSError(
            f"the disk of {out} is full ({error}); nothing complete is lost: free some room, and the same "
            "command goes on from the last checkpoint"
        ) from error
    finally:
        cleanup_distributed()


def check_request(cfg: Recipe, bits: int | None) -> None:
    """Raises ValueError for what cannot be carried out, before anything is loaded."""
    if not isinstance(cfg, FullFinetune | LoraFinetune | ReasoningFinetune):
        raise ValueError(
            f"finetune got lesson {cfg.lesson}; give 04, 05 or 06 (02: lmlab pretrain; 08 and 09: lmlab run)"
        )
    if isinstance(cfg, FullFinetune) and bits is not None:
        raise ValueError(f"--bits got {bits}, and lesson 04 trains all weights, in 32; leave it out")
    if not isinstance(cfg, FullFinetune) and bits != 16 and in_pieces():
        raise ValueError(
            "the launcher cuts the weights into pieces (FSDP or ZeRO-3), which packed 4-bit weights "
            "do not bear; give --bits 16, or launch with ddp.yaml or deepspeed_zero2.yaml"
        )
    if _env_is("ACCELERATE_USE_FSDP", "true") and _env_is("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT"):
        raise ValueError(
            "fsdp_state_dict_type got FULL_STATE_DICT, with which the Trainer cannot write a checkpoint "
            "(transformers 5.23, accelerate 1.15); give SHARDED_STATE_DICT, as fsdp.yaml has it"
        )
    if cfg.grad_accumulation % world():
        more = world() * math.ceil(cfg.grad_accumulation / world())
        raise ValueError(
            f"grad_accumulation got {cfg.grad_accumulation} batches for {world()} processes; "
            f"give a multiple: --set grad_accumulation={more}"
        )
    if getattr(cfg, "packing", False):
        raise ValueError("packing got true, which notebook 06 alone can; give --set packing=false")


def world() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def in_pieces() -> bool:
    """Whether the launcher has weights cut into pieces, one for each process."""
    zero_3 = _env_is("ACCELERATE_USE_DEEPSPEED", "true") and _env_is("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    return _env_is("ACCELERATE_USE_FSDP", "true") or zero_3


def _env_is(name: str, value: str) -> bool:
    return os.environ.get(name, "").lower() == value.lower()


def _arguments(cfg, out: Path, machine):
    """The Trainer's. Lesson 06 names no ``checkpoint_every``: as in its notebook, each evaluation leaves one."""
    order = "sequential" if getattr(cfg, "order", "") == "easy_first" else "random"
    # FSDP recomputes by itself, where its config says so
    by_fsdp = _env_is("ACCELERATE_USE_FSDP", "true")
    recompute = getattr(cfg, "activation_checkpointing", False) and not by_fsdp
    return training_arguments(
        out / "trainer",
        machine,
        epochs=cfg.epochs,
        batch_size=cfg.batch_size,
        seed=cfg.seed,
        learning_rate=cfg.learning_rate,
        grad_accumulation=cfg.grad_accumulation // world(),
        checkpoint_every=getattr(cfg, "checkpoint_every", 1 / _evaluations(cfg)),
        activation_checkpointing=recompute,
        ddp_find_unused_parameters=False,
        lr_scheduler_type="linear" if isinstance(cfg, FullFinetune) else "cosine",
        train_sampling_strategy=order,
    )


def _evaluations(cfg) -> int:
    return getattr(cfg, "evaluations", EVALUATIONS)


def _run(cfg, out: Path, args, machine, bits: int, report) -> list[tuple[int, float]]:
    from transformers import PrinterCallback, Trainer, set_seed

    checkpoint = _prepare_folder(cfg, bits, out, Path(args.output_dir), report)
    tokenizer = load_tokenizer(cfg.model)
    train, validation = examples(cfg, tokenizer)
    check_examples(cfg, tokenizer, {"train": train, "validation": validation}, report)
    set_seed(cfg.seed)
    model = build_model(cfg, machine, bits)
    longest = max(map(len, train["input_ids"]))
    fused = (
        not in_pieces()
        and not isinstance(cfg, FullFinetune)
        and many_logits(cfg.batch_size * longest, model.config.vocab_size)
    )
    n_steps = math.ceil(len(train) / (cfg.batch_size * cfg.grad_accumulation)) * cfg.epochs
    every = math.ceil(n_steps / _evaluations(cfg))
    history = History(
        {"validation": validation},
        every,
        report=report,
        log=out / "losses.jsonl" if args.process_index == 0 else None,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=train,
        processing_class=tokenizer,
        data_collator=_collator(model, tokenizer, fused),
        callbacks=[history.callback()],
    )
    if trainer.is_world_process_zero():
        trainer.add_callback(TensorBoardLogger(out, cfg).callback(history))
    trainer.remove_callback(PrinterCallback)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    report(
        f"{n_trained:,} weights train on {len(train):,} examples, {n_steps:,} steps of {cfg.batch_size} x "
        f"{cfg.grad_accumulation}, {args.world_size} processes, {trainer.accelerator.distributed_type.value}"
    )
    with fast_matmul(machine.device, longest), refuse_remote_code(checkpoint or cfg.model):
        trainer.train(resume_from_checkpoint=checkpoint)
    losses = history.losses["validation"]
    report(
        f"done: {losses[0]:.4f} to {losses[-1]:.4f} nats/token on {len(validation):,} examples; "
        f"saved in {_save(trainer, out, cfg)}"
    )
    return list(zip(history.steps, losses, strict=True))


def examples(cfg, tokenizer) -> tuple:
    """(to train on, to measure): Datasets of input_ids and labels, as the lesson makes them."""
    if isinstance(cfg, FullFinetune):
        pairs = pair_sets(cfg)
        return tuple(
            tokenize_pairs(
                pairs[name],
                tokenizer,
                cfg.max_length,
                source=name,
                max_invalid_fraction=cfg.max_invalid_fraction,
            )
            for name in ("train", "validation")
        )
    if isinstance(cfg, LoraFinetune):
        return _blocks(cfg, tokenizer)
    from lmlab.data.reasoning import easy_first

    sets = reasoning_sets(cfg, tokenizer)
    train = easy_first(sets["train"]) if cfg.order == "easy_first" else sets["train"]
    return tuple(tokenize_conversations(rows, tokenizer) for rows in (train, sets["validation"]))


def _blocks(cfg: LoraFinetune, tokenizer) -> tuple:
    from datasets import Dataset

    from lmlab.data.packing import pack

    tokenizer.model_max_length = int(1e9)  # texts are cut into blocks here
    texts = usable_texts(load_rows(cfg.data, "train", limit=cfg.n_train), cfg.data)
    seen = {text.strip() for text in texts}
    held_out = [
        text
        for text in usable_texts(load_rows(cfg.data, "validation", limit=cfg.n_validation), cfg.data)
        if text.strip() not in seen
    ]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens = pack(ids, eos_id(tokenizer)).tolist()
    T = cfg.block_size
    blocks = [tokens[i : i + T] for i in range(0, len(tokens) - T + 1, T)]
    labels = [[IGNORE_INDEX, *row[1:]] for row in blocks]
    return Dataset.from_dict({"input_ids": blocks, "labels": labels}), document_windows(
        held_out, tokenizer, T
    )


def check_examples(cfg, tokenizer, sets: Mapping, say: Callable[[str], None]) -> None:
    """The preflight of what would be trained on and measured, as in notebook 06, before weights are loaded.

    Lesson 05's blocks of plain text have no prompt, no answer and no padding that could be wrong.

    Args:
        cfg: The recipe.
        tokenizer: What made the examples.
        sets: name -> Dataset of input_ids and labels.
        say: Is told the result for each set.

    Raises:
        ValueError: A check failed; the error names each that did.
    """
    if isinstance(cfg, LoraFinetune):
        return
    before_answer = PROMPT.rpartition("}")[2] if isinstance(cfg, FullFinetune) else None
    collate = completion_only_collator(tokenizer)
    for name, rows in sets.items():
        found = preflight(rows, tokenizer, collate, max_length=cfg.max_length, opening=before_answer)
        say(f"preflight of {name}: {found.summary()}")
        found.require()


def build_model(cfg, machine, bits: int = 4):
    """All of the model to train (04), or an adapter beside frozen weights of 4 or 16 bits (05, 06).

    Weights in pieces are float32, whatever bits says: FSDP wants one dtype, and computes in the machine's.
    """
    if isinstance(cfg, FullFinetune):
        model = load_model(cfg.model)
        freeze_layers(model, cfg.frozen_layers)
        return model
    import torch

    base = (
        load_four_bit(cfg.model, machine)
        if bits == 4
        else load_model(cfg.model, dtype=torch.float32 if in_pieces() else machine.torch_dtype)
    )
    return with_lora(base, cfg)


def with_lora(base, cfg):
    """A PeftModel of a loaded base: the recipe's adapter in float32, all else frozen, TRL's chunked head."""
    from peft import LoraConfig, get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    base.requires_grad_(False)
    add_fused_lm_head(base)
    lora = LoraConfig(
        r=cfg.lora_r,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        target_modules=cfg.target_modules,
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, lora)
    trainable_to_float32(model)
    return model


def _collator(model, tokenizer, fused: bool):
    collate = completion_only_collator(tokenizer)
    return (lambda rows: collate(rows) | {"fused_lm_head": True}) if fused else collate  # logits in pieces


def _prepare_folder(cfg, bits: int, out: Path, trainer_folder: Path, report) -> str | None:
    """The checkpoint to go on from, None to begin anew; notes the choices. One process does it for all.

    Raises ValueError, in each process, where a finished run, or one of other choices, lies in ``out``.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    found: list = [None, None]  # (the checkpoint, what is wrong)
    if PartialState().is_main_process:
        try:
            found[0] = _find_earlier(cfg, bits, out, trainer_folder, report)
        except ValueError as error:
            found[1] = str(error)
    broadcast_object_list(found)
    if found[1]:
        raise ValueError(found[1])
    return found[0]


def _find_earlier(cfg, bits: int, out: Path, trainer_folder: Path, report) -> str | None:
    now = json.dumps({**dataclasses.asdict(cfg), "bits": bits}, default=str, indent=1)
    note = out / "choices.json"
    same_choices = note.exists() and note.read_text(encoding="utf-8") == now
    if any((out / name).exists() for name in ("adapter", "model")):
        if same_choices:
            remove_checkpoints(trainer_folder)  # it was killed before it had done this itself
        raise ValueError(f"{out} holds a finished run; give another --out, or remove it")
    if trainer_checkpoints(trainer_folder) and note.exists() and not same_choices:
        raise ValueError(f"{out} holds an unfinished run of other choices; give another --out, or remove it")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(note, now)
    checkpoint = find_resumable_checkpoint(trainer_folder, report)
    return None if checkpoint is None else str(checkpoint)


def _save(trainer, out: Path, cfg) -> Path:
    """The whole of what trained, from every process's piece, and the tokenizer.

    Not by the Trainer (transformers 5.23, peft 0.21): with tied weights in pieces it fails, and of an
    adapter whose layers FSDP has wrapped the file is empty.
    """
    folder = out / ("model" if isinstance(cfg, FullFinetune) else "adapter")
    state = _whole_state(trainer)
    if trainer.args.should_save:
        with replace_folder(folder) as new:
            if isinstance(cfg, FullFinetune):
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


def _save_adapter(config, state: dict, folder: Path, cfg) -> None:
    from safetensors.torch import save_file

    config.base_model_name_or_path, config.inference_mode = cfg.model, True
    config.save_pretrained(str(folder))
    adapter = {
        name.replace(".default.", "."): tensor.contiguous()
        for name, tensor in state.items()
        if "lora_" in name
    }
    save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _whole_state(trainer) -> dict:
    """All weights, in the first process at least. Every process must ask: each has its pieces."""
    if not trainer.is_fsdp_enabled:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    # accelerate 1.15 gives FSDP2's pieces as they are
    return {
        name: value.full_tensor().cpu() if hasattr(value, "full_tensor") else value
        for name, value in trainer.model.state_dict().items()
    }
