"""transformers' Trainer and TRL's SFTTrainer with a token-weighted ``eval_loss``: for notebooks and jobs alike."""

from typing import Any

from transformers import PrinterCallback, Trainer
from trl import SFTTrainer

from lmlab.training.token_weighted import TokenWeightedEvalMixin


class TokenWeightedTrainer(TokenWeightedEvalMixin, Trainer):
    """transformers' Trainer, whose ``eval_loss`` counts every token the same. Arguments are the Trainer's."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # without progress bars the Trainer prints each log as a raw dict; lmlab's callbacks show them
        self.remove_callback(PrinterCallback)


class TokenWeightedSFTTrainer(TokenWeightedEvalMixin, SFTTrainer):
    """TRL's SFTTrainer, whose ``eval_loss`` counts every token the same. Arguments are the SFTTrainer's."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.remove_callback(PrinterCallback)
