"""Word problems about the village, in parts: facts, question, steps, answer. The sentences are in
``data/problems.json``.

Sums and differences stay within 0 to 40, multiplication tables are 2..5 by 2..9. Two-step problems compose
one-step ones; three-step ones stand apart, for a test of what is harder than the training.
"""

from dataclasses import dataclass
from typing import NamedTuple

from lmlab.miniworld.calculations import LARGEST, MULTIPLICATIONS, Calculation, calculate, step
from lmlab.miniworld.grammar import Sampler
from lmlab.miniworld.tables import read_table
from lmlab.miniworld.world import PEOPLE, PLACES, TRADES, VILLAGE

TEXTS = read_table("problems")
LAWS = TEXTS["laws"]


class Noun(NamedTuple):
    """A thing that is counted."""

    one: str
    many: str

    def counted(self, n: int) -> str:
        """ "1 apple", "2 apples"."""
        return f"{n} {self.one if n == 1 else self.many}"


def _nouns(entries: list[str]) -> tuple[Noun, ...]:
    return tuple(Noun(*entry.split("/")) for entry in entries)


THINGS = _nouns(TEXTS["things"])
BOXES = _nouns(TEXTS["boxes"])
COIN = THINGS[-1]
# coins pay for things, so they are no things to be packed or bought
GOODS = THINGS[:-1]  # what is packed and bought
# (trade, what it makes), for every thing of the village that is counted
MAKERS = tuple(
    (theme.trade, thing) for theme in VILLAGE.themes for thing in THINGS if thing.one in theme.objects
)


class Hero(NamedTuple):
    """A person and the pronouns that go with the name."""

    name: str
    he: str
    him: str

    @property
    def He(self) -> str:  # noqa: N802  as the templates have it, at the beginning of a sentence
        return self.he.capitalize()


def _hero(rng: Sampler, other_than: str = "") -> Hero:
    # two people of one name would make a problem ambiguous
    name = rng.choice([name for name in PEOPLE if name != other_than])
    return Hero(name, "she", "her") if name in VILLAGE.women else Hero(name, "he", "him")


@dataclass(frozen=True)
class Task:
    """A problem in parts: ``facts`` and ``question`` are its text, ``conclusion`` is its answer in words."""

    facts: tuple[str, ...]
    question: str
    steps: tuple[str, ...]
    answer: int
    conclusion: str
    law: str = ""  # the formula in words, science only
    unit: str = ""

    @property
    def text(self) -> str:
        """What is asked."""
        return " ".join((*self.facts, self.question))


def _task(kind: str, calculations: list[Calculation], facts: tuple[str, ...] = (), **values: object) -> Task:
    """The templates of one kind of task, filled in. The last calculation gives the answer."""
    templates = TEXTS["tasks"][kind]
    answer = calculate(*calculations[-1])
    # what templates may ask for besides what the kind gives
    values |= {
        "answer": answer,
        "counted": values["thing"].counted(answer),
        "coins": COIN.counted(answer),
        "are": "is" if answer == 1 else "are",
    }
    return Task(
        facts=(*facts, *(fact.format(**values) for fact in templates["facts"])),
        question=templates["question"].format(**values),
        steps=tuple(step(*calculation) for calculation in calculations),
        answer=answer,
        conclusion=templates["conclusion"].format(**values),
    )


# ---------------------------------------------------------------- one person's things, and how they change


@dataclass(frozen=True)
class Holding:
    """What a hero has after some sentences, and the calculations that lead there."""

    # changes give a new Holding, so problems of several steps are compositions

    hero: Hero
    thing: Noun
    value: int
    facts: tuple[str, ...]
    calculations: tuple[Calculation, ...] = ()

    @property
    def owned(self) -> str:
        """ "3 apples"."""
        return self.thing.counted(self.value)


def owns(rng: Sampler, low: int = 1, high: int = 20) -> Holding:
    """Somebody has ``low`` to ``high`` things."""
    hero, thing, n = _hero(rng), rng.choice(THINGS), rng.integer(low, high)
    fact = TEXTS["owns"].format(hero=hero, owned=thing.counted(n))
    return Holding(hero, thing, n, (fact,))


