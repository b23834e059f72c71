"""What a chat template asks of training and generation: the prompt, the target after it, and where to stop.

Everything is found by rendering conversations with the tokenizer's own template, so it holds for any model:
R1's generation prompt opens the reasoning, Qwen's, SmolLM's and Llama's leave that to the model; R1 ends a
turn with its EOS, ChatML with <|im_end|>, Llama 3 with <|eot_id|>, whatever the tokenizer calls EOS.
Reference: transformers, "Chat templates" and "Writing a chat template".
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from lmlab.models import IGNORE_INDEX

if TYPE_CHECKING:
    from torch.nn import Module
    from transformers import PreTrainedTokenizerBase

OPENING, CLOSING = "<think>", "</think>"
# at the end of a generation prompt: the model is to go on reasoning, or not to reason (enable_thinking=False)
_OPENED, _CLOSED = re.compile(rf"{OPENING}(\s*)$"), re.compile(rf"{OPENING}\s*{CLOSING}\s*$")
_QUESTION, _ANSWER = "QuestionSentinel", "AnswerSentinel"  # no template writes these


def prompt_text(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping]) -> str:
    """A conversation as the model reads it before it answers, with all special tokens in it.

    Raises:
        ValueError: The template refuses it, as one without a place for a system message does.
    """
    return _render(tokenizer, messages, add_generation_prompt=True)


def _render(tokenizer, messages: Sequence[Mapping], add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except TemplateError as error:
        raise ValueError(f"the chat template does not take this conversation: {error}") from error


def reference_labels(tokenizer: "PreTrainedTokenizerBase", row: Mapping) -> tuple[list[int], list[int]]:
    """The tokens of a conversation, and labels on what the model must write alone.

    The prompt is, token for token, what inference feeds. The completion is what has to follow it: the
    reasoning, with its opening tag where the generation prompt has not written it, the answer, and the token
    that ends the turn. The two are tokenized apart, as in inference, where the model starts from whole prompt
    tokens.

    Args:
        tokenizer: One with a chat template.
        row: {"prompt": messages, "completion": [one assistant message]}; its content is the whole turn,
            "<think>\\n...\\n</think>\\n\\nThe answer is 12."

    Returns:
        (input_ids, labels), both (T,). Labels of the prompt are -100.

    Raises:
        ValueError: The template closes the reasoning before it has begun, or shows no answers.
    """
    prompt = prompt_text(tokenizer, row["prompt"])
    completion = _after_prompt(prompt, row["completion"][0]["content"])
    # the template has written BOS, where it wants one
    prompt_ids, completion_ids = (
        tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] for text in (prompt, completion)
    )
    # without this token the model would never learn to stop
    completion_ids = [*completion_ids, end_of_turn(tokenizer)]
    return prompt_ids + completion_ids, [IGNORE_INDEX] * len(prompt_ids) + completion_ids


def _after_prompt(prompt: str, content: str) -> str:
    """What of an assistant's turn is left to write after its generation prompt."""
    if not content.startswith(OPENING):
        return content
    if _CLOSED.search(prompt):
        raise ValueError(
            f"the chat template's generation prompt ends in {prompt[-30:]!r}: it has closed the "
            "reasoning that the model is to learn; where the template knows enable_thinking, "
            "write {%- set enable_thinking = true %} into the first line of chat_template.jinja"
        )
    opened = _OPENED.search(prompt)
    if opened is None:
        return content
    # the template has written the tag, and maybe the line break after it: neither may come twice
    rest, whitespace = content.removeprefix(OPENING), opened.group(1)
    return rest.removeprefix(whitespace) if rest.startswith(whitespace) else rest.lstrip()


def generation_prompt(tokenizer: "PreTrainedTokenizerBase") -> str:
    """What the template writes between last question and answer: "<｜Assistant｜><think>\\n" for R1."""
    return _after(prompt_text(tokenizer, [{"role": "user", "content": _QUESTION}]), _QUESTION)


def opens_reasoning(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the generation prompt ends in <think>, as R1's does: the model then begins by reasoning."""
    return _OPENED.search(generation_prompt(tokenizer)) is not None


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token with which the template ends an assistant's turn, which is where generation has to stop.

    It is the first added token after an answer: ChatML's line break after <|im_end|> is never generated. A
    template that writes none leaves it to EOS.

    Raises:
        ValueError: The template shows no answers, or there is neither such a token nor an EOS.
    """
    messages = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
    after = _after(_render(tokenizer, messages, add_generation_prompt=False), _ANSWER)
    added = tokenizer.added_tokens_decoder
    for token in tokenizer(after, add_special_tokens=False)["input_ids"]:
        if token in added:
            return token
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the chat template ends an answer with {after!r}, which is no token, and eos_token "
            "is None; set the tokenizer's eos_token"
        )
    return tokenizer.eos_token_id


def _after(rendered: str, sentinel: str) -> str:
    # the last one: a template may repeat the conversation
    _, found, after = rendered.rpartition(sentinel)
    if not found:
        raise ValueError(
            "chat_template does not show what was said in a conversation of a question and an "
            "answer; give a tokenizer whose template does"
        )
    return after


def stop_token_ids(model: "Module", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Every token that ends generation: the EOS of the model and the tokenizer, the template's end of turn.

    ``generation_config.eos_token_id`` is one id or a list (Qwen2.5 and Llama 3 have several); a base model's
    often lacks the token that its chat template, and so fine-tuning, ends a turn with.
    """
    # lmlab's GPT has no generation config
    config = getattr(model, "generation_config", None) or model.config
    ends = config.eos_token_id
    ends = list(ends) if isinstance(ends, list | tuple) else [ends]
    if tokenizer.chat_template:
        with suppress(ValueError):  # a template that takes no plain conversation tells no end
            ends.append(end_of_turn(tokenizer))
    return [end for end in dict.fromkeys([tokenizer.eos_token_id, *ends]) if end is not None]
