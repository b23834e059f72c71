"""Fine-tuning: what the notebooks need around the trainers of transformers and TRL, which they call."""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmlab import augmentation
from lmlab.analysis import normalised
from lmlab.answers import score_think
from lmlab.chat_template import labels_by_hand, prompt_text, stop_token_ids
from lmlab.checkpoints import (
    complete_checkpoints,
    find_resumable_checkpoint,
    remove_checkpoints,
    trainer_checkpoints,
)
from lmlab.data import load_rows, split_indices
from lmlab.files import replace_folder, write_atomic, write_jsonl
from lmlab.pairs import BadRow, leave_out, usable_pairs, usable_texts
from lmlab.reasoning import question_of, split_by_problem, think_rows
from lmlab.results import report_progress
from lmlab.token_view import IGNORED

# --- full fine-tuning on pairs ---------------------------------------------------------------------

PROMPT = "Convert to Shakespearean: {modern}\nShakespearean:"


def pair_sets(cfg) -> dict[str, list[dict[str, str]]]:
    """The pairs of lesson 04: "small" and "small_validation" (as careless scripts split them), "train" and
    "validation", which shares no modern sentence with any of the others.

    Where ``small_data`` and ``data`` are one source, its first rows are the small set, the rest is shuffled. A file is
    checked whole and then divided, so that the rows that are shown have the numbers of the file. Rows that cannot be
    used are left out (``lmlab.pairs.usable_pairs``). Raises ValueError when more than
    ``max_bad_share`` of a source are such, and when a source has too few rows.
    """
    n_small = cfg.small_train + cfg.small_validation
    found = _usable(cfg, cfg.small_data, "all")
    small = found[:n_small]
    if cfg.small_data == cfg.data or Path(cfg.data).expanduser().is_file():
        rest = found[n_small:] if cfg.small_data == cfg.data else _usable(cfg, cfg.data, "all")
        train, validation = (
            [rest[i] for i in split_indices(len(rest), part, cfg.seed)] for part in ("train", "validation")
        )
    else:
        train, validation = (
            _usable(cfg, cfg.data, part, n)
            for part, n in (("train", cfg.n_train), ("validation", cfg.n_validation))
        )
    validation = _unseen(validation, small)[: cfg.n_validation]
    sets = {
        "small": small[: cfg.small_train],
        "small_validation": small[cfg.small_train :],
        "train": _unseen(train, validation)[: cfg.n_train],
        "validation": validation,
    }
    for name, pairs in sets.items():
        if len(pairs) < 20:
            sources = " and ".join(dict.fromkeys((cfg.small_data, cfg.data)))
            raise ValueError(
                f"{name} got {len(pairs)} pairs from {sources}, and needs 20; give more, or smaller "
                f"small_train ({cfg.small_train}) and small_validation, which take theirs first"
            )
    return sets


def _usable(cfg, source: str, part: str, n: int | None = None) -> list[dict]:
    seed = 0 if part == "all" else cfg.seed  # the small set is one and the same whatever the recipe's seed
    rows = load_rows(source, part, n, seed, cfg.max_bad_share)
    return usable_pairs(rows, source if part == "all" else f"{part} of {source}", cfg.max_bad_share)


def _unseen(rows: list[dict], others: list[dict]) -> list[dict]:
    """Those of ``rows`` whose modern side, normalised, is in none of ``others``."""
    seen = {normalised(row["modern"]) for row in others}
    return [row for row in rows if normalised(row["modern"]) not in seen]


