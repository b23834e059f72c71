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
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from lmlab import finetune
from lmlab.board import Board
from lmlab.cost import many_logits
from lmlab.data import load_model, load_rows, load_tokenizer
from lmlab.hardware import describe_machine, fast_matmul
from lmlab.ranks import leave_ranks, silent
from lmlab.recipes import FullFinetune, LoraFinetune, Recipe, ThinkFinetune

EVALUATIONS = 4  # of lesson 04's recipes, which name none


def run_recipe(cfg: Recipe, out: Path, bits: int | None = None,
               report: Callable[[str], None] = print) -> list[tuple[int, float]]:
    """Carries out a recipe of lesson 04, 05 or 06 in folder ``out``; (step, validation loss), first to last.

    bits: 4 (the default) or 16, of the frozen weights beside an adapter. ``grad_accumulation`` of the recipe
    counts the batches of one step over all processes, so a step is the same for any number of them. Killed, it
    goes on from its last checkpoint when it is called again, where the recipe has ``checkpoint_every``. What is
    kept in the end are the last weights: "model" or "adapter" in ``out``.
    Raises ValueError for another lesson, a number of processes that does not divide a step, and 4 bits in pieces.
    """
    from accelerate import PartialState

    check_request(cfg, bits)
    machine = describe_machine()
    try:
        args = _arguments(cfg, out, machine)  # first: loading a model asks it where to put the weights
        first = PartialState().is_main_process
        with open(os.devnull, "w", encoding="utf-8") as null, redirect_stdout(sys.stdout if first else null):
            return _run(cfg, out, args, machine, bits or 4, report if first else silent)
    finally:
        leave_ranks()


def check_request(cfg: Recipe, bits: int | None) -> None:
    """Raises ValueError for what cannot be carried out, before anything is loaded."""
    if not isinstance(cfg, FullFinetune | LoraFinetune | ThinkFinetune):
        raise ValueError(f"finetune got lesson {cfg.lesson}; give 04, 05 or 06 (02: lmlab pretrain; "
                         "08 and 09: lmlab run)")
    if isinstance(cfg, FullFinetune) and bits is not None:
        raise ValueError(f"--bits got {bits}, and lesson 04 trains all weights, in 32; leave it out")
    if not isinstance(cfg, FullFinetune) and bits != 16 and in_pieces():
        raise ValueError("the launcher cuts the weights into pieces (FSDP or ZeRO-3), which packed 4-bit weights "
                         "do not bear; give --bits 16, or launch with ddp.yaml or deepspeed_zero2.yaml")
    if cfg.grad_accumulation % world():
        more = world() * math.ceil(cfg.grad_accumulation / world())
        raise ValueError(f"grad_accumulation got {cfg.grad_accumulation} batches for {world()} processes; "
                         f"give a multiple: --set grad_accumulation={more}")
    if getattr(cfg, "packing", False):
        raise ValueError("packing got true, which notebook 06 alone can; give --set packing=false")


def world() -> int:
    """How many processes the launcher started."""
    return int(os.environ.get("WORLD_SIZE", 1))


