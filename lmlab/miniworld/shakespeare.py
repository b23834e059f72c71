"""Pairs of sentences about the village: modern English and Early Modern English.

A sentence is sampled once as a structure (subject, verb, tense, object, mood) and rendered twice. The old
side follows real rules (``early_modern``): no do-support in questions and negations, a pronoun object before
"not", verbs of motion perfected with "be", and a vocabulary of its own. The rendering is a function of the
modern sentence, so a model that has learned the rules makes no mistakes.
"""

import re
from dataclasses import dataclass

from lmlab.miniworld import early_modern as em
from lmlab.miniworld.early_modern import MODALS, NOTHING, VERBS, VOCABULARY, Phrase, join, possessive, same
from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.world import OBJECTS, PEOPLE, PLACES, RELATIVES, TRADES

LONGEST, SHORTEST = 14, 4  # words of the modern side
OBJECT_PRONOUNS = VOCABULARY["object_pronouns"]
THING_QUALITIES = tuple(em.TABLES["thing_qualities"])  # the last, "own", only after a possessive
SHORT_PLACES = tuple(place for place in PLACES if " " not in place)
_PERFECT_WITH_BE = ("go", "come", "return")
_ITSELF = {"I": "me", "you": "you", "we": "us"}  # subject -> the object pronoun that it does not take
_NO_YES = (False, True)

# ---------------------------------------------------------------- structure


@dataclass(frozen=True)
class Subject:
    """``person`` is "I", "you", "he" (any third person singular) or "they" (any plural)."""

    text: Phrase
    person: str


@dataclass(frozen=True)
class Clause:
    """``tense`` is "present", "past", "perfect" or a modal."""

    subject: Subject
    verb: Phrase
    tense: str = "present"
    negated: bool = False
    object: Phrase = NOTHING
    adverb: Phrase = NOTHING
    tail: Phrase = NOTHING


PRONOUNS = {
    "I": Subject(same("I"), "I"),
    "you": Subject(Phrase("you", "thou"), "you"),
    "he": Subject(same("he"), "he"),
    "she": Subject(same("she"), "he"),
    "we": Subject(same("we"), "they"),
    "they": Subject(same("they"), "they"),
}


def _modern_parts(c: Clause) -> tuple[str, str]:
    """(auxiliary or "", main verb), before do-support."""
    verb, person = c.verb.modern, c.subject.person
    if c.tense in MODALS:
        return c.tense, verb
    if c.tense == "perfect":
        return ("has" if person == "he" else "have"), em.participle(verb)
    if verb == "be":
        return (em.BE_PRESENT if c.tense == "present" else em.BE_PAST)[person], ""
    if c.tense == "past":
        return "", em.past(verb)
    return "", em.third_person(verb) if person == "he" else verb


def modern(c: Clause, question: bool = False) -> str:
    """The clause in modern English, without capital and full stop."""
    auxiliary, main = _modern_parts(c)
    # the auxiliary of every other tense carries question and negation itself
    # do-support: "you know" becomes "do you know", "you do not know"
    if not auxiliary and (question or c.negated):
        main = c.verb.modern
        if c.tense == "past":
            auxiliary = "did"
        else:
            auxiliary = "does" if c.subject.person == "he" else "do"
    subject = c.subject.text.modern
    head = (auxiliary, subject) if question else (subject, auxiliary)
    negation = "not" if c.negated else ""
    return em.words(*head, negation, c.adverb.modern, main, c.object.modern, c.tail.modern)


def _old_present(verb: str, person: str) -> str:
    if person == "you":
        return em.with_thou(verb)
    if verb == "be":
        return em.BE_PRESENT[person]
    return em.with_he(verb) if person == "he" else verb