def pair_examples(
    rows: Sequence[Mapping],
    tokenizer,
    max_length: int,
    *,
    prompt_loss: bool = False,
    source: str = "the pairs",
    max_bad_share: float = 1.0,
):
    """Pairs as token ids with labels: a ``datasets.Dataset`` of input_ids and labels, both (T,), unpadded.

    Prompt and answer are cut into tokens apart, so that the line between them is where the mask ends: labels
    of the prompt are -100, those of the answer and of the EOS after it are the tokens. prompt_loss: every
    token is a label, but the first, before which there is nothing. Pairs of more than ``max_length`` tokens
    are left out, not cut: a cut answer would have no EOS. Says how many, by the name ``source``. Raises
    ValueError when they are more than ``max_bad_share`` of all, when none is left, or when the tokenizer has no
    EOS.
    """
    from datasets import Dataset

    if not rows:
        raise ValueError(f"pair_examples got no rows of {source}; give one or more")
    eos = eos_id(tokenizer)
    prompts = [PROMPT.format(modern=row["modern"]) for row in rows]
    answers = [" " + row["shakespearean"] for row in rows]
    ids = [
        tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] for texts in (prompts, answers)
    ]
    pairs = [(prompt, [*answer, eos]) for prompt, answer in zip(*ids, strict=True)]
    why = f"longer than max_length, {max_length} tokens"
    long = [
        BadRow(i, why, prompts[i])
        for i, (prompt, answer) in enumerate(pairs)
        if len(prompt) + len(answer) > max_length
    ]
    if len(long) == len(pairs):
        raise ValueError(f"max_length got {max_length}, and no pair is that short; raise it")
    leave_out(long, len(pairs), source, max_bad_share)
    kept = [pairs[i] for i in sorted(set(range(len(pairs))) - {row.row for row in long})]
    n_masked = [1 if prompt_loss else len(prompt) for prompt, _ in kept]
    ids = [prompt + answer for prompt, answer in kept]
    return Dataset.from_dict(
        {"input_ids": ids, "labels": [[IGNORED] * n + row[n:] for n, row in zip(n_masked, ids, strict=True)]}
    )


def eos_id(tokenizer) -> int:
    """The tokenizer's EOS. Raises ValueError for one without: nothing would teach where a text ends."""
    if tokenizer.eos_token_id is None:
        raise ValueError("eos_token of the tokenizer is None, and a text to train on must end; set one")
    return tokenizer.eos_token_id


