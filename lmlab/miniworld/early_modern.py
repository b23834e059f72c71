"""Words and verb forms of modern and of Early Modern English, as far as the village needs them.

thou goes with -est, he with -eth, thine and mine stand before a vowel. The words are in
``data/shakespeare.json``. Source of the rules: Abbott, A Shakespearian Grammar (1870); Hope, Shakespeare's
Grammar (2003).
"""

import re
from typing import NamedTuple

from lmlab.miniworld.tables import read_table

TABLES = read_table("shakespeare")


class Phrase(NamedTuple):
    """The same words in modern and in Early Modern English."""

    modern: str
    old: str


NOTHING = Phrase("", "")


def same(text: str) -> Phrase:
    """A phrase that is the same in both."""
    return Phrase(text, text)


def words(*parts: str) -> str:
    """The parts that are not empty, with spaces between them."""
    return " ".join(part for part in parts if part)


def join(*phrases: Phrase) -> Phrase:
    """Phrases one after the other, on both sides."""
    return Phrase(words(*(phrase.modern for phrase in phrases)), words(*(phrase.old for phrase in phrases)))


def _phrases(entries: list[str]) -> tuple[Phrase, ...]:
    """Entries of the table: 'modern=old', or one side where both are the same."""
    sides = (entry.split("=") for entry in entries)
    return tuple(Phrase(side[0], side[-1]) for side in sides)


# every list of the table, read once
VOCABULARY = {name: _phrases(entries) for name, entries in TABLES["vocabulary"].items()}
MODALS: dict[str, str] = TABLES["modals"]  # and their form with thou
VERBS = {kind: VOCABULARY[f"{kind}_verbs"] for kind in ("deed", "person", "still", "motion")}
ALL_VERBS = tuple(verb for verbs in VERBS.values() for verb in verbs)

# base -> past, participle; all others are regular
IRREGULAR: dict[str, list[str]] = TABLES["irregular_verbs"]
WITH_THOU = {**MODALS, "be": "art", "have": "hast", "do": "dost"}
WITH_HE = {"be": "is", "have": "hath", "do": "doth", "say": "saith"}
# had and did would give haddest and diddest, be has a stem of its own
PAST_WITH_THOU = {"had": "hadst", "did": "didst", "was": "wert", "were": "wert"}
BE_PRESENT = {"I": "am", "you": "are", "he": "is", "they": "are"}
BE_PAST = {"I": "was", "you": "were", "he": "was", "they": "were"}
_DOUBLED = ("forget", "forgot")  # stressed on the last syllable


def _stem(word: str) -> str:
    """``word`` made ready for an ending that begins with a vowel: carri(est), runn(est), lov(est)."""
    if word.endswith("e"):
        return word[:-1]
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "i"
    # a short vowel and one consonant: the consonant is doubled, so that the vowel stays short
    one_syllable = len(re.findall("[aeiou]+", word)) == 1
    if word in _DOUBLED or (one_syllable and re.search("[^aeiou][aeiou][^aeiouwxy]$", word)):
        return word + word[-1]
    return word


def with_thou(verb: str) -> str:
    """Present tense with thou: know -> knowest, love -> lovest, run -> runnest, have -> hast."""
    # the irregular ones are few and frequent, as in every language
    return WITH_THOU.get(verb) or _stem(verb) + "est"


def with_he(verb: str) -> str:
    """Old present tense with he or she: know -> knoweth, carry -> carrieth, say -> saith."""
    return WITH_HE.get(verb) or _stem(verb) + "eth"


def third_person(verb: str) -> str:
    """Modern present tense with he or she: know -> knows, carry -> carries, go -> goes."""
    if verb in ("be", "have"):
        return {"be": "is", "have": "has"}[verb]
    if re.search("(s|x|z|ch|sh|o)$", verb):
        return verb + "es"
    return verb[:-1] + "ies" if re.search("[^aeiou]y$", verb) else verb + "s"


def past(verb: str) -> str:
    """Past tense, the same in both: know -> knew, love -> loved."""
    return IRREGULAR[verb][0] if verb in IRREGULAR else _stem(verb) + "ed"


def participle(verb: str) -> str:
    """Past participle, the same in both: know -> known, love -> loved."""
    return IRREGULAR[verb][1] if verb in IRREGULAR else past(verb)


def past_with_thou(verb: str) -> str:
    """Past tense with thou: love -> lovedst, come -> camest, see -> sawest, have -> hadst."""
    # thou comes on top of the past: lov-ed-st, cam-est
    form = past(verb)
    if form in PAST_WITH_THOU:
        return PAST_WITH_THOU[form]
    return _stem(form) + "est" if verb in IRREGULAR else form + "st"


def before_vowel(word: str) -> bool:
    """Whether thine and mine stand before ``word``, by its sound."""
    return bool(re.match("(?!one|use|uni|eu)[aeiou]|hono|honest|hour|heir", word.lower()))


def possessive(owner: str, rest: str) -> Phrase:
    """owner: "your", "my", "the", "his", ...; rest: the words that follow it."""
    # by the sound that follows, as a and an today
    old_owner = owner
    if owner == "your":
        old_owner = "thine" if before_vowel(rest) else "thy"
    elif owner == "my" and before_vowel(rest):
        old_owner = "mine"
    return Phrase(f"{owner} {rest}", f"{old_owner} {rest}")