def _old_parts(c: Clause) -> tuple[str, str]:
    """(finite verb, the part that stands after not)."""
    verb, person = c.verb.old, c.subject.person
    if c.tense in MODALS:
        return (MODALS[c.tense] if person == "you" else c.tense), verb
    if c.tense == "perfect":
        return _old_present("be" if verb in _PERFECT_WITH_BE else "have", person), em.participle(verb)
    if c.tense == "present":
        return _old_present(verb, person), ""
    if person == "you":
        return em.past_with_thou(verb), ""
    return (em.BE_PAST[person] if verb == "be" else em.past(verb)), ""


def _around_not(c: Clause) -> tuple[str, str]:
    """The old object as (what stands before "not", what stands after it): a pronoun stands before."""
    return (c.object.old, "") if c.object in OBJECT_PRONOUNS else ("", c.object.old)


def old(c: Clause, question: bool = False) -> str:
    """The clause in Early Modern English, without capital and full stop."""
    finite, rest = _old_parts(c)
    subject, adverb, tail = c.subject.text.old, c.adverb.old, c.tail.old
    head = (finite, subject) if question else (subject, finite)
    negation = "not" if c.negated else ""
    # with an auxiliary, or be, the order is the modern one: "thou canst not run", "thou art not wise"
    if rest or c.verb.old == "be":
        return em.words(*head, negation, adverb, rest, c.object.old, tail)
    # "thou ne'er knowest": the adverb stands before the verb
    if adverb and not question:
        return em.words(subject, adverb, finite, c.object.old, tail)
    # no do-support: "thou knowest not the baker", but "thou knowest me not"
    before_not, after_not = _around_not(c)
    return em.words(*head, before_not, negation, adverb, after_not, tail)


def both(c: Clause, question: bool = False) -> Phrase:
    """The clause in modern and in Early Modern English; a question with its question mark."""
    mark = "?" if question else ""
    return Phrase(modern(c, question) + mark, old(c, question) + mark)


# ---------------------------------------------------------------- parts of a clause


def someone(rng: Sampler) -> Phrase:
    """A person by name, trade or kinship."""
    # all three are third person singular, so they share their verb forms
    kind = rng.choice(("name", "trade", "kin"), (3, 3, 2))
    if kind == "name":
        return same(rng.choice(PEOPLE))
    if kind == "trade":
        return same(f"the {rng.choice(TRADES)}")
    return possessive(rng.choice(("your", "my", "his", "our"), (4, 2, 1, 1)), rng.choice(RELATIVES))


def subject(rng: Sampler) -> Subject:
    """A pronoun, often you, or somebody else."""
    # you is the most frequent: thou has most rules
    word = rng.choice((*PRONOUNS, "other"), (2, 6, 1, 1, 1, 1, 6))
    return PRONOUNS[word] if word != "other" else Subject(someone(rng), "he")


def thing(rng: Sampler) -> Phrase:
    """Somebody's thing, now and then with an adjective."""
    # your and my are the frequent ones, for thy and thine
    owner = rng.choice(("the", "your", "my", "this", "his", "her"), (4, 4, 2, 1, 1, 1))
    options = THING_QUALITIES if owner in ("your", "my", "his", "her") else THING_QUALITIES[:-1]
    adjective = rng.choice(("", *options), (8, *[1] * len(options)))
    return possessive(owner, em.words(adjective, rng.choice(OBJECTS)))


def person_object(rng: Sampler, who: Subject) -> Phrase:
    """Whom somebody sees or loves: a pronoun, though not the subject's own, or somebody."""
    if rng.choice(("pronoun", "other")) == "other":
        return someone(rng)
    # "I love me" is not English, and a reflexive would be another rule
    own = _ITSELF.get(who.text.modern)
    return rng.choice([pronoun for pronoun in OBJECT_PRONOUNS if pronoun.modern != own])


