"""Word problems about the village, in parts: facts, question, steps, answer. The sentences are in
``data/problems.json``.

Sums and differences stay within 0 to 40, multiplication tables are 2..5 by 2..9. Two-step problems compose
one-step ones; those of three and four steps are nothing that the bases have read.
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


THINGS = [Noun(*entry.split("/")) for entry in TEXTS["things"]]
BOXES = [Noun(*entry.split("/")) for entry in TEXTS["boxes"]]
# coins pay for things, so they are no things to be packed or bought
*GOODS, COIN = THINGS
# (trade, what it makes), for every thing of the village that is counted
MAKERS = [(theme.trade, thing) for theme in VILLAGE.themes for thing in THINGS if thing.one in theme.objects]


class Hero(NamedTuple):
    """A person and the pronouns that go with the name."""

    name: str
    he: str
    him: str
    He: str  # at the beginning of a sentence


def _hero(rng: Sampler, other_than: str = "") -> Hero:
    # two people of one name would make a problem ambiguous
    name = rng.choice([name for name in PEOPLE if name != other_than])
    return Hero(name, "she", "her", "She") if name in VILLAGE.women else Hero(name, "he", "him", "He")


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
    source: str = ""  # the name of the law

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


def owns(rng: Sampler, low: int = 1, high: int = 20) -> Holding:
    """Somebody has ``low`` to ``high`` things."""
    hero, thing, n = _hero(rng), rng.choice(THINGS), rng.integer(low, high)
    fact = TEXTS["owns"].format(hero=hero, owned=thing.counted(n))
    return Holding(hero, thing, n, (fact,))


def _owns_groups(rng: Sampler) -> Holding:
    # the order of choices is fixed: another order gives other problems for the same seed
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
    owned = h.thing.counted(h.value)
    return _task(kind, list(calculations), hero=h.hero, other=other, thing=h.thing, owned=owned, n=n)


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
    # at most 13 + 13 + 13: within the numbers that the bases know
    calculations = (h.value, "+", n), (h.value, "+", h.value + n)
    return _compare("compare_then_together", h, other, n, *calculations)


# ---------------------------------------------------------------- rates and prices


def _trade(rng: Sampler, largest: int = 100) -> dict:
    """Somebody trades ``n`` lots of ``each``: things a day, or coins for a thing. largest: of the total."""
    trade, thing = rng.choice(MAKERS)
    # from the multiplication tables that the bases have read
    n, each = rng.choice([(a, b) for a, b in MULTIPLICATIONS if a * b <= largest])
    return {"hero": _hero(rng), "trade": trade, "thing": thing, "n": n, "each": each, "total": n * each}


def _trade_task(kind: str, trade: dict, *more_calculations: Calculation, **values: object) -> Task:
    """A task whose first step is the total."""
    return _task(kind, [(trade["n"], "x", trade["each"]), *more_calculations], **trade, **values)


def _another_purchase(rng: Sampler, trade: dict) -> tuple[Noun, int]:
    """(another thing, its price)."""
    other = rng.choice([thing for thing in GOODS if thing != trade["thing"]])
    return other, rng.integer(2, min(20, LARGEST - trade["total"]))


def rate(rng: Sampler) -> Task:
    """Things a day x days."""
    return _trade_task("rate", _trade(rng))


def rate_then_change(rng: Sampler) -> Task:
    """Things a day x days, and some more or some brought back."""
    trade = _trade(rng, LARGEST - 2)
    total, sign = trade["total"], rng.choice("+-")
    change = rng.integer(1, min(9, LARGEST - total if sign == "+" else total))
    kind = "rate_then_more" if sign == "+" else "rate_then_fewer"
    return _trade_task(kind, trade, (total, sign, change), change=change)


def price(rng: Sampler) -> Task:
    """Things x coins for each."""
    return _trade_task("price", _trade(rng))


def change_money(rng: Sampler) -> Task:
    """Coins left after a purchase."""
    trade = _trade(rng, LARGEST)
    money = rng.integer(trade["total"], LARGEST)
    return _trade_task("change_money", trade, (money, "-", trade["total"]), money=money)


def two_prices(rng: Sampler) -> Task:
    """Things x coins for each, and one other thing."""
    trade = _trade(rng, LARGEST - 2)
    other, cost = _another_purchase(rng, trade)
    return _trade_task("two_prices", trade, (trade["total"], "+", cost), other=other, cost=cost)


# ---------------------------------------------------------------- three steps: the same sentences, one more


def three_changes(rng: Sampler) -> Task:
    """a, and three times more or fewer."""
    return _how_many_now(_change(rng, _change(rng, _change(rng, owns(rng)))))


def groups_then_two_changes(rng: Sampler) -> Task:
    """n x each, and twice more or fewer."""
    return _how_many_now(_change(rng, _change_groups(rng)))


def two_prices_then_change(rng: Sampler) -> Task:
    """Coins left after two purchases."""
    trade = _trade(rng, LARGEST - 2)
    other, cost = _another_purchase(rng, trade)
    paid = trade["total"] + cost
    money = rng.integer(paid, LARGEST)
    calculations = (trade["total"], "+", cost), (money, "-", paid)
    return _trade_task("two_prices_then_change", trade, *calculations, other=other, cost=cost, money=money)


# ---------------------------------------------------------------- four steps


def four_changes(rng: Sampler) -> Task:
    """a, and four times more or fewer."""
    return _how_many_now(_change(rng, _change(rng, _change(rng, _change(rng, owns(rng))))))


def groups_then_three_changes(rng: Sampler) -> Task:
    """n x each, and three times more or fewer."""
    return _how_many_now(_change(rng, _change(rng, _change_groups(rng))))


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
FOUR_STEP = (four_changes, groups_then_three_changes)


def math_task(rng: Sampler) -> Task:
    """A math problem of one step (3 in 5) or two."""
    kinds = rng.choice((ONE_STEP, TWO_STEP), (3, 2))
    return rng.choice(kinds)(rng)


def science_task(rng: Sampler) -> Task:
    """A task on a law p = a x b in words, which asks for p or for b."""
    law = rng.choice(LAWS)
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
        source=law["name"],
    )