def _pad_id(tokenizer) -> int:
    """What fills up a row; EOS where the tokenizer is published without a pad token, as GPT-2's and Llama's."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def answer_only_collator(tokenizer):
    """A data collator that pads at the end: ids with the pad token (or EOS), attention 0, labels -100.

    What is padding is known from the lengths, not from the token: a pad token equal to EOS does no harm.
    The batch is {"input_ids", "attention_mask", "labels"}, each (B, T).
    """
    import torch

    pad = _pad_id(tokenizer)

    def collate(examples: Sequence[Mapping]) -> dict:
        width = max(len(example["input_ids"]) for example in examples)
        columns = {"input_ids": pad, "attention_mask": 0, "labels": IGNORED}
        rows = [{**example, "attention_mask": [1] * len(example["input_ids"])} for example in examples]
        return {
            name: torch.tensor([[*row[name], *[fill] * (width - len(row[name]))] for row in rows])
            for name, fill in columns.items()
        }

    return collate


def answer_loss(model, examples, batch_tokens: int = 1024) -> dict:
    """Loss on the answers alone, each answer token and each EOS counted once, prompt and padding never.

    examples: from ``pair_examples``. Returns loss (nats per token), perplexity, token_accuracy, tokens,
    eos_probability (mean, of the EOS after the whole answer), and per pair, for intervals: nats, counts (n,).
    """
    import numpy as np

    from lmlab.evaluate import score_tokens

    starts = [labels.count(IGNORED) for labels in examples["labels"]]
    scores = score_tokens(model, list(examples["input_ids"]), starts, batch_tokens)
    nats = np.array([-score.logprobs.sum() for score in scores])
    counts = np.array([len(score.logprobs) for score in scores])
    loss = float(nats.sum() / counts.sum())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "tokens": int(counts.sum()),
        "token_accuracy": float(sum(score.hits.sum() for score in scores) / counts.sum()),
        "eos_probability": float(np.mean([math.exp(score.logprobs[-1]) for score in scores])),
        "nats": nats,
        "counts": counts,
    }


def training_arguments(
    folder: str | Path,
    machine,
    *,
    epochs: float,
    batch_size: int,
    learning_rate: float,
    grad_accumulation: int = 1,
    seed: int = 0,
    checkpoint_every: float | None = None,
    **others,
):
    """``TrainingArguments`` whose number format is the machine's.

    Weights stay float32 and the forward pass runs in bf16 or fp16 where the machine has it. Warm-up over the
    first twentieth of the steps, then a straight line down to 0. checkpoint_every: optimizer steps between two
    checkpoints (below 1: the fraction of all steps), of which the last two are kept. others: any further
    TrainingArguments.
    """
    from transformers import TrainingArguments

    if checkpoint_every is not None:
        others = {"save_strategy": "steps", "save_steps": checkpoint_every, "save_total_limit": 2} | others
    choices = {
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,
        "weight_decay": 0.01,
        "logging_steps": 10,
        "save_strategy": "no",
        "disable_tqdm": True,
    } | others
    if "activation_checkpointing" in choices and not hasattr(TrainingArguments, "activation_checkpointing"):
        choices["gradient_checkpointing"] = choices.pop(
            "activation_checkpointing"
        )  # before transformers 5.23
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=grad_accumulation,
        learning_rate=learning_rate,
        seed=seed,
        bf16=machine.bf16,
        fp16=machine.fp16,
        use_cpu=machine.use_cpu,
        **choices,
    )


def stopping_point(losses: Sequence[float], patience: int | None) -> int | None:
    """The measurement after which training stops: ``patience`` in a row brought no new lowest loss. Or None."""
    best = 0
    for i, loss in enumerate(losses):
        best = i if loss < losses[best] else best
        if patience is not None and i - best >= patience:
            return i
    return None


@dataclass
class History:
    """Losses on fixed sets of examples in the course of a training, all measured at the same moments.

    sets: name -> examples; "validation" must be among them. every: optimizer steps between two measurements
    (the first is before training, the last at its end). folder: where the model is kept, if given: that with
    the lowest validation loss, or the last where ``keep_best`` is false; with the tokenizer, if given. patience:
    training stops after so many measurements without a new lowest validation loss. progress: called with each
    step and validation loss, if given. log: a .jsonl file of them, if given. report: is told of each measurement.
    seconds: what measuring took. elapsed: what training and measuring took, over all sessions of a run that was
    interrupted.
    """

    sets: Mapping
    every: int
    folder: Path | None = None
    progress: Callable[[int, float], None] | None = None
    patience: int | None = None
    keep_best: bool = True
    tokenizer: object = None
    log: Path | None = None
    report: Callable[[str], None] = print
    steps: list[int] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    elapsed: float = 0.0

    @property
    def best(self) -> int:
        """The measurement with the lowest validation loss."""
        return self.losses["validation"].index(min(self.losses["validation"]))

    def measure(self, model, step: int, epoch: float) -> None:
        begun = time.perf_counter()
        now = {name: answer_loss(model, examples)["loss"] for name, examples in self.sets.items()}
        for name, loss in now.items():
            self.losses.setdefault(name, []).append(loss)
        self.steps.append(step)
        self.epochs.append(epoch)
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in now.items())
        self.report(f"step {step:>6,}  epoch {epoch:5.2f}  {shown}")
        if self.progress is not None:
            self.progress(step, now["validation"])
        self._write_log()
        if self.folder is not None and (not self.keep_best or self.best == len(self.steps) - 1):
            with replace_folder(self.folder) as new:
                model.save_pretrained(str(new))
                if self.tokenizer is not None:
                    self.tokenizer.save_pretrained(str(new))
        self.seconds += time.perf_counter() - begun

    def _write_log(self) -> None:
        if self.log is not None:
            write_jsonl(
                self.log,
                (
                    {"step": step, "loss": loss}
                    for step, loss in zip(self.steps, self.losses["validation"], strict=True)
                ),
            )

    def save(self, folder: Path) -> None:
        """Puts the kept model and the measurements into a checkpoint."""
        if self.folder is not None and self.folder.exists():
            shutil.copytree(self.folder, folder / "kept")
        state = {name: getattr(self, name) for name in ("steps", "epochs", "losses", "seconds", "elapsed")}
        write_atomic(folder / _MEASURED, json.dumps(state))

    def load(self, folder: Path) -> None:
        """Takes over what ``save`` has put into a checkpoint, in place of what came after it."""
        for name, value in json.loads((folder / _MEASURED).read_text(encoding="utf-8")).items():
            setattr(self, name, value)
        self._write_log()
        if self.folder is not None and (folder / "kept").exists():  # it may have been overwritten since
            with replace_folder(self.folder) as new:
                shutil.copytree(folder / "kept", new, dirs_exist_ok=True)

    def callback(self):
        """A TrainerCallback that measures, stops in time, and takes up the measurements of a resumed run.

        It does what ``complete_checkpoints`` does, too. Every process measures: weights in pieces answer only
        where all ask.
        """
        from transformers import TrainerCallback

        history, checkpoints = self, complete_checkpoints(before_mark=self.save)

        class Measure(TrainerCallback):
            def clock(self) -> None:
                history.elapsed += time.perf_counter() - self.looked
                self.looked = time.perf_counter()

            def on_train_begin(self, args, state, control, model=None, **_):
                self.looked = time.perf_counter()
                checkpoints.on_train_begin(args, state, control)
                if state.global_step:
                    history.load(Path(args.output_dir) / f"checkpoint-{state.global_step}")
                else:
                    history.measure(model, 0, 0.0)

            def on_step_end(self, args, state, control, model=None, **_):
                if state.global_step % history.every == 0 or state.global_step == state.max_steps:
                    history.measure(model, state.global_step, state.epoch)
                stop = stopping_point(history.losses["validation"], history.patience) is not None
                control.should_training_stop |= stop

            def on_save(self, args, state, control, **_):
                self.clock()
                checkpoints.on_save(args, state, control)

            def on_train_end(self, args, state, control, **_):
                self.clock()

        return Measure()


_MEASURED = "history.json"


def progress_callback(out: Path, metric: str):
    """A TrainerCallback that notes each eval_loss in out/progress.jsonl, as ``metric`` of metrics.json.

    A search that looks for this metric can then end a trial that falls behind.
    """
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics=None, **_):
            if state.is_world_process_zero and "eval_loss" in (metrics or {}):
                report_progress(out, state.global_step, **{metric: metrics["eval_loss"]})

    return Progress()


def unfinished(folder: Path, choices: Mapping, examples) -> str | None:
    """The newest complete checkpoint of an interrupted run with the same choices and examples; None: there is none.

    It is what ``trainer.train(resume_from_checkpoint=...)`` takes. Checkpoints of another run are removed, and
    it is said why: going on from them would give a run that no recipe describes.
    """
    rows = json.dumps({name: examples[name][:] for name in examples.column_names})
    now = json.loads(
        json.dumps({**choices, "examples": hashlib.sha256(rows.encode()).hexdigest()}, default=str)
    )
    note = folder / "choices.json"
    found = trainer_checkpoints(folder)
    then = json.loads(note.read_text(encoding="utf-8")) if found and note.exists() else {}
    if found and then != now:
        other = sorted(key for key in {**then, **now} if then.get(key) != now.get(key))
        print(f"the checkpoints in {folder} are of another run (other: {', '.join(other)}): removed")
        remove_checkpoints(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(note, json.dumps(now))
    checkpoint = find_resumable_checkpoint(folder)
    return None if checkpoint is None else str(checkpoint)


def stop_after(step: int):
    """A TrainerCallback that ends a training after ``step`` optimizer steps, whatever its schedule foresaw."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop |= state.global_step >= step

    return Stop()