def place_where(rng: Sampler) -> Phrase:
    """A place at which something happens."""
    # near and between have old words of their own
    kind = rng.choice(("at", "behind", "near", "between", "here"), (4, 2, 2, 2, 1))
    if kind == "here":
        return same("here")
    if kind == "between":
        first = rng.choice(SHORT_PLACES)
        second = rng.choice([place for place in SHORT_PLACES if place != first])
        return join(Phrase("between", "betwixt"), same(f"the {first} and the {second}"))
    preposition = Phrase("near", "nigh") if kind == "near" else same(kind)
    return join(preposition, same(f"the {rng.choice(PLACES)}"))


def place_whither(rng: Sampler, verb: str) -> Phrase:
    """A place to which somebody moves."""
    adverbs = [Phrase("here", "hither"), Phrase("there", "thither")]
    # one comes here, and goes away
    if verb not in ("come", "return"):
        adverbs.append(Phrase("away", "hence"))
    kind = rng.choice(("to", "over", "adverb"), (4, 1, 3))
    if kind == "adverb":
        return rng.choice(adverbs)
    if kind == "over":
        return join(Phrase("over", "o'er"), same(f"the {rng.choice(em.TABLES['things_to_cross'])}"))
    return same(f"to the {rng.choice(PLACES)}")


def time(rng: Sampler, tense: str) -> Phrase:
    """When something happens. Modals look ahead."""
    return rng.choice(VOCABULARY["future" if tense in MODALS else tense])


def any_tense(rng: Sampler) -> str:
    """A tense or a modal."""
    return rng.choice(("present", "past", "perfect", *MODALS), (6, 3, 2, 2, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5))


def clause(rng: Sampler, who: Subject, tense: str, negated: bool = False, short: bool = False) -> Clause:
    """One clause with a verb of the village. ``short`` leaves out what can be left out."""
    kind = rng.choice(("deed", "person", "still", "motion"), (4, 4, 2, 3))
    verb = rng.choice(VERBS[kind])
    target = adverb = tail = NOTHING
    if kind == "deed":
        target = thing(rng)
    elif kind == "person":
        target = person_object(rng, who)
    # "not never" and the like are left out, as is all that would make a sentence too long
    if not negated and not short:
        adverb = rng.choice((NOTHING, *VOCABULARY["frequency"]), (9, 1, 1, 1))
    if kind == "motion":
        tail = place_whither(rng, verb.modern)
    extra = rng.choice(("none", "place", "time"), (1, 1, 1) if kind == "still" else (3, 1, 2))
    if extra == "place" and kind in ("deed", "still") and not short:
        tail = place_where(rng)
    if extra == "time" and not short:
        tail = join(tail, time(rng, tense))
    return Clause(who, verb, tense, negated, target, adverb, tail)


# ---------------------------------------------------------------- kinds of sentences


def statement(rng: Sampler) -> Phrase:
    """'Thou knowest the baker.'"""
    return both(clause(rng, subject(rng), any_tense(rng), rng.choice(_NO_YES, (3, 2))))


def question(rng: Sampler) -> Phrase:
    """'Knowest thou the baker?'"""
    return both(clause(rng, subject(rng), any_tense(rng), rng.choice(_NO_YES, (4, 1))), question=True)


def _wh_clause(rng: Sampler, embedded: bool) -> Phrase:
    """A clause under why, when or where; ``embedded`` in statement order, as after 'I know'."""
    word = rng.choice(VOCABULARY["question_words"], (3, 1, 2))
    who, tense = subject(rng), any_tense(rng)
    negated = word.modern == "why" and rng.choice(_NO_YES, (2, 1))
    c = clause(rng, who, tense, negated, short=True)
    # only verbs without an object go with where, and with motion it is whither
    if word.modern == "where":
        verb = rng.choice(VERBS["motion"] + VERBS["still"])
        if verb in VERBS["motion"]:
            word = Phrase("where", "whither")
        c = Clause(who, verb, tense, tail=time(rng, tense))
    return join(word, both(c, question=not embedded))


def wh_question(rng: Sampler) -> Phrase:
    """'Wherefore knowest thou the baker?'"""
    return _wh_clause(rng, embedded=False)


