"""transformers' Trainer and TRL's SFTTrainer with a token-weighted ``eval_loss``, for notebooks and jobs."""

from transformers import Trainer
from trl import SFTTrainer

from lmlab.training.token_weighted import TokenWeightedEvalMixin


class TokenWeightedTrainer(TokenWeightedEvalMixin, Trainer):
    """transformers' Trainer, whose ``eval_loss`` counts every token the same. Arguments are the Trainer's."""


class TokenWeightedSFTTrainer(TokenWeightedEvalMixin, SFTTrainer):
    """TRL's SFTTrainer, whose ``eval_loss`` counts every token the same. Arguments are the SFTTrainer's."""