def freeze_layers(model, n: int) -> int:
    """Freezes the embeddings and the first ``n`` blocks of a GPT-2; 0: nothing. Returns the weights that train.

    The output head is the token embedding, so it is frozen with it. Raises ValueError for more blocks than
    there are, which would leave nothing but the last norm.
    """
    blocks = model.transformer.h
    if not 0 <= n < len(blocks):
        raise ValueError(
            f"frozen_layers got {n}; give 0 to {len(blocks) - 1}, the model has {len(blocks)} blocks"
        )
    frozen = [model.transformer.wte, model.transformer.wpe, *blocks[:n]] if n else []
    for module in frozen:
        module.requires_grad_(False)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def translate(model, tokenizer, rows: Sequence[Mapping], max_new_tokens: int = 64, **settings) -> list[str]:
    """The greedy translation of each pair's modern side, without blanks at its ends. settings: of ``generate``."""
    prompts = [PROMPT.format(modern=row["modern"]) for row in rows]
    return [text.strip() for text in generate_greedy(model, tokenizer, prompts, max_new_tokens, **settings)]


# --- full fine-tuning on plain text ----------------------------------------------------------------


def plain_texts(source: str, split: str, seed: int = 0) -> list[str]:
    """The texts (column "text") of a source; the paragraphs of a .txt file are one text again."""
    texts = usable_texts(load_rows(source, split, seed=seed), source)
    return ["\n\n".join(texts)] if source.endswith(".txt") else texts


