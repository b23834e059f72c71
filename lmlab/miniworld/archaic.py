"""Which rules of Early Modern English a translation keeps: metrics that need no reference.

Made for the sentences of this world. On other texts they judge only what they know.
"""

import re

from lmlab.miniworld import early_modern as em
from lmlab.miniworld.early_modern import ALL_VERBS, MODALS, VOCABULARY, before_vowel
from lmlab.miniworld.shakespeare import SHORT_PLACES
from lmlab.miniworld.world import OBJECTS, PEOPLE, RELATIVES, TRADES

_WORD = r"[A-Za-z][A-Za-z']*|[.,?]"
_WORD_OR_MARK = r"[A-Za-z][A-Za-z']*|[.,?!;:]"
_FORMS = (str, em.third_person, em.past, em.participle)


def _verb_forms(verbs: set[str]) -> set[str]:
    return {form(verb) for verb in verbs for form in _FORMS}


# what a verb may look like decides which words are content and which are modern, so all forms are listed once
_MODERN_VERBS = {verb.modern for verb in ALL_VERBS}
_OLD_VERBS = {verb.old for verb in ALL_VERBS}
# names, trades and things, but not those that look like a verb: will, Will, saw
_CONTENT = {*PEOPLE, *TRADES, *OBJECTS, *RELATIVES, *SHORT_PLACES}
_CONTENT -= {"Will", *MODALS} | _verb_forms(_MODERN_VERBS | _OLD_VERBS)


def _modern_only() -> set[str]:
    """The words of the modern side that no translation has."""
    words = set(
        "you your yours yourself it do does did has before why please between away over nothing near goodbye "
        "think that".split()
    )
    kept = set()
    for phrases in VOCABULARY.values():
        for phrase in phrases:
            words |= {word.strip(",") for word in phrase.modern.split()}
            kept |= {word.strip(",") for word in phrase.old.split()}
    words |= _verb_forms(_MODERN_VERBS)
    kept |= {form(verb) for verb in _OLD_VERBS for form in (str, em.past, em.participle)}
    # a verb in -s is modern even where the verb itself is kept: knows
    words = words - kept | {em.third_person(verb) for verb in _MODERN_VERBS | _OLD_VERBS}
    return words - {word.lower() for word in _CONTENT} - {"in"}


_MODERN_ONLY = _modern_only()
# between thou and its verb: "thou ne'er knowest", "knowest not"
_SKIPPED = {"not", "me", "him", "her", "us", "them", *(phrase.old for phrase in VOCABULARY["frequency"])}
# forms with thou that do not end in -st
_THOU_FORMS = {"art", "wert", "wilt", "shalt"}
_THOU_VERBS = {form for base, form in MODALS.items() if form != base}
for _verb in _OLD_VERBS | {"be", "have", "do", "say", "give", "tell"}:
    _THOU_VERBS |= {em.with_thou(_verb), em.past_with_thou(_verb)}
_ETH = re.compile("[a-z]+eth|hath|doth|saith")
# words in -eth that are no verbs
_NOT_VERBS = set("teeth beneath seth elizabeth macbeth heath death breath underneath".split())
_NEVER_WITH_ETH = {"i", "we", "you", "they", "thou"}


def _neighbors(words: list[str], i: int) -> list[str]:
    """The words that could be the verb of the thou at ``i``: adverbs are skipped, commas are not."""
    after = next((word for word in words[i + 1 :] if word not in _SKIPPED), "")
    return [words[i - 1] if i else "", after]


def _is_thou_form(word: str) -> bool:
    return word.lower().endswith("st") or word.lower() in _THOU_FORMS


def _possessives_right(words: list[str]) -> bool:
    """Whether thy and my stand before consonants, thine and mine before vowels or alone."""
    alone = (",", ".", "?", "now", "this")  # what follows in "is thine"
    for word, following in zip(words, words[1:], strict=False):
        if word.lower() in ("thy", "my") and before_vowel(following):
            return False
        if word.lower() in ("thine", "mine") and not (before_vowel(following) or following in alone):
            return False
    return True


def check_archaic(modern_text: str, shakespearean: str) -> dict[str, bool]:
    """Which rules a translation keeps.

    Returns:
        rule -> whether it is kept, and "all".
        no_modern_words: nothing is left that has an old word (you, does, before, ...) or a verb's ending -s.
        address_kept: where there was you or your, there is thou, thee, thy or thine.
        thou_agrees: every thou has a verb in -est (in a command without you the verb is bare).
        no_eth_with_thou, thine_before_vowel: as they say.
        negation_kept: "not" is there if and only if the modern side has it.
        content_kept: names, trades and things stay.
    """
    words, source = re.findall(_WORD, shakespearean), re.findall(_WORD, modern_text)
    lower = {word.lower() for word in words}
    addressed = {word.lower() for word in source} & {"you", "your", "yours"}
    # for each thou the two words that could be its verb
    thou_verbs = [_neighbors(words, i) for i, word in enumerate(words) if word.lower() == "thou"]
    near_thou = [verb for near in thou_verbs for verb in near]
    eth = [verb for verb in near_thou if re.search("eth$|^(hath|doth|saith)$", verb.lower())]
    content = [word for word in source if word in _CONTENT]
    result = {
        "no_modern_words": not lower & _MODERN_ONLY,
        "address_kept": not addressed or bool(lower & {"thou", "thee", "thy", "thine"}),
        "thou_agrees": "you" not in addressed or all(any(map(_is_thou_form, near)) for near in thou_verbs),
        # names that end like a verb, as Elizabeth, are no mistake
        "no_eth_with_thou": all(verb in PEOPLE for verb in eth),
        "thine_before_vowel": _possessives_right(words),
        "negation_kept": ("not" in lower) == ("not" in source),
        "content_kept": all(content.count(word) == words.count(word) for word in content),
    }
    return {**result, "all": all(result.values())}


def archaic_forms(modern_text: str, shakespearean: str) -> tuple[int, int]:
    """(right, wrong): how many old forms a text has, of those that the rules decide.

    thou: with a verb in -est beside it, or after the bare verb of a command (the modern side has no "you").
    thee: not before a verb in -est, which wants thou. thy before a consonant, thine before a vowel or alone.
    Verbs in -eth, hath, doth, saith: not beside I, we, you, they or thou.
    """
    words = re.findall(_WORD_OR_MARK, shakespearean)
    command = "you" not in re.findall("[a-z]+", modern_text.lower())
    verdicts = [_form_right(words, i, command) for i in range(len(words))]
    return verdicts.count(True), verdicts.count(False)


def _form_right(words: list[str], i: int, command: bool) -> bool | None:
    """Whether the word at ``i`` is used rightly; None where it is no old form."""
    word = words[i].lower()
    following = words[i + 1].lower() if i + 1 < len(words) else "."
    near = [neighbor.lower() for neighbor in _neighbors(words, i)]
    if word == "thou":
        # a command may have the bare verb before it: "go thou"
        agrees = any(verb in _THOU_VERBS or _is_thou_form(verb) for verb in near)
        return agrees or (command and i > 0 and near[0].isalpha())
    if word == "thee":
        return following not in _THOU_VERBS
    if word == "thy":
        return following.isalpha() and not before_vowel(following)
    if word == "thine":
        return before_vowel(following) or not following.isalpha() or following in ("now", "this")
    if _ETH.fullmatch(word) and word not in _NOT_VERBS:
        return not _NEVER_WITH_ETH & set(near)
    return None