def _owns_groups(rng: Sampler) -> Holding:
    hero, thing, box = _hero(rng), rng.choice(GOODS), rng.choice(BOXES)
    n, each = rng.integer(2, 5), rng.integer(2, 9)
    fact = rng.choice(TEXTS["groups"]).format(hero=hero, thing=thing, box=box, n=n, each=each)
    return Holding(hero, thing, n * each, (fact,), ((n, "x", each),))


def _change_by(rng: Sampler, h: Holding, sign: str) -> Holding:
    """More ("+") or fewer ("-")."""
    # results stay within the numbers that the bases know
    n = rng.integer(1, min(20, LARGEST - h.value if sign == "+" else h.value))
    other, place, trade = _hero(rng, h.hero.name), rng.choice(PLACES), rng.choice(TRADES)
    template = rng.choice(TEXTS["gain" if sign == "+" else "lose"])
    fact = template.format(hero=h.hero, other=other, place=place, trade=trade, n=n)
    calculation = (h.value, sign, n)
    return Holding(h.hero, h.thing, calculate(*calculation), (*h.facts, fact), (*h.calculations, calculation))


def _change(rng: Sampler, h: Holding) -> Holding:
    """More or fewer, as far as the numbers allow."""
    # at 0 there is nothing to lose, at the largest number nothing to gain
    signs = ["+"] if h.value < LARGEST else []
    if h.value > 0:
        signs.append("-")
    return _change_by(rng, h, rng.choice(signs))


def _change_groups(rng: Sampler) -> Holding:
    h = _owns_groups(rng)
    return _change(rng, h) if h.value <= LARGEST else _change_by(rng, h, "-")


def _how_many_now(h: Holding) -> Task:
    return _task("now", list(h.calculations), h.facts, hero=h.hero, thing=h.thing)


def gain(rng: Sampler) -> Task:
    """a + n."""
    return _how_many_now(_change_by(rng, owns(rng), "+"))


def lose(rng: Sampler) -> Task:
    """a - n."""
    return _how_many_now(_change_by(rng, owns(rng), "-"))


def groups(rng: Sampler) -> Task:
    """n x each."""
    return _how_many_now(_owns_groups(rng))


def two_changes(rng: Sampler) -> Task:
    """a, more or fewer, and again."""
    return _how_many_now(_change(rng, _change(rng, owns(rng))))


def groups_then_change(rng: Sampler) -> Task:
    """n x each, then more or fewer."""
    return _how_many_now(_change_groups(rng))


# ---------------------------------------------------------------- two people


def _compare(kind: str, h: Holding, other: Hero, n: int, *calculations: Calculation) -> Task:
    return _task(kind, list(calculations), hero=h.hero, other=other, thing=h.thing, owned=h.owned, n=n)


def more_or_fewer(rng: Sampler) -> Task:
    """a + n or a - n: what another person has."""
    h = owns(rng)
    other = _hero(rng, h.hero.name)
    sign = rng.choice("+-")
    n = rng.integer(1, 20 if sign == "+" else h.value)
    return _compare("more" if sign == "+" else "fewer", h, other, n, (h.value, sign, n))


def together(rng: Sampler) -> Task:
    """a + b."""
    h = owns(rng)
    other, n = _hero(rng, h.hero.name), rng.integer(1, 20)
    return _compare("together", h, other, n, (h.value, "+", n))


def difference(rng: Sampler) -> Task:
    """a - b."""
    h = owns(rng, low=2)
    other, n = _hero(rng, h.hero.name), rng.integer(1, h.value - 1)
    return _compare("difference", h, other, n, (h.value, "-", n))


def compare_then_together(rng: Sampler) -> Task:
    """a + (a + n)."""
    h = owns(rng, high=13)
    other, n = _hero(rng, h.hero.name), rng.integer(1, 13)
    calculations = (h.value, "+", n), (h.value, "+", h.value + n)
    return _compare("compare_then_together", h, other, n, *calculations)


# ---------------------------------------------------------------- rates and prices