def packed_windows(texts: Sequence[str], tokenizer, block_size: int):
    """Texts end to end, each after an EOS, cut into windows: a Dataset of input_ids and labels, both (T,).

    T is ``block_size``; what remains at the end is left out. Nothing is padded, and every token bears loss but
    the first of a window, before which there is nothing. ``answer_loss`` takes the windows as examples.
    Raises ValueError for less text than two windows.
    """
    from datasets import Dataset

    eos = eos_id(tokenizer)
    rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    tokens = [token for row in rows for token in (eos, *row)] + [eos]
    windows = [tokens[i : i + block_size] for i in range(0, len(tokens) - block_size + 1, block_size)]
    if len(windows) < 2:
        raise ValueError(
            f"style_block_size got {block_size}, and the text has {len(tokens)} tokens; "
            "lower it or give more text"
        )
    return Dataset.from_dict({"input_ids": windows, "labels": [[IGNORED, *window[1:]] for window in windows]})


def document_windows(texts: Sequence[str], tokenizer, max_length: int):
    """Each text as ``evaluate.perplexity`` reads it: bos, text, eos, in windows of ``max_length`` tokens.

    A Dataset of input_ids and labels, both (T,). A window's first token is the last of the one before and
    no label, so that ``answer_loss`` of the windows is the loss of ``perplexity``.
    """
    from datasets import Dataset

    eos = eos_id(tokenizer)
    bos = eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    rows = [[bos, *row, eos] for row in ids]
    windows = [row[i : i + max_length] for row in rows for i in range(0, len(row) - 1, max_length - 1)]
    return Dataset.from_dict({"input_ids": windows, "labels": [[IGNORED, *window[1:]] for window in windows]})


def optimizer_name(choice: str, machine) -> str:
    """What TrainingArguments calls an optimizer: "adamw_torch", or "adamw_8bit", whose moments take a byte each.

    Source: Dettmers et al. 2022. Raises ValueError where the machine cannot: bitsandbytes' needs a CUDA GPU.
    """
    if choice == "adamw_8bit" and machine.device != "cuda":
        raise ValueError(
            f"optimizer adamw_8bit got device {machine.device!r}; it needs a CUDA GPU: give adamw_torch"
        )
    return {"adamw_torch": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}[choice]


# --- 4-bit bases and adapters ----------------------------------------------------------------------


