"""A transformers model that can be asked, and shows its answers as ``generate`` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING

from lmlab.export.generation_config import sampling_config
from lmlab.models.chat_template import prompt_text, stop_token_ids
from lmlab.models.sources import context_length, pad_id

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


class FolderChatModel:
    """A transformers model with what a chat needs of it, as ``LlamaCpp`` has it for a GGUF file."""

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        self.name = name
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.chat_template = tokenizer.chat_template
        self.context_length = context_length(model)
        self.generation_config = sampling_config(model.generation_config)
        self._stops = stop_token_ids(model, tokenizer)

    def render(self, messages: Sequence[Mapping]) -> str:
        """The prompt for a conversation. Raises ValueError where the chat template refuses it."""
        return prompt_text(self.tokenizer, messages)

    def tokenize(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids; BOS is added only if asked for, and if the tokenizer does so."""
        return self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]

    def answer(
        self,
        ids: Sequence[int],
        max_new_tokens: int,
        config: GenerationConfig,
        seed: int,
        show: Callable[[str], None],
    ) -> None:
        """Gives ``show`` the answer in chunks of text, as they come.

        Args:
            ids: The prompt's tokens, (T,).
            max_new_tokens: The longest answer.
            config: A ``sampling_config``.
            seed: The same one samples the same answer.
            show: Takes a chunk.
        """
        import torch

        prompt = torch.tensor([list(ids)], device=self.model.device)  # (1, T)
        config = copy(config)
        config.max_new_tokens = max_new_tokens
        config.eos_token_id = self._stops or None
        config.pad_token_id = pad_id(self.tokenizer)  # nothing is padded, but generate asks for it
        torch.manual_seed(seed)
        self.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=config,
            streamer=_answer_streamer(self.tokenizer, self._stops, show),
        )


def _answer_streamer(tokenizer: PreTrainedTokenizerBase, stops: Sequence[int], show: Callable[[str], None]):
    """A ``TextStreamer`` that leaves out the token that ends the answer, special or not."""
    from transformers import TextStreamer

    class AnswerStreamer(TextStreamer):
        def put(self, value) -> None:
            # the prompt comes first, as a whole, and may hold such tokens
            if self.next_tokens_are_prompt or int(value[0]) not in stops:
                super().put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            show(text)

    return AnswerStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
