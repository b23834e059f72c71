"""The miniworld's tokenizer: byte-level BPE, digits apart; an EOS, a pad token of its own, R1's chat
template.

One vocabulary serves the three bases; they differ in what they call EOS, as their big relatives do.
Source of the method: GPT-2's byte-level BPE (Radford et al. 2019).
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

from bases import chats
from bases.corpus import pretraining_texts
from lmlab.miniworld import dataset

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

N_VOCAB = 1536
END, PAD = "<|endoftext|>", "<|pad|>"
SPECIAL = (END, PAD, chats.BEGIN, chats.END, chats.USER, chats.ASSISTANT)
THINK = ("<think>", "</think>")


def corpus() -> list[str]:
    """What the tokenizer is trained on: a little of everything that the world can say."""
    # seed 9: other texts than those of the lessons
    texts = pretraining_texts("gpt2", 20_000, seed=9) + pretraining_texts("qwen2", 10_000, seed=9)
    texts += [row["text"] for row in dataset("encyclopedia", n=3000, seed=9)]
    texts += [row["shakespearean"] for row in dataset("pairs", n=4000, seed=9)]
    return [re.sub(r"<｜.*?｜>|</?think>", " ", text) for text in texts]  # these are tokens already


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A tokenizer with a vocabulary of ``N_VOCAB``, special tokens first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    # digits apart: 14 is 1 4, so that arithmetic is on digits, as in Llama and Qwen2
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB - len(THINK),
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    # as in DeepSeek-R1: <think> is one token, but not a special one that decoding would hide
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in THINK])
    return tokenizer


def wrap(tokenizer: Tokenizer, architecture: str) -> PreTrainedTokenizerFast:
    """The transformers fast tokenizer of one base.

    qwen2 has R1's names of BOS and EOS, the others GPT-2's.
    """
    from transformers import PreTrainedTokenizerFast

    # as their big relatives: GPT-2 has one token for begin and end, R1 has two
    r1 = architecture == "qwen2"
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=chats.END if r1 else END,
        bos_token=chats.BEGIN if r1 else END,
        pad_token=PAD,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=[chats.USER, chats.ASSISTANT],
    )
    wrapped.chat_template = r1_chat_template()
    return wrapped


def r1_chat_template() -> str:
    """The chat template of DeepSeek-R1-Distill, byte for byte as TRL knows it (TRL compares)."""
    return (files("trl") / "chat_templates" / "deepseek_r1_distill.jinja").read_text(encoding="utf-8")