def four_bit_config(machine):
    """The BitsAndBytesConfig of QLoRA: NF4, double quantisation, matrices multiplied in the machine's dtype.

    Source: Dettmers et al. 2023, sections 2 and 3. Raises ValueError where the machine has no 4-bit kernels.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if not machine.four_bit:
        raise ValueError(
            f"4-bit weights got device {machine.device!r}, where bitsandbytes cannot compute; "
            "use a CPU or CUDA machine, and check that bitsandbytes is installed"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, machine.compute_dtype),
    )


def load_four_bit(source: str, machine, config=None):
    """The causal model of a source with its linear layers in 4 bits, safe to train and to evaluate in turn.

    config: a BitsAndBytesConfig, ``four_bit_config(machine)`` by default. What is not quantised (embeddings,
    norms) is in the machine's dtype.
    """
    import torch

    from lmlab.data import load_model

    config = four_bit_config(machine) if config is None else config
    # of several GPUs, the one that this process has chosen
    place = {"device_map": {"": torch.cuda.current_device()}} if machine.device == "cuda" else {}
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

    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }


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
    """SHA-256 over the bytes of all that does not train, packed 4-bit weights and their scales among it."""
    import torch

    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            for tensor in (parameter.data, *_constants(getattr(parameter, "quant_state", None))):
                digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).cpu().numpy().tobytes())
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
            sizes["constants"] += sum(t.nbytes for t in _constants(parameter.quant_state))
            sizes["float16"] += 2 * parameter.quant_state.shape.numel()
        elif parameter.requires_grad:
            sizes["trainable"] += n_bytes
        else:
            sizes["other"] += n_bytes
            sizes["float16"] += 2 * parameter.numel()
    return sizes


def _constants(state) -> list:
    """Scales of the blocks; with double quantisation these are bytes with float32 scales and a mean.

    The code books (16 and 256 numbers, the same for every layer) are left out. state None: not in 4 bits, none.
    """
    if state is None:
        return []
    return [state.absmax, *([state.state2.absmax, state.offset] if state.nested else [])]


def optimizer_bytes(optimizer) -> int:
    """Bytes of an optimizer's state, such as Adam's two moments, counted from its tensors."""
    import torch

    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    )


# --- problems to think about -----------------------------------------------------------------------


def think_sets(cfg, tokenizer) -> dict[str, list[dict]]:
    """The problems of lesson 06 in think form, each checked: "train", "validation", "test" and "harder".

    No problem of train, in any version, is in one of the others. "validation" chooses the best model, "test"
    and "harder" measure it. harder: held-out problems of more than ``trained_steps`` steps; train has none of
    these. Problems whose conversation is longer than ``max_length`` serve to test alone. With ``redrawn``,
    train has so many versions more of each problem, with other numbers, as far as that is safe. Says what is
    left out.
    Raises ValueError when a set is empty.
    """
    train, held_out = [], []
    for source in cfg.data:
        for side, rows in zip((train, held_out), _divided(cfg, source), strict=True):
            side += rows
    held_out = [
        held_out[i] for part in ("train", "validation") for i in split_indices(len(held_out), part, cfg.seed)
    ]
    easy = [row for row in held_out if not _is_harder(cfg, row)]
    validation = _short_enough(easy, tokenizer, cfg.max_length)[: min(cfg.n_validation, len(easy) // 2)]
    sets = {
        "train": [row for row in train if not _is_harder(cfg, row)],
        "validation": validation,
        "test": _not_in(easy, validation)[: cfg.n_eval],
        "harder": [row for row in held_out if _is_harder(cfg, row)][: cfg.n_harder],
    }
    sets["train"] = _short_enough(_not_in(sets["train"], easy + sets["harder"]), tokenizer, cfg.max_length)[
        : cfg.n_train
    ]
    copies = augmentation.redrawn_problems(sets["train"], cfg.redrawn, cfg.seed)
    sets["train"] += _short_enough(_not_in(copies, sets["train"] + held_out), tokenizer, cfg.max_length)
    empty = [name for name in ("train", "validation", "test") if not sets[name]]
    if empty:
        raise ValueError(
            f"{', '.join(empty)} got no problem from {', '.join(cfg.data)}; give more data, or a "
            f"larger max_length than {cfg.max_length}"
        )
    return sets


def _divided(cfg, source: str) -> tuple[list[dict], list[dict]]:
    """(train, held out) of one source. A miniworld comes divided: its bases have read none of the held-out."""
    checks = {"max_bad_share": cfg.max_bad_share, "tolerance": cfg.answer_tolerance}
    if source.startswith("miniworld/"):
        sizes = {"train": cfg.n_train, "validation": cfg.n_eval + cfg.n_validation}
        train, held_out = (
            think_rows(load_rows(source, part, n, cfg.seed), f"{part} of {source}", **checks)
            for part, n in sizes.items()
        )
        return train, held_out
    rows = think_rows(load_rows(source, "all", cfg.n_rows, max_bad_share=cfg.max_bad_share), source, **checks)
    return split_by_problem(rows, seed=cfg.seed, near=cfg.near_duplicate)


def _is_harder(cfg, row: Mapping) -> bool:
    return cfg.trained_steps is not None and row["steps"] is not None and row["steps"] > cfg.trained_steps


def _short_enough(rows: Sequence[dict], tokenizer, max_length: int) -> list[dict]:
    """Those with a solution whose conversation fits; a cut one would lack its end, and teach not to stop."""
    solved = [row for row in rows if row["completion"] is not None]
    return [row for row in solved if len(labels_by_hand(tokenizer, row)[0]) <= max_length]


def _not_in(rows: Sequence[dict], others: Sequence[dict]) -> list[dict]:
    """Those of ``rows`` whose question, to a reader, is in none of ``others``."""
    seen = {normalised(question_of(row)) for row in others}
    return [row for row in rows if normalised(question_of(row)) not in seen]


@dataclass(frozen=True)
class Tried:
    """What a model wrote for some problems; all (n_problems,)."""

    texts: list[str]
    well_formed: list[bool]
    correct: list[bool]
    lengths: list[int]  # tokens written, the end not counted


def try_problems(
    model, tokenizer, rows: Sequence[Mapping], max_new_tokens: int, batch_size: int = 64
) -> Tried:
    """Lets the model answer problems (of ``think_sets``), likeliest token by token, and scores the answers."""
    prompts = [prompt_text(tokenizer, row["prompt"]) for row in rows]
    texts = generate_greedy(model, tokenizer, prompts, max_new_tokens, batch_size)
    scores = [
        score_think(text, row["answer"], row["tolerance"], row["unit"])
        for text, row in zip(texts, rows, strict=True)
    ]
    return Tried(
        texts,
        [score["well_formed"] for score in scores],
        [score["correct"] for score in scores],
        [len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts],
    )


def best_optimizer(machine) -> str:
    """QLoRA's: AdamW with averages of a byte each in pages that may leave the GPU; elsewhere plain AdamW.

    Source: Dettmers et al. 2023, section 3. Says which and why.
    """
    name = "paged_adamw_8bit" if machine.device == "cuda" else "adamw_torch_fused"
    why = (
        "a CUDA GPU" if machine.device == "cuda" else f"paging needs a CUDA GPU, and this is {machine.device}"
    )
    print(f"{name}: {why}")
    return name


def folder_bytes(folder: Path) -> int:
    """What all files of a folder take on disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# --- conversations ---------------------------------------------------------------------------------


