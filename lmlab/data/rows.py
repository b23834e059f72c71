"""What stands in a row of a reader's data: nothing, a text, a problem, the turns of a conversation."""

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

# how tools and people write that a field is empty, in any case; but Na is sodium, and 1/0 is undefined
_NOTHING = {"", "nan", "none", "null", "nil", "n/a", "#n/a", "<na>", "nat", "-", "--", "?", "tbd"}


class UnusableRow(ValueError):
    """A row that cannot be used; the message is the reason, in a few words."""


def is_missing(value: object) -> bool:
    """Whether a field holds no value: None, NaN, whitespace, or a word for it ("nan", "N/A", "-")."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if not isinstance(value, str):
        return value is None
    text = value.strip(" \t\r\n.")
    return text.lower() in _NOTHING or text in ("NA", "#NA")


def text_field(row: Mapping, key: str, default: str | None = None) -> str:
    """A field as text: a number becomes its digits, 36 "36".

    Args:
        row: A row of data.
        key: The name of the field.
        default: What an empty field gives; None: it must not be empty.

    Raises:
        UnusableRow: The field is empty, or neither text nor a number.
    """
    value = row.get(key)
    if is_missing(value):
        if default is None:
            raise UnusableRow(f"no {key}")
        return default
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UnusableRow(f"{key} is no text but a {type(value).__name__}")
    return str(value).strip()


def problem_row(row: Mapping) -> dict:
    """A row that states a problem, with its fields as text and without those that are empty.

    Args:
        row: In one of the layouts of ``reasoning.to_reasoning_format``. In a file of several layouts a row
            has the columns of all; those that are not empty say which is its own.

    Returns:
        The row; messages are a list of {"role", "content"}, content a list of blocks (see ``conversation``).

    Raises:
        UnusableRow: A field is missing or of the wrong kind, or the row has none of the columns of a problem.
    """
    if not isinstance(row, Mapping):
        raise UnusableRow("no row with columns")
    # parquet gives a row the columns of all layouts in its file
    there = {key: value for key, value in row.items() if value is not None}
    if "messages" in there:
        turns = conversation(there["messages"])
        return there | {"messages": [{"role": turn.role, "content": turn.blocks} for turn in turns]}
    if "problem_text" in there:
        texts = {key: text_field(row, key) for key in ("problem_text", "answer_number")}
        return there | texts | {key: text_field(row, key, "") for key in ("unit", "solution")}
    if not {"messages", "problem_text"} & row.keys() and not {"question", "answer"} <= row.keys():
        raise UnusableRow(
            f"keys {', '.join(sorted(map(str, row))) or '(none)'}; a problem has messages "
            "(MathCodeInstruct), problem_text (SciBench), or question and answer (GSM8K)"
        )
    texts = {key: text_field(row, key) for key in ("question", "answer")}
    if is_missing(texts["answer"].partition("####")[2]):
        raise UnusableRow("no final answer")
    return there | texts


# --- conversations -----------------------------------------------------------------------------------

_ROLES = ("system", "user", "assistant")


class Turn(NamedTuple):
    """One message of a conversation."""

    role: str
    blocks: list[dict[str, str]]  # each {"type": "text", "code" or "execution", "content"}

    @property
    def text(self) -> str:
        """All blocks as one text, code and what it printed in fences."""
        return "\n".join(map(block_text, self.blocks)).strip()


def block_text(block: Mapping[str, str]) -> str:
    """A block of a message as it stands in a text."""
    content = block["content"].strip()
    fence = {"code": "python", "execution": "output"}.get(block["type"])
    return content if fence is None else f"```{fence}\n{content}\n```"


def conversation(messages: object) -> list[Turn]:
    """The turns of a conversation: perhaps a system turn, then user and assistant in turn, the assistant
    last.

    An empty system turn, as MathCodeInstruct has it, is left out; nothing else is.

    Args:
        messages: A list of {"role", "content"}, or such a list as JSON text. content: a text, or a list of
            blocks {"type", "content"} (or "text" for "content").

    Returns:
        The turns in order.

    Raises:
        UnusableRow: The messages have another form, or hold what training would lose (tool calls, images).
    """
    turns = [turn for turn in map(_turn, _message_list(messages)) if turn.role != "system" or turn.text]
    # the loss is on the last turn, and a chat template takes turns that alternate
    roles = [turn.role for turn in turns]
    if "assistant" not in roles:
        raise UnusableRow("no assistant turn")
    spoken = roles[1:] if roles[0] == "system" else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise UnusableRow(f"turns that do not alternate up to an assistant's: {', '.join(roles)}")
    if empty := [turn.role for turn in turns if not turn.text]:
        raise UnusableRow(f"an empty {empty[0]} turn")
    return turns


def _message_list(messages) -> list:
    if isinstance(messages, str):  # ``lossless_column`` makes JSON of messages without a common schema
        try:
            messages = json.loads(messages)
        except ValueError:
            raise UnusableRow("messages that are no list") from None
    if not isinstance(messages, list) or not messages:
        raise UnusableRow("no messages" if not messages else "messages that are no list")
    return messages


def _turn(message) -> Turn:
    if not isinstance(message, Mapping):
        raise UnusableRow(f"a message that is a {type(message).__name__}")
    if message.get("role") not in _ROLES:
        raise UnusableRow(f"a message of the role {message.get('role')!r:.30}")
    # a tool call, say, or reasoning beside the content
    if lost := [key for key, value in message.items() if key not in ("role", "content") and value]:
        raise UnusableRow(f"a message with {lost[0]}, which is not read")
    content = message.get("content")
    blocks = content if isinstance(content, list) else [content]
    return Turn(message["role"], [_block(block) for block in blocks])


def _block(block) -> dict[str, str]:
    if block is None or isinstance(block, str):
        block = {"content": block}
    if isinstance(block, Mapping):
        # parquet gives a block the keys of all others, so one that it lacks may be there and None
        kind = block.get("type") or "text"
        content = block.get("content") or block.get("text") or ""
        if kind in ("text", "code", "execution") and isinstance(content, str):
            return {"type": kind, "content": content}
    raise UnusableRow(f"a message with content that is no text: {block!r:.40}")