@dataclass(frozen=True)
class Trading:
    """Somebody trades ``n`` lots of ``each``: things a day, or coins for a thing."""

    hero: Hero
    trade: str
    thing: Noun
    n: int
    each: int

    @property
    def total(self) -> int:
        return self.n * self.each

    def task(self, kind: str, *more_calculations: Calculation, **values: object) -> Task:
        """A task whose first step is the total."""
        return _task(kind, [(self.n, "x", self.each), *more_calculations], **vars(self), **values)


def _trading(rng: Sampler, largest: int = 100) -> Trading:
    """``largest``: what the total may be."""
    trade, thing = rng.choice(MAKERS)
    # from the multiplication tables that the bases have read
    n, each = rng.choice([(a, b) for a, b in MULTIPLICATIONS if a * b <= largest])
    return Trading(_hero(rng), trade, thing, n, each)


def _another_purchase(rng: Sampler, t: Trading) -> tuple[Noun, int]:
    """(another thing, its price)."""
    other = rng.choice([thing for thing in GOODS if thing != t.thing])
    return other, rng.integer(2, min(20, LARGEST - t.total))


def rate(rng: Sampler) -> Task:
    """Things a day x days."""
    return _trading(rng).task("rate")


def rate_then_change(rng: Sampler) -> Task:
    """Things a day x days, and some more or some brought back."""
    t = _trading(rng, LARGEST - 2)
    sign = rng.choice("+-")
    change = rng.integer(1, min(9, LARGEST - t.total if sign == "+" else t.total))
    kind = "rate_then_more" if sign == "+" else "rate_then_fewer"
    return t.task(kind, (t.total, sign, change), change=change)


def price(rng: Sampler) -> Task:
    """Things x coins for each."""
    return _trading(rng).task("price")


def change_money(rng: Sampler) -> Task:
    """Coins left after a purchase."""
    t = _trading(rng, LARGEST)
    money = rng.integer(t.total, LARGEST)
    return t.task("change_money", (money, "-", t.total), money=money)


def two_prices(rng: Sampler) -> Task:
    """Things x coins for each, and one other thing."""
    t = _trading(rng, LARGEST - 2)
    other, cost = _another_purchase(rng, t)
    return t.task("two_prices", (t.total, "+", cost), other=other, cost=cost)


# ---------------------------------------------------------------- three steps: the same sentences, one more


def three_changes(rng: Sampler) -> Task:
    """a, and three times more or fewer."""
    return _how_many_now(_change(rng, _change(rng, _change(rng, owns(rng)))))


def groups_then_two_changes(rng: Sampler) -> Task:
    """n x each, and twice more or fewer."""
    return _how_many_now(_change(rng, _change_groups(rng)))


def two_prices_then_change(rng: Sampler) -> Task:
    """Coins left after two purchases."""
    t = _trading(rng, LARGEST - 2)
    other, cost = _another_purchase(rng, t)
    paid = t.total + cost
    money = rng.integer(paid, LARGEST)
    calculations = (t.total, "+", cost), (money, "-", paid)
    return t.task("two_prices_then_change", *calculations, other=other, cost=cost, money=money)


ONE_STEP = (gain, lose, groups, more_or_fewer, together, difference, rate, price)
TWO_STEP = (
    two_changes,
    groups_then_change,
    compare_then_together,
    rate_then_change,
    change_money,
    two_prices,
)
THREE_STEP = (three_changes, groups_then_two_changes, two_prices_then_change)


def math_task(rng: Sampler) -> Task:
    """A math problem of one step (3 in 5) or two."""
    kinds = rng.choice((ONE_STEP, TWO_STEP), (3, 2))
    return rng.choice(kinds)(rng)


def law_task(rng: Sampler, law: dict) -> Task:
    """A task on a law p = a x b in words, which asks for p or for b."""
    a, b = rng.choice(MULTIPLICATIONS)
    form = rng.choice(("product", "quotient"), (2, 1))
    values = {"who": _hero(rng).name, "thing": rng.choice(law["things"]), "a": a, "b": b, "p": a * b}
    text = {name: template.format(**values) for name, template in law[form].items()}
    calculation = (a, "x", b) if form == "product" else (a * b, "/", a)
    return Task(
        facts=(text["fact"],),
        question=text["question"],
        steps=(step(*calculation),),
        answer=calculate(*calculation),
        conclusion=text["conclusion"],
        law=text["formula"],
        unit=text["unit"],
    )