def embedded_question(rng: Sampler) -> Phrase:
    """'I know not wherefore thou knowest the baker.'"""
    opening = rng.choice(VOCABULARY["embedding"])
    return join(opening, _wh_clause(rng, embedded=True))


def imperative(rng: Sampler) -> Phrase:
    """'Know thou the baker', 'know not the baker' or 'prithee, know the baker'."""
    c = clause(rng, PRONOUNS["you"], "present", short=True)
    times = VOCABULARY["future"]
    if c.object != NOTHING or c.tail != NOTHING:  # else it would be too short without a time
        times = times + (NOTHING,) * 4
    when = rng.choice(times)
    rest = join(c.object, c.tail, when)
    form = rng.choice(("plain", "not", "please"), (3, 2, 2))
    if form == "not":
        before_not, after_not = _around_not(c)
        old_side = em.words(c.verb.old, before_not, "not", after_not, c.tail.old, when.old)
        return Phrase(em.words("do not", c.verb.modern, rest.modern), old_side)
    if form == "please":
        return join(Phrase("please", "prithee,"), c.verb, rest)
    return join(c.verb, Phrase("", "thou"), rest)


def quality(rng: Sampler) -> Phrase:
    """Somebody is wise, wiser than another, or as wise as another."""
    who = subject(rng)
    tense = rng.choice(("present", "past", "perfect", "will", "must"), (5, 2, 1, 1, 1))
    kind = rng.choice(("plain", "comparative", "equal"), (2, 2, 1))
    other = someone(rng)
    if kind == "plain":
        complement = join(rng.choice(VOCABULARY["qualities"]), time(rng, tense))
    elif kind == "comparative":
        complement = join(rng.choice(VOCABULARY["comparatives"]), same("than"), other)
    else:
        complement = join(same("as"), rng.choice(VOCABULARY["qualities"]), same("as"), other)
    asks = rng.choice(_NO_YES, (2, 1))
    negated = rng.choice(_NO_YES, (3, 1))
    return both(Clause(who, same("be"), tense, negated, tail=complement), asks)


def possession(rng: Sampler) -> Phrase:
    """Whose a thing is, or how two things compare."""
    # two things are compared, or one is given to its owner
    compare = rng.choice((True, False))
    first = thing(rng) if compare else same(f"this {rng.choice(OBJECTS)}")
    negation = same(rng.choice(("", "not"), (3, 1)))
    if compare:
        complement = join(rng.choice(VOCABULARY["thing_comparatives"]), same("than"), thing(rng))
    else:
        owner = rng.choice(VOCABULARY["possessive_pronouns"])
        complement = join(owner, rng.choice((NOTHING, same("now"), Phrase("today", "this day"))))
    return join(first, same(rng.choice(("is", "was"))), negation, complement)


def weather(rng: Sampler) -> Phrase:
    """'It is', with its old contractions."""
    tense = rng.choice(("present", "past", "will"), (3, 1, 1))
    complement = join(rng.choice(VOCABULARY["weather"]), place_where(rng))
    if len(complement.modern.split()) < 8:
        complement = join(complement, rng.choice((NOTHING, time(rng, tense))))
    form = rng.choice(("plain", "not", "question"), (3, 1, 1))
    # 'tis, 'twas, 'twill; is't, was't, will't
    verb = {"present": "is", "past": "was", "will": "will"}[tense]
    be = "be" if tense == "will" else ""
    if form == "question":
        opening = Phrase(f"{verb} it", f"{verb}'t")
        return Phrase(*(f"{side}?" for side in join(opening, same(be), complement)))
    # the contraction takes no space: 'tis not, 'twas, 'twill be
    opening = Phrase(f"it {verb}", f"'t{verb}")
    return join(opening, same("not" if form == "not" else ""), same(be), complement)


