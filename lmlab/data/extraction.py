"""The final answer found in what a model wrote: in a box, marked as the answer, or the last number."""

import re

from lmlab.data import numbers
from lmlab.data.formulas import is_formula
from lmlab.data.notation import any_word, plain_notation
from lmlab.data.numbers import read_answer
from lmlab.data.units import DOUBT

_MARKER = re.compile(r"(?:answer is:?|answer:|####)", re.IGNORECASE)
# what may follow an answer: a reason, a remark
_REASON = re.compile(r"[,;]?\s+(?:because|since)\b(?P<aside>.*)$", re.IGNORECASE)
_ASIDE = re.compile(
    r"(?:,\s*|\s+)(?:and|so|which|as|that|where|when|by|for|in|thus|hence|therefore|I|we|it)"
    r"\b(?P<aside>[^\d$]*)$|\s*\((?P<bracket>[A-Za-z -]+)\)$|(?<=\$)\s(?P<words>[a-z ]+)$"
)
_NUMBER = re.compile(rf"(?:(?<![\w.)])[-+])?{numbers.CURRENCY}?(?<![\w.]){numbers.DECIMAL}(?:[eE][-+]?\d+)?")
# what may stand before the last number of a sentence, so that it is the answer: a word, but none of the
# others
_LEAD = re.compile(r"(?:^|(?<![\\A-Za-z])[A-Za-z]{2,}[:,]?\s+|[=≈]\s*)$")
_NO_LEAD = re.compile(rf"{any_word('no_lead', 'months')}\W*$", re.IGNORECASE)
_NEGATION = re.compile(rf"{any_word('negations')}|n't\b", re.IGNORECASE)
_VARIABLE = re.compile(r"(?<![A-Za-z\\])(?!of\b)[A-Za-z]{1,2}(?![A-Za-z])")
_MAX_TRIED = 4  # numbers of a sentence, from its end
_MAX_WORDS = 4  # of an answer in words that is in no box


def extract_answer(text: str) -> str | None:
    """The answer that a text gives, without thousands separators or plus; or None.

    What follows ``</think>`` counts, where there is one. There the last \\boxed{} is taken (as for MATH,
    Hendrycks et al. 2021), else the first that is marked as the answer ("The answer is 12", "#### 12"), else
    the last number, if its sentence leaves no doubt about it ("not 12", "11 or 12"). Of "3 + 4 = 7" it is the
    7. An answer that is no number is taken whole. What has been extracted is extracted from itself again.
    """
    text = text.rsplit("</think>", 1)[-1]
    boxed = numbers.unboxed(text)
    # a box is the clearest statement, whatever is said around it
    if boxed is not text:
        return _stated(boxed)
    for marker in _MARKER.finditer(text):
        sentence = _first_sentence(text[marker.end() :])
        if "?" not in sentence and (sentence or marker.end() < len(text)):
            return _in_sentence(sentence)
    # perhaps the text is nothing but the answer
    if len(text) <= numbers.MAX_FORMULA:
        whole = _stated(text)
        if whole is not None and _is_read(whole):
            return whole
    sentences = [part for line in text.splitlines() for part in re.split(r"(?<=[.!?;])\s+", line)]
    for sentence in reversed(sentences):
        if re.search(r"\d", sentence):
            return _last_number(sentence)
    return None


def _stated(text: str) -> str | None:
    """An answer as it is written plainly, where nothing else stands around it."""
    if len(text) > numbers.MAX_ANSWER:
        return None
    answer = read_answer(text)
    result = _result(numbers.without_lead(text)) if answer.value is None else None
    if result is not None:
        return result
    return None if numbers.says_nothing(answer.text) else answer.written


def _is_read(answer: str) -> bool:
    """Whether it is a number, or a formula and no sentence: "it is -5" is not i * t * i * s - 5."""
    read = read_answer(answer)
    if read.value is not None:
        return True
    return is_formula(read.text) and not re.search(r"(?<![\\{A-Za-z])[A-Za-z]{2}", read.text)


def _first_sentence(text: str) -> str:
    """The first sentence that says something, without what surrounds it."""
    for line in text.splitlines():
        sentence = numbers.SENTENCE.match(line.strip(" :")).group().strip()
        if sentence.count("}") > sentence.count("{"):  # of \\text{The answer is 5}
            sentence = sentence.rstrip("}")
        if re.sub(r"\\[\[(]|\$", "", sentence).strip():
            return sentence
    return ""


def _in_sentence(sentence: str) -> str | None:
    """The answer in a sentence that should give it."""
    # first all of it, then without what it adds: "7, and we are done"
    for part in (sentence, _without_aside(sentence)):
        answer = _stated(part)
        if answer is None or _is_read(answer):
            return answer
    if number := _last_number(sentence):
        return number
    # "Tuesday", but no whole sentence
    return answer if len(answer.split()) <= _MAX_WORDS else None


def _without_aside(sentence: str) -> str:
    """ "7" of "7, and we are done", of "7 because 3 and 4 make 7" and of "7 (seven)"."""
    for pattern in (_REASON, _ASIDE):
        aside = pattern.search(sentence)
        if aside and not DOUBT.search(aside.groupdict().get("aside") or ""):
            sentence = sentence[: aside.start()]
    return sentence


def _last_number(sentence: str) -> str | None:
    """The last number of a sentence, with its unit, if it is led to by words that leave no doubt."""
    plain = plain_notation(sentence[-numbers.MAX_ANSWER :])
    # of 1.5 \\times 10^3 the last digit is no beginning, so go back
    for number in reversed(list(_NUMBER.finditer(plain))[-_MAX_TRIED:]):
        before, answer = plain[: number.start()], plain[number.start() :]
        if not _LEAD.search(before) or _NO_LEAD.search(before) or _NEGATION.search(before):
            continue
        for part in (answer, _without_aside(answer)):
            if _is_read(part):
                return read_answer(part).written
    return None


def _result(plain: str) -> str | None:
    """The 7 of "3 + 4 = 7" and of "the sum = 7", but not of "2x + y = 7" or "x = 3, y = 7"."""
    # a list of equations has no single result
    *before, right = plain.split("=")
    if not before or re.search(r"[,;](?!\d{3})|\b(?:or|and)\b", "".join(before)):
        return None
    named = re.fullmatch(r"\s*[A-Za-z][\w\s{}]*(?:\([^()]*\))?\s*", before[-1])
    if not named and _VARIABLE.search(before[-1]):
        return None
    number = numbers.read_number(right)
    return number.written if number else None