def conversation_examples(rows: Sequence[Mapping], tokenizer):
    """Conversations as token ids with labels (``labels_by_hand``): a ``datasets.Dataset`` for any trainer.

    Columns input_ids and labels, both (T,), unpadded.
    """
    from datasets import Dataset

    ids, labels = zip(*[labels_by_hand(tokenizer, row) for row in rows], strict=True)
    return Dataset.from_dict({"input_ids": list(ids), "labels": list(labels)})


def generate_greedy(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 64, **settings
) -> list[str]:
    """What the model writes after each prompt, likeliest token by token, without special tokens.

    prompts are texts with their special tokens in them. Batches are padded on the left, so that every prompt
    ends where its answer begins; those of like length go together. An answer ends at any of the stop tokens
    (``stop_token_ids``), after ``max_new_tokens``, or where the model's context does. settings: any further
    ones of ``generate``. Raises ValueError for a prompt that fills the context.
    """
    return _generate(model, tokenizer, prompts, max_new_tokens, batch_size, do_sample=False, **settings)


def generate_sampled(
    model,
    tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int,
    k: int,
    temperature: float,
    batch_size: int = 64,
    seed: int = 0,
) -> list[list[str]]:
    """``k`` answers to each prompt, drawn token by token from the softmax of logits / temperature."""
    import torch

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    repeated = [prompt for prompt in prompts for _ in range(k)]
    texts = _generate(
        model,
        tokenizer,
        repeated,
        max_new_tokens,
        batch_size,
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
    )
    torch.set_rng_state(state)
    return [texts[i : i + k] for i in range(0, len(texts), k)]


def _generate(
    model, tokenizer, prompts: Sequence[str], max_new_tokens: int, batch_size: int, **choices
) -> list[str]:
    import torch

    from lmlab.evaluate import context_length

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers, was_training = [""] * len(prompts), model.training
    pad, stops = _pad_id(tokenizer), stop_token_ids(model, tokenizer)
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = tokenizer([prompts[i] for i in batch], add_special_tokens=False)["input_ids"]
        width = max(map(len, ids))
        if (room := context_length(model) - width) < 1:
            raise ValueError(
                f"a prompt has {width} tokens, the model's context {context_length(model)}; cut the text"
            )
        padded = torch.tensor(
            [[pad] * (width - len(row)) + row for row in ids], device=model.device
        )  # (B, T)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
        with torch.no_grad():
            written = model.generate(
                input_ids=padded,
                attention_mask=mask,
                use_cache=True,
                max_new_tokens=min(max_new_tokens, room),
                pad_token_id=pad,
                eos_token_id=stops or None,
                **choices,
            )
        texts = tokenizer.batch_decode(
            [_until_stop(row, stops) for row in written[:, width:].tolist()], skip_special_tokens=True
        )
        for i, text in zip(batch, texts, strict=True):
            answers[i] = text
    model.train(was_training)
    return answers


def _until_stop(ids: list[int], stops: Sequence[int]) -> list[int]:
    """Without the end and what follows it: not every model's end is a special token, which decoding skips."""
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]


# --- adapters on disk ------------------------------------------------------------------------------


def save_adapter(model, folder: str | Path, source: str) -> Path:
    """Saves the adapter of a PeftModel alone, with the source of its base ("miniworld/llama", a hub id)."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = source
    with replace_folder(folder) as new:
        model.save_pretrained(
            str(new), save_embedding_layers=False, selected_adapters=["default"]
        )  # TRL may add one
    return Path(folder)
