"""A reader's own pairs or chats: read with row numbers, held out by question, made into examples."""

from collections.abc import Iterator, Mapping, Sequence

from lmlab.data.dedup import exact_duplicates
from lmlab.data.readers import numbered_rows, short_repr
from lmlab.data.rows import UnusableRow, conversation, is_missing, text_field
from lmlab.data.sources import load_rows, own_file
from lmlab.data.splits import group_split
from lmlab.data.usable import BadRow
from lmlab.models.chat_template import CLOSING, OPENING, opens_reasoning
from lmlab.models.types import PreTrainedTokenizerBase
from lmlab.recipes import InstructionFinetune

# the usual names, in the order in which they are looked for
PROMPT_COLUMNS = ("prompt", "instruction", "question", "input")
RESPONSE_COLUMNS = ("response", "completion", "output", "answer")


def read_conversations(cfg: InstructionFinetune) -> tuple[list[dict], list[BadRow]]:
    """All rows of a source as conversations, and those that cannot be used, each with its number and why.

    A row is a pair, {"prompt", "response"} by these or other usual names, or by those that the recipe
    gives; or a chat, {"messages": [{"role", "content"}, ...]}. Of Alpaca's rows the input follows the
    instruction. A column "system" is the system message.

    Args:
        cfg: Its data, prompt_column and response_column.

    Returns:
        (conversations, bad rows). A conversation is {"row", "messages"}: its number in the file (from 1;
        of a hub set from 0), and user and assistant in turn, the assistant last.

    Raises:
        ValueError: There is no such source, or its columns hold neither pairs nor chats.
    """
    rows, bad = [], []
    for number, row in _numbered(cfg.data):
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            rows.append((number, row))
    columns = list(dict.fromkeys(key for _, row in rows for key in row))
    if not columns:
        shown = "".join(f"; {row.why}: {row.found}" for row in bad[:1])
        raise ValueError(f"{cfg.data} has no rows that can be read{shown}; give a file with rows")
    names = None
    if "messages" not in columns or cfg.prompt_column or cfg.response_column:
        names = _pair_columns(cfg, columns)
    conversations = []
    for number, row in rows:
        try:
            messages = _chat(row) if names is None else _pair(row, *names)
        except UnusableRow as error:
            bad.append(BadRow(number, str(error), short_repr(row)))
        else:
            conversations.append({"row": number, "messages": messages})
    return conversations, sorted(bad)


def _numbered(source: str) -> Iterator[tuple[int, dict | BadRow]]:
    path = own_file(source)
    # of a file the numbers are its lines, with which a reader finds what to fix
    return numbered_rows(path) if path else enumerate(load_rows(source, "all"))


def _pair_columns(cfg: InstructionFinetune, columns: Sequence[str]) -> tuple[str, str]:
    """The columns of the prompt and the response. Raises ValueError that shows how to name them."""
    # people write "Prompt" and " prompt" as well
    named = {column.strip().casefold(): column for column in columns}
    found, missing = {}, []
    for key, usual in (("prompt_column", PROMPT_COLUMNS), ("response_column", RESPONSE_COLUMNS)):
        given = getattr(cfg, key)
        wanted = [given] if given else usual
        there = [named[name.strip().casefold()] for name in wanted if name.strip().casefold() in named]
        if there:
            found[key] = there[0]
        else:
            missing.append(f"{key} ({', '.join(wanted)})")
    if missing:
        others = [column for column in columns if column not in found.values()]
        keys = [key for key in ("prompt_column", "response_column") if key not in found]
        example = dict(zip(keys, others if len(others) >= len(keys) else ["NAME"] * 2, strict=False))
        raise ValueError(
            f"{cfg.data} has the columns {', '.join(columns)}; found no {' and no '.join(missing)}. "
            f"Name what holds them, such as overrides = {example}; chats need a column messages, "
            "a list of role and content"
        )
    return found["prompt_column"], found["response_column"]


def _pair(row: Mapping, prompt_column: str, response_column: str) -> list[dict[str, str]]:
    prompt, response = text_field(row, prompt_column), text_field(row, response_column)
    if prompt_column == "instruction" and not is_missing(row.get("input")):
        prompt = f"{prompt}\n\n{text_field(row, 'input')}"
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    if not is_missing(row.get("system")):
        messages.insert(0, {"role": "system", "content": text_field(row, "system")})
    return messages


def _chat(row: Mapping) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in conversation(row.get("messages"))]


def repeated(conversations: Sequence[Mapping]) -> list[int]:
    """Indices of the conversations that repeat an earlier one, word for word (``normalize_text``)."""
    texts = ["\n".join(turn["content"] for turn in each["messages"]) for each in conversations]
    return sorted(i for group in exact_duplicates(texts) for i in group[1:])


def split_conversations(
    conversations: Sequence[dict], n_validation: int, seed: int
) -> tuple[list[dict], list[dict]]:
    """(to train on, held out): without repetitions, and with the same question on one side alone.

    Args:
        conversations: Of ``read_conversations``.
        n_validation: Conversations held out, at most a fifth of all.
        seed: Of the choice.

    Raises:
        ValueError: There are too few to have both.
    """
    skipped = set(repeated(conversations))
    kept = [each for i, each in enumerate(conversations) if i not in skipped]
    questions = []
    for each in kept:
        questions.append(next(turn["content"] for turn in each["messages"] if turn["role"] == "user"))
    train, validation = group_split(questions, min(n_validation, max(1, len(kept) // 5)), seed)
    return [kept[i] for i in train], [kept[i] for i in validation]


def answers_to_learn(conversations: Sequence[Mapping], tokenizer: PreTrainedTokenizerBase) -> list[dict]:
    """An example for each assistant turn: all that was said before it is the prompt.

    So every answer is learned after just what inference feeds, whatever a chat template does with earlier
    turns. Where it makes the model reason first (R1's), an answer without reasoning gets an empty one,
    which the model then learns to write.

    Returns:
        {"row", "prompt": messages, "completion": [one message]} for ``tokenize_conversations``.
    """
    empty = f"{OPENING}\n{CLOSING}\n\n" if opens_reasoning(tokenizer) else ""
    examples = []
    for each in conversations:
        for i, turn in enumerate(each["messages"]):
            if turn["role"] != "assistant":
                continue
            content = turn["content"] if turn["content"].startswith(OPENING) else empty + turn["content"]
            completion = [{"role": "assistant", "content": content}]
            examples.append({"row": each["row"], "prompt": each["messages"][:i], "completion": completion})
    return examples
