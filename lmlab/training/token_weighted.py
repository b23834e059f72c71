"""A Trainer's evaluation in which every token counts the same, on any number of processes."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from lmlab.models import IGNORE_INDEX

if TYPE_CHECKING:
    from transformers.trainer_utils import EvalLoopOutput


class TokenWeightedEvalMixin:
    """Makes ``eval_loss`` the mean over all tokens that have a label, in nats.

    The Trainer's own ``eval_loss`` is a mean over batches of means over tokens, so it depends on the batch
    size, and its exponential is no perplexity. Put the mixin before the trainer's class:

        class MyTrainer(TokenWeightedEvalMixin, Trainer): ...

    All that reads ``eval_loss`` (``load_best_model_at_end``, ``EarlyStoppingCallback``, logs) then reads this
    one.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        from transformers import PrinterCallback

        super().__init__(*args, **kwargs)
        # without progress bars the Trainer prints each log as a raw dict; lmlab's callbacks show them
        self.remove_callback(PrinterCallback)

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> "EvalLoopOutput":
        """transformers' loop, with the loss replaced by the sum of nats over the number of tokens."""
        self._eval_nats, self._eval_tokens = 0.0, 0
        # examples are dealt to the processes batch by batch, in order of rank
        self._n_eval_examples = len(dataloader.dataset)
        self._next_eval_example = self.args.process_index * self.args.per_device_eval_batch_size
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        nats, tokens = self._eval_nats, self._eval_tokens
        # each process has evaluated its part of the examples
        if self.args.world_size > 1:
            sums = torch.tensor([nats, tokens], dtype=torch.float64, device=self.args.device)
            nats, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
        output.metrics[f"{metric_key_prefix}_loss"] = nats / tokens
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict, prediction_loss_only: bool, ignore_keys: list | None = None
    ) -> tuple:
        """Adds one batch to the sums of nats and tokens; returns (mean loss, None, None)."""
        inputs = self._prepare_inputs(inputs)
        self._mask_repeated_examples(inputs["labels"])
        # the label at index 0 has no prediction: the model shifts
        n_tokens = (inputs["labels"][..., 1:] != IGNORE_INDEX).sum()
        with torch.no_grad(), self.compute_loss_context_manager():
            # a sum divided by one token is the sum; the Trainer multiplies it by the number of processes
            loss = self.compute_loss(model, inputs, num_items_in_batch=torch.ones_like(n_tokens))
        nats = loss.detach() / self.args.world_size
        self._eval_nats += nats.item()
        self._eval_tokens += n_tokens.item()
        return nats / n_tokens.clamp(min=1), None, None

    def _mask_repeated_examples(self, labels: torch.Tensor) -> None:
        """With several processes accelerate fills the last batches with examples from the beginning."""
        n_real = max(0, min(len(labels), self._n_eval_examples - self._next_eval_example))
        if self.args.world_size > 1:
            labels[n_real:] = IGNORE_INDEX
        self._next_eval_example += self.args.world_size * self.args.per_device_eval_batch_size