def in_pieces() -> bool:
    """Whether the launcher has weights cut into pieces, one for each process."""
    def says(name: str, value: str) -> bool:
        return os.environ.get(name, "").lower() == value

    zero_3 = says("ACCELERATE_USE_DEEPSPEED", "true") and says("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    return says("ACCELERATE_USE_FSDP", "true") or zero_3


def _arguments(cfg, out: Path, machine):
    order = "sequential" if getattr(cfg, "order", "") == "easy_first" else "random"
    # FSDP recomputes by itself, where its config says so
    by_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    recompute = getattr(cfg, "activation_checkpointing", False) and not by_fsdp
    return finetune.training_arguments(
        out / "trainer", machine, epochs=cfg.epochs, batch_size=cfg.batch_size, seed=cfg.seed,
        learning_rate=cfg.learning_rate, grad_accumulation=cfg.grad_accumulation // world(),
        checkpoint_every=getattr(cfg, "checkpoint_every", None), activation_checkpointing=recompute,
        ddp_find_unused_parameters=False,
        lr_scheduler_type="linear" if isinstance(cfg, FullFinetune) else "cosine", train_sampling_strategy=order)


def _run(cfg, out: Path, args, machine, bits: int, report) -> list[tuple[int, float]]:
    from transformers import PrinterCallback, Trainer, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    tokenizer = load_tokenizer(cfg.model)
    train, validation = examples(cfg, tokenizer)
    set_seed(cfg.seed)
    model = build_model(cfg, machine, bits)
    longest = max(map(len, train["input_ids"]))
    fused = not in_pieces() and not isinstance(cfg, FullFinetune) and many_logits(
        cfg.batch_size * longest, model.config.vocab_size)
    n_steps = math.ceil(len(train) / (cfg.batch_size * cfg.grad_accumulation)) * cfg.epochs
    every = math.ceil(n_steps / getattr(cfg, "evaluations", EVALUATIONS))
    history = finetune.History({"validation": validation}, every)
    trainer = Trainer(model, args, train_dataset=train, processing_class=tokenizer,
                      data_collator=_collator(model, tokenizer, fused),
                      callbacks=[_measuring(history, out, report)])
    if trainer.is_world_process_zero():
        trainer.add_callback(Board(out, cfg).callback(history))
    trainer.remove_callback(PrinterCallback)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    report(f"{n_trained:,} weights train on {len(train):,} examples, {n_steps:,} steps of {cfg.batch_size} x "
           f"{cfg.grad_accumulation}, {args.world_size} processes, {trainer.accelerator.distributed_type.value}")
    left = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    _same_choices(cfg, bits, out, left)
    with fast_matmul(machine.device, longest):
        trainer.train(resume_from_checkpoint=left)
    losses = history.losses["validation"]
    report(f"done: {losses[0]:.4f} to {losses[-1]:.4f} nats/token on {len(validation):,} examples; "
           f"saved in {_save(trainer, out, cfg)}")
    return list(zip(history.steps, losses, strict=True))


def examples(cfg, tokenizer) -> tuple:
    """(to train on, to measure): Datasets of input_ids and labels, as the lesson makes them."""
    if isinstance(cfg, FullFinetune):
        pairs = finetune.pair_sets(cfg)
        return tuple(
            finetune.pair_examples(pairs[name], tokenizer, cfg.max_length, source=name,
                                   max_bad_share=cfg.max_bad_share) for name in ("train", "validation"))
    if isinstance(cfg, LoraFinetune):
        return _blocks(cfg, tokenizer)
    from lmlab.reasoning import easy_first

    sets = finetune.think_sets(cfg, tokenizer)
    train = easy_first(sets["train"]) if cfg.order == "easy_first" else sets["train"]
    return _conversations(tokenizer, train), _conversations(tokenizer, sets["validation"])


def _blocks(cfg: LoraFinetune, tokenizer) -> tuple:
    from datasets import Dataset

    from lmlab.train import pack

    tokenizer.model_max_length = int(1e9)  # texts are cut into blocks here
    texts = [text for text in load_rows(cfg.data, "train", limit=cfg.n_train)["text"] if text.strip()]
    seen = {"", *(text.strip() for text in texts)}
    held_out = [text for text in load_rows(cfg.data, "validation", limit=cfg.n_validation)["text"]
                if text.strip() not in seen]
    tokens = pack(tokenizer(texts, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id).tolist()
    T = cfg.block_size
    blocks = [tokens[i:i + T] for i in range(0, len(tokens) - T + 1, T)]
    labels = [[finetune.IGNORED, *row[1:]] for row in blocks]
    return Dataset.from_dict({"input_ids": blocks, "labels": labels}), finetune.document_windows(held_out, tokenizer, T)


def _conversations(tokenizer, rows):
    from datasets import Dataset

    pairs = [finetune.labels_by_hand(tokenizer, row) for row in rows]
    ids, labels = zip(*pairs, strict=True)
    return Dataset.from_dict({"input_ids": list(ids), "labels": list(labels)})


def build_model(cfg, machine, bits: int = 4):
    """All of the model to train (04), or an adapter beside frozen weights of 4 or 16 bits (05, 06).

    Weights in pieces are float32, whatever bits says: FSDP wants one dtype, and computes in the machine's.
    """
    if isinstance(cfg, FullFinetune):
        model = load_model(cfg.model)
        finetune.freeze_layers(model, cfg.frozen_layers)
        return model
    import torch
    from peft import LoraConfig, get_peft_model
    from trl.trainer.utils import add_fused_lm_head

    base = (finetune.load_four_bit(cfg.model, machine) if bits == 4 else
            load_model(cfg.model, dtype=torch.float32 if in_pieces() else machine.torch_dtype)).requires_grad_(False)
    add_fused_lm_head(base)
    lora = LoraConfig(r=cfg.lora_r, lora_alpha=cfg.lora_alpha, lora_dropout=cfg.lora_dropout,
                      target_modules=cfg.target_modules, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    finetune.trainable_to_float32(model)
    return model


def _collator(model, tokenizer, fused: bool):
    collate = finetune.answer_only_collator(tokenizer)
    return (lambda rows: collate(rows) | {"fused_lm_head": True}) if fused else collate  # logits in pieces


def _measuring(history: finetune.History, out: Path, report):
    """A TrainerCallback that measures in every process: weights in pieces answer only where all ask."""
    from transformers import TrainerCallback

    class Measure(TrainerCallback):
        def measure(self, model, state) -> None:
            loss = finetune.answer_loss(model, history.sets["validation"])["loss"]
            history.steps.append(state.global_step)
            history.losses.setdefault("validation", []).append(loss)
            report(f"step {state.global_step:>6,}  validation {loss:.4f}")
            if state.is_world_process_zero:
                with (out / "losses.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": state.global_step, "loss": loss}) + "\n")

        def on_train_begin(self, args, state, control, model=None, **_):
            self.measure(model, state)

        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step % history.every == 0 or state.global_step == state.max_steps:
                self.measure(model, state)

    return Measure()


def _same_choices(cfg, bits: int, out: Path, left: str | None) -> None:
    """Raises ValueError where a finished run, or one of other choices, lies in ``out``; notes the choices."""
    from accelerate import PartialState

    now = json.dumps({**dataclasses.asdict(cfg), "bits": bits}, default=str, indent=1)
    note = out / "choices.json"
    if left is None and any((out / name).exists() for name in ("adapter", "model")):
        raise ValueError(f"{out} holds a finished run; give another --out, or remove it")
    if left and note.exists() and note.read_text(encoding="utf-8") != now:
        raise ValueError(f"{out} holds an unfinished run of other choices; give another --out, or remove it")
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        note.write_text(now, encoding="utf-8")
        if left is None:
            (out / "losses.jsonl").unlink(missing_ok=True)  # of a run that ended before its first checkpoint
    PartialState().wait_for_everyone()


def _save(trainer, out: Path, cfg) -> Path:
    """The whole of what trained, from every process's piece, and the tokenizer.

    Not by the Trainer (transformers 5.23, peft 0.21): with tied weights in pieces it fails, and of an
    adapter whose layers FSDP has wrapped the file is empty.
    """
    folder = out / ("model" if isinstance(cfg, FullFinetune) else "adapter")
    state = _whole_state(trainer)
    if trainer.args.should_save:
        if isinstance(cfg, FullFinetune):
            model = load_model(cfg.model)
            model.load_state_dict(state)
            model.save_pretrained(str(folder))
        else:
            model = trainer.accelerator.unwrap_model(trainer.model)
            _save_adapter(model.peft_config["default"], state, folder, cfg)
        trainer.processing_class.save_pretrained(str(folder))
        finetune.remove_checkpoints(Path(trainer.args.output_dir))
    trainer.accelerator.wait_for_everyone()
    return folder


def _save_adapter(config, state: dict, folder: Path, cfg) -> None:
    from safetensors.torch import save_file

    config.base_model_name_or_path, config.inference_mode = cfg.model, True
    config.save_pretrained(str(folder))
    adapter = {name.replace(".default.", "."): tensor.contiguous() for name, tensor in state.items()
               if "lora_" in name}
    save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _whole_state(trainer) -> dict:
    """All weights, in the first process at least. Every process must ask: each has its pieces."""
    if not trainer.is_fsdp_enabled:
        return trainer.accelerator.get_state_dict(trainer.model_wrapped)
    # accelerate 1.15 gives FSDP2's pieces as they are
    return {name: value.full_tensor().cpu() if hasattr(value, "full_tensor") else value
            for name, value in trainer.model.state_dict().items()}