def before(rng: Sampler) -> Phrase:
    """'I will go hence ere thou comest hither.'"""
    first = both(clause(rng, subject(rng), rng.choice(("will", "must", "can", "may")), short=True))
    # after a long first clause the second must be short
    is_long = len(first.modern.split()) > 6
    who = rng.choice(list(PRONOUNS.values())) if is_long else subject(rng)
    second = both(clause(rng, who, "present", short=True))
    return join(first, Phrase("before", "ere"), second)


def thought(rng: Sampler) -> Phrase:
    """'Methinks thou knowest the baker.'"""
    c = clause(rng, subject(rng), any_tense(rng), rng.choice(_NO_YES, (3, 1)), short=True)
    return join(Phrase("I think that", "methinks"), both(c))


def nothing(rng: Sampler) -> Phrase:
    """'Thou desirest naught.'"""
    who, tense = subject(rng), any_tense(rng)
    verb = rng.choice(VERBS["deed"])
    tail = rng.choice((place_where(rng), time(rng, tense)))
    return both(Clause(who, verb, tense, object=Phrase("nothing", "naught"), tail=tail))


def goodbye(rng: Sampler) -> Phrase:
    """'Farewell, Anna, I must go hence.'"""
    name = rng.choice(PEOPLE)
    c = clause(rng, PRONOUNS["I"], rng.choice(("will", "must")), short=True)
    return join(Phrase("goodbye,", "farewell,"), same(f"{name},"), both(c))


# kind of sentence -> weight
_KINDS = {
    statement: 7,
    question: 6,
    wh_question: 3,
    embedded_question: 2,
    imperative: 4,
    quality: 4,
    possession: 2,
    weather: 2,
    before: 3,
    thought: 2,
    nothing: 1,
    goodbye: 1,
}
_CAN_HAVE_OPENER = (statement, quality, weather, nothing, possession)

# ---------------------------------------------------------------- sentences


def _vocative(rng: Sampler, n_words: int) -> Phrase:
    """Who is spoken to: by title or name, in two words where the sentence is short."""
    if n_words < SHORTEST - 1:
        return rng.choice([title for title in VOCABULARY["titles"] if " " in title.modern])
    if rng.choice(("name", "title")) == "name":
        return same(rng.choice(PEOPLE))
    return rng.choice(VOCABULARY["titles"])


def _add_vocative(rng: Sampler, text: Phrase, first: bool) -> Phrase:
    call = _vocative(rng, len(text.modern.split()))
    if first:
        return Phrase(*(f"{name}, {side}" for name, side in zip(call, text, strict=True)))
    mark = "?" if text.modern.endswith("?") else ""
    return Phrase(*(f"{side.rstrip('?')}, {name}{mark}" for name, side in zip(call, text, strict=True)))


def _finish(text: str) -> str:
    """With a capital and a full stop. An apostrophe may come before the first letter: 'Tis."""
    first = re.search("[A-Za-z]", text).start()
    text = text[:first] + text[first].upper() + text[first + 1 :]
    return text if text.endswith("?") else text + "."


def pair(rng: Sampler) -> dict:
    """{"modern", "shakespearean"}: one sentence of 4 to 14 modern words, rendered twice."""
    kind = rng.choice(list(_KINDS), list(_KINDS.values()))
    text = kind(rng)
    n_words = len(text.modern.split())
    extra = rng.choice(("none", "opener", "first", "last"), (5, 2, 1, 1))
    # "Go thou" is too short to learn from: somebody is called
    if n_words < SHORTEST and extra in ("none", "opener"):
        extra = "last"
    is_question = text.modern.endswith("?")
    if extra == "opener" and kind in _CAN_HAVE_OPENER and not is_question and n_words < LONGEST:
        text = join(rng.choice(VOCABULARY["openers"]), text)
    elif extra != "none" and n_words < LONGEST - 1 and kind is not goodbye:
        text = _add_vocative(rng, text, extra == "first")
    return {"modern": _finish(text.modern), "shakespearean": _finish(text.old)}
