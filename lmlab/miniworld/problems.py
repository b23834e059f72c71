"""Word problems about the village with verified steps, and the plain arithmetic that they rest on.

``problem`` stands in for MathCodeInstruct (Wang et al. 2023), ``science`` for SciBench (Wang et al. 2023),
``textbook`` is pretraining text of the same skills without question-and-answer format. Sums and differences
stay within 0 to 40, times tables are 2..5 by 2..9. Two-step problems compose one-step ones; three-step ones
stand apart, for a test of what is harder than the training.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.splits import distinct_rows, split_of
from lmlab.miniworld.world import PLACES, TRADES, VILLAGE

LARGEST = 40  # no sum is larger
_TABLES = tuple((a, b) for a in range(2, 6) for b in range(2, 10))
_STEP = re.compile(r"(\d+) ([+\-x/]) (\d+) = (\d+)\.")
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "x": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}


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


@dataclass(frozen=True)
class Hero:
    """A person and the pronouns that go with the name."""

    name: str
    he: str
    him: str


# singular | plural; things that are counted
_THINGS = tuple(
    tuple(pair.split("/"))
    for pair in """loaf/loaves bun/buns pie/pies roll/rolls cake/cakes
tart/tarts cup/cups mug/mugs jug/jugs bottle/bottles blanket/blankets scarf/scarves shawl/shawls coat/coats
boot/boots shoe/shoes slipper/slippers sandal/sandals book/books map/maps poem/poems tale/tales drum/drums
flute/flutes sponge/sponges towel/towels brush/brushes pillow/pillows lantern/lanterns torch/torches
candle/candles lamp/lamps shirt/shirts dress/dresses sock/socks lamb/lambs rabbit/rabbits basket/baskets
ribbon/ribbons rug/rugs vase/vases rose/roses lily/lilies tulip/tulips daisy/daisies chart/charts boat/boats
parcel/parcels note/notes letter/letters needle/needles button/buttons pin/pins hammer/hammers key/keys
chain/chains axe/axes hook/hooks net/nets shield/shields bow/bows pen/pens pencil/pencils hen/hens duck/ducks
apple/apples pear/pears plum/plums cherry/cherries potato/potatoes carrot/carrots onion/onions turnip/turnips
broom/brooms ring/rings pot/pots plate/plates jar/jars bowl/bowls mask/masks rope/ropes doll/dolls ball/balls
kite/kites marble/marbles coin/coins""".split()
)
_BOXES = tuple(
    tuple(pair.split("/")) for pair in "box/boxes bag/bags chest/chests crate/crates sack/sacks".split()
)
# (the trade, its thing), for every thing of the village that is counted
_MAKERS = tuple(
    (theme.trade, thing) for theme in VILLAGE.themes for thing in _THINGS if thing[0] in theme.objects
)


def _hero(d: Draw, *taken: Hero) -> Hero:
    names = [hero.name for hero in taken]
    name = d.choice([name for name in VILLAGE.women + VILLAGE.men if name not in names])
    return Hero(name, "she", "her") if name in VILLAGE.women else Hero(name, "he", "him")


def _number(d: Draw, low: int, high: int) -> int:
    return d.choice(range(low, high + 1))


def step(a: int, sign: str, b: int) -> str:
    """ "3 + 4 = 7." """
    return f"{a} {sign} {b} = {_OPERATIONS[sign](a, b)}."


def _count(n: int, thing: tuple[str, str]) -> str:
    return f"{n} {thing[0] if n == 1 else thing[1]}"


# ---------------------------------------------------------------- changes of a number of things


@dataclass(frozen=True)
class State:
    """What a hero has after some sentences."""

    hero: Hero
    thing: tuple[str, str]
    value: int
    facts: tuple[str, ...]
    steps: tuple[str, ...] = ()


def _owns(d: Draw, low: int = 1, high: int = 20) -> State:
    hero, thing, n = _hero(d), d.choice(_THINGS), _number(d, low, high)
    return State(hero, thing, n, (f"{hero.name} has {_count(n, thing)}.",))


def _groups(d: Draw) -> State:
    hero, thing, box = _hero(d), d.choice(_THINGS[:-1]), d.choice(_BOXES)
    n, each = _number(d, 2, 5), _number(d, 2, 9)
    form = d.choice(
        (
            f"{hero.name} has {n} {box[1]} with {each} {thing[1]} in each {box[0]}.",
            f"{hero.name} has {n} {box[1]}. There are {each} {thing[1]} in each {box[0]}.",
            f"{hero.name} packs {each} {thing[1]} into each of {n} {box[1]}.",
        )
    )
    return State(hero, thing, n * each, (form,), (step(n, "x", each),))


def _gain(d: Draw, s: State) -> State:
    n = _number(d, 1, min(20, LARGEST - s.value))
    he, other = s.hero.he.capitalize(), _hero(d, s.hero)
    fact = d.choice(
        (
            f"{he} buys {n} more at the {d.choice(PLACES)}.",
            f"{he} finds {n} more.",
            f"{other.name} gives {s.hero.him} {n} more.",
            f"{he} gets {n} more from the {d.choice(TRADES)}.",
            f"Then {s.hero.he} makes {n} more.",
        )
    )
    return State(s.hero, s.thing, s.value + n, (*s.facts, fact), (*s.steps, step(s.value, "+", n)))


def _lose(d: Draw, s: State) -> State:
    n = _number(d, 1, min(20, s.value))
    he, other = s.hero.he.capitalize(), _hero(d, s.hero)
    fact = d.choice(
        (
            f"{he} sells {n} of them.",
            f"{he} gives {n} of them to {other.name}.",
            f"{he} loses {n} of them.",
            f"{he} leaves {n} of them at the {d.choice(PLACES)}.",
            f"The {d.choice(TRADES)} takes {n} of them.",
        )
    )
    return State(s.hero, s.thing, s.value - n, (*s.facts, fact), (*s.steps, step(s.value, "-", n)))


def _change(d: Draw, s: State) -> State:
    """More or fewer, as far as the numbers allow."""
    return d.choice([_gain] * (s.value < LARGEST) + [_lose] * (s.value > 0))(d, s)


def _now(s: State) -> Task:
    question = f"How many {s.thing[1]} does {s.hero.name} have now?"
    return Task(s.facts, question, s.steps, s.value, f"So {s.hero.name} has {_count(s.value, s.thing)} now.")


def gain(d: Draw) -> Task:
    return _now(_gain(d, _owns(d)))


def lose(d: Draw) -> Task:
    return _now(_lose(d, _owns(d)))


def groups(d: Draw) -> Task:
    return _now(_groups(d))


def two_changes(d: Draw) -> Task:
    return _now(_change(d, _change(d, _owns(d))))


def groups_then_change(d: Draw) -> Task:
    s = _groups(d)
    return _now(_change(d, s) if s.value <= LARGEST else _lose(d, s))


# ---------------------------------------------------------------- two people, rates, prices


def more_or_fewer(d: Draw) -> Task:
    s = _owns(d)
    other = _hero(d, s.hero)
    sign = d.choice("+-")
    n = _number(d, 1, 20 if sign == "+" else s.value)
    word = "more" if sign == "+" else "fewer"
    value = _OPERATIONS[sign](s.value, n)
    fact = f"{other.name} has {n} {word} than {s.hero.name}."
    return Task(
        (*s.facts, fact),
        f"How many {s.thing[1]} does {other.name} have?",
        (step(s.value, sign, n),),
        value,
        f"So {other.name} has {_count(value, s.thing)}.",
    )


def together(d: Draw) -> Task:
    s = _owns(d)
    other, n = _hero(d, s.hero), _number(d, 1, 20)
    fact = f"{s.hero.name} has {_count(s.value, s.thing)} and {other.name} has {n}."
    value = s.value + n
    return Task(
        (fact,),
        f"How many {s.thing[1]} do they have together?",
        (step(s.value, "+", n),),
        value,
        f"So they have {_count(value, s.thing)} together.",
    )


def difference(d: Draw) -> Task:
    s = _owns(d, low=2)
    other, n = _hero(d, s.hero), _number(d, 1, s.value - 1)
    fact = f"{s.hero.name} has {_count(s.value, s.thing)} and {other.name} has {n}."
    value = s.value - n
    return Task(
        (fact,),
        f"How many more {s.thing[1]} does {s.hero.name} have?",
        (step(s.value, "-", n),),
        value,
        f"So {s.hero.name} has {value} more.",
    )


def compare_then_together(d: Draw) -> Task:
    s = _owns(d, high=13)
    other, n = _hero(d, s.hero), _number(d, 1, 13)
    theirs = s.value + n
    facts = (*s.facts, f"{other.name} has {n} more than {s.hero.name}.")
    return Task(
        facts,
        f"How many {s.thing[1]} do they have together?",
        (step(s.value, "+", n), step(s.value, "+", theirs)),
        s.value + theirs,
        f"So they have {_count(s.value + theirs, s.thing)} together.",
    )


@dataclass(frozen=True)
class Trading:
    """Somebody trades ``n`` lots of ``each``: things a day, or coins for a thing."""

    hero: Hero
    trade: str
    thing: tuple[str, str]
    n: int
    each: int

    @property
    def total(self) -> int:
        return self.n * self.each

    @property
    def step(self) -> str:
        return step(self.n, "x", self.each)


def _trading(d: Draw, room: int = -LARGEST) -> Trading:
    """``room``: how far below LARGEST the total stays."""
    trade, thing = d.choice(_MAKERS)
    n, each = d.choice([(a, b) for a, b in _TABLES if a * b <= LARGEST - room])
    return Trading(_hero(d), trade, thing, n, each)


def rate(d: Draw) -> Task:
    t = _trading(d)
    return Task(
        (f"{t.hero.name} the {t.trade} sells {t.each} {t.thing[1]} a day.",),
        f"How many {t.thing[1]} does {t.hero.he} sell in {t.n} days?",
        (t.step,),
        t.total,
        f"So {t.hero.he} sells {t.total} {t.thing[1]}.",
    )


def rate_then_change(d: Draw) -> Task:
    t, sign = _trading(d, room=2), d.choice("+-")
    n = _number(d, 1, min(9, LARGEST - t.total if sign == "+" else t.total))
    fact = f"Then {t.hero.he} sells {n} more." if sign == "+" else f"Then {n} of them are brought back."
    end = _OPERATIONS[sign](t.total, n)
    return Task(
        (f"{t.hero.name} the {t.trade} sells {t.each} {t.thing[1]} a day for {t.n} days.", fact),
        f"How many {t.thing[1]} are sold in the end?",
        (t.step, step(t.total, sign, n)),
        end,
        f"So {_count(end, t.thing)} {'is' if end == 1 else 'are'} sold.",
    )


def price(d: Draw) -> Task:
    t = _trading(d)
    return Task(
        (
            f"One {t.thing[0]} costs {t.each} coins.",
            f"{t.hero.name} buys {t.n} {t.thing[1]} from the {t.trade}.",
        ),
        f"How many coins does {t.hero.name} pay?",
        (t.step,),
        t.total,
        f"So {t.hero.name} pays {t.total} coins.",
    )


def change_money(d: Draw) -> Task:
    t = _trading(d, room=0)
    money = _number(d, t.total, LARGEST)
    left = money - t.total
    name, he = t.hero.name, t.hero.he.capitalize()
    return Task(
        (f"{name} has {money} coins.", f"{he} buys {t.n} {t.thing[1]} for {t.each} coins each."),
        f"How many coins does {name} have left?",
        (t.step, step(money, "-", t.total)),
        left,
        f"So {name} has {_count(left, ('coin', 'coins'))} left.",
    )


def two_prices(d: Draw) -> Task:
    t = _trading(d, room=2)
    other = d.choice([pair for pair in _THINGS[:-1] if pair != t.thing])
    cost = _number(d, 2, min(20, LARGEST - t.total))
    name, total = t.hero.name, t.total + cost
    fact = f"{name} buys {t.n} {t.thing[1]} for {t.each} coins each and one {other[0]} for {cost} coins."
    return Task(
        (fact,),
        f"How many coins does {name} pay?",
        (t.step, step(t.total, "+", cost)),
        total,
        f"So {name} pays {total} coins.",
    )


ONE_STEP = (gain, lose, groups, more_or_fewer, together, difference, rate, price)
TWO_STEP = (
    two_changes,
    groups_then_change,
    compare_then_together,
    rate_then_change,
    change_money,
    two_prices,
)

# ---------------------------------------------------------------- three steps: the same sentences, one more


def three_changes(d: Draw) -> Task:
    return _now(_change(d, _change(d, _change(d, _owns(d)))))


def groups_then_two_changes(d: Draw) -> Task:
    s = _groups(d)
    return _now(_change(d, _change(d, s) if s.value <= LARGEST else _lose(d, s)))


def two_prices_then_change(d: Draw) -> Task:
    t = _trading(d, room=2)
    other = d.choice([pair for pair in _THINGS[:-1] if pair != t.thing])
    cost = _number(d, 2, min(20, LARGEST - t.total))
    paid = t.total + cost
    money = _number(d, paid, LARGEST)
    name, he = t.hero.name, t.hero.he.capitalize()
    facts = (
        f"{name} has {money} coins.",
        f"{he} buys {t.n} {t.thing[1]} for {t.each} coins each and one {other[0]} for {cost} coins.",
    )
    steps = (t.step, step(t.total, "+", cost), step(money, "-", paid))
    return Task(
        facts,
        f"How many coins does {name} have left?",
        steps,
        money - paid,
        f"So {name} has {_count(money - paid, ('coin', 'coins'))} left.",
    )


THREE_STEP = (three_changes, groups_then_two_changes, two_prices_then_change)

# ---------------------------------------------------------------- science


@dataclass(frozen=True)
class Law:
    """p = a x b in words, asked for p and for b.

    Each way is (facts, question, conclusion, formula, unit), with {who}, {thing}, {a}, {b} and {p} to be
    filled in.
    """

    name: str
    things: tuple[str, ...]
    product: tuple[str, str, str, str, str]
    quotient: tuple[str, str, str, str, str]


LAWS = (
    Law(
        "speed",
        ("horse", "mule", "boat", "cart", "donkey", "pony"),
        (
            "The {thing} of {who} moves at {b} km per hour for {a} hours.",
            "How far does it go in km?",
            "So it goes {p} km.",
            "Distance is time times speed.",
            "km",
        ),
        (
            "The {thing} of {who} goes {p} km in {a} hours.",
            "What is its speed in km per hour?",
            "So its speed is {b} km per hour.",
            "Speed is distance over time.",
            "km/h",
        ),
    ),
    Law(
        "density",
        ("stone", "jar of honey", "block of wax", "sack of salt", "bar of soap"),
        (
            "The {thing} of {who} has a volume of {a} liters and a density of {b} kg per liter.",
            "What is its mass in kg?",
            "So its mass is {p} kg.",
            "Mass is volume times density.",
            "kg",
        ),
        (
            "The {thing} of {who} has a mass of {p} kg and a volume of {a} liters.",
            "What is its density in kg per liter?",
            "So its density is {b} kg per liter.",
            "Density is mass over volume.",
            "kg/L",
        ),
    ),
    Law(
        "work",
        ("cart", "raft", "chest", "sled", "crate", "barrel"),
        (
            "{who} pushes a {thing} over {a} m with a force of {b} N.",
            "What is the work in J?",
            "So the work is {p} J.",
            "Work is distance times force.",
            "J",
        ),
        (
            "{who} pushes a {thing} over {a} m and does {p} J of work.",
            "What is the force in N?",
            "So the force is {b} N.",
            "Force is work over distance.",
            "N",
        ),
    ),
    Law(
        "price",
        ("flour", "wheat", "honey", "rice", "rope", "wax"),
        (
            "{who} buys {a} kg of {thing} at {b} coins per kg.",
            "What is the price in coins?",
            "So the price is {p} coins.",
            "Price is amount times unit price.",
            "coins",
        ),
        (
            "{who} pays {p} coins for {a} kg of {thing}.",
            "What is the price per kg in coins?",
            "So one kg costs {b} coins.",
            "Unit price is price over amount.",
            "coins/kg",
        ),
    ),
    Law(
        "flow",
        ("tub", "pond", "barrel", "trough", "basin"),
        (
            "Water runs into the {thing} of {who} at {b} liters per minute for {a} minutes.",
            "What is the volume in liters?",
            "So the volume is {p} liters.",
            "Volume is time times flow.",
            "L",
        ),
        (
            "The {thing} of {who} takes {p} liters of water in {a} minutes.",
            "What is the flow in liters per minute?",
            "So the flow is {b} liters per minute.",
            "Flow is volume over time.",
            "L/min",
        ),
    ),
)


def law_task(d: Draw, law: Law) -> Task:
    a, b = d.choice(_TABLES)
    asks_product = d.choice((True, False), (2, 1))
    blanks = {"who": _hero(d).name, "thing": d.choice(law.things), "a": a, "b": b, "p": a * b}
    texts = law.product if asks_product else law.quotient
    fact, question, conclusion, formula, unit = (text.format(**blanks) for text in texts)
    steps = (step(a, "x", b) if asks_product else step(a * b, "/", a),)
    return Task((fact,), question, steps, a * b if asks_product else b, conclusion, formula, unit)


# ---------------------------------------------------------------- rows


def problem_text(task: Task) -> str:
    return " ".join((*task.facts, task.question))


def a_task(d: Draw) -> Task:
    """A maths problem of one step (3 in 5) or two."""
    return d.choice(d.choice((ONE_STEP, TWO_STEP), (3, 2)))(d)


def problem(d: Draw) -> dict:
    """A row in MathCodeInstruct's layout, and beside it "problem", "steps" (list of str), "answer" (str)."""
    return _chat_row(a_task(d))


def harder_problem(d: Draw) -> dict:
    """A row like ``problem``'s, of three steps: one more than anything that the bases have read."""
    return _chat_row(d.choice(THREE_STEP)(d))


def distracting_problem(d: Draw) -> dict:
    """A row like ``problem``'s with one sentence more, of somebody else's things, which the answer does not need.

    It stands first or last, so that "he" and "them" still mean what they meant. Source: GSM-NoOp (Mirzadeh et al.
    2024).
    """
    task = a_task(d)
    text = problem_text(task)
    other = _owns(d)
    while other.hero.name in text or other.thing[1] in text:
        other = _owns(d)
    facts = d.choice(((*other.facts, *task.facts), (*task.facts, *other.facts)))
    return _chat_row(replace(task, facts=facts))


def _chat_row(task: Task) -> dict:
    text, answer = problem_text(task), str(task.answer)
    solution = [
        {"type": "text", "content": " ".join(task.steps)},
        {"type": "text", "content": f"The answer is {answer}."},
    ]
    messages = [
        {"role": "user", "content": [{"type": "text", "content": text}]},
        {"role": "assistant", "content": solution},
    ]
    return {"messages": messages, "problem": text, "steps": list(task.steps), "answer": answer}


def science(d: Draw) -> dict:
    """A row with SciBench's keys; "solution" is formula and steps, "problemid" is set by ``rows``."""
    law = d.choice(LAWS)
    task = law_task(d, law)
    answer = str(task.answer)
    return {
        "problem_text": problem_text(task),
        "answer_latex": answer,
        "answer_number": answer,
        "unit": task.unit,
        "source": f"miniworld_{law.name}",
        "problemid": "",
        "comment": "",
        "solution": " ".join((task.law, *task.steps)),
    }


def sums(d: Draw) -> str:
    """Two to six bare sums."""
    return " ".join(bare_sum(d) for _ in range(_number(d, 2, 6)))


def bare_sum(d: Draw) -> str:
    sign = d.choice("+-x/", (4, 4, 3, 1))
    if sign in "x/":
        a, b = d.choice(_TABLES)
        return step(a, "x", b) if sign == "x" else step(a * b, "/", a)
    a = _number(d, 1, LARGEST - 1 if sign == "+" else LARGEST)
    return step(a, sign, _number(d, 1, min(20, LARGEST - a if sign == "+" else a)))


def textbook(d: Draw) -> str:
    """Plain text of the same skills: bare sums, or a story with its sums and its end. No chat, no thinking.

    Stories of the validation split never come up, so a base that read this has not seen the problems it is
    asked.
    """
    if d.choice(("sums", "story"), (1, 3)) == "sums":
        return sums(d)
    task = _textbook_task(d)
    while split_of(problem_text(task)) == "validation":
        task = _textbook_task(d)
    question = (task.question,) if d.choice((True, False)) else ()
    law = (task.law,) if task.law else ()
    return " ".join((*task.facts, *question, *law, *task.steps, task.conclusion))


def _textbook_task(d: Draw) -> Task:
    return law_task(d, d.choice(LAWS)) if d.choice((False, True), (5, 1)) else a_task(d)


# ---------------------------------------------------------------- verification


def verify(row: dict) -> bool:
    """Whether every step is true and uses numbers of the problem or of earlier steps, and the last is the
    answer.

    row: of ``problem`` or ``science``. Reads the text, not the generator's structures.
    """
    is_science = "problem_text" in row
    text = row["problem_text"] if is_science else row["problem"]
    steps = row["solution"].split(". ", 1)[1] if is_science else " ".join(row["steps"])
    found = _STEP.findall(steps)
    if not found or " ".join(f"{a} {sign} {b} = {c}." for a, sign, b, c in found) != steps:
        return False
    known = {int(number) for number in re.findall(r"\d+", text)}
    for a, sign, b, c in found:
        if not _true(int(a), sign, int(b), int(c)) or not {int(a), int(b)} <= known:
            return False
        known.add(int(c))
    return found[-1][3] == (row["answer_number"] if is_science else row["answer"]) and _messages_agree(row)


def _true(a: int, sign: str, b: int, c: int) -> bool:
    exact = sign != "/" or (b > 0 and a % b == 0)
    return exact and _OPERATIONS[sign](a, b) == c


def allowed(a: int, sign: str, b: int) -> bool:
    """Whether a sum is one that the generator draws: within 0 to ``LARGEST``, products from the tables."""
    if sign == "x":
        return (a, b) in _TABLES
    return sign in "+-" and max(a, b) <= LARGEST and 0 <= _OPERATIONS[sign](a, b) <= LARGEST


def _messages_agree(row: dict) -> bool:
    if "messages" not in row:
        return True
    user, assistant = (message["content"] for message in row["messages"])
    said = [part["content"] for part in assistant]
    return user[0]["content"] == row["problem"] and said == [
        " ".join(row["steps"]),
        f"The answer is {row['answer']}.",
    ]


def problems(n: int, seed: int = 0, split: str = "train") -> list[dict]:
    """``n`` distinct problems of one split; the splits share no problem text, whatever the seeds."""
    return distinct_rows(problem, "problem", n, Draw(stream("problems", split, seed)), split)


_UNTRAINED = {"harder-problems": harder_problem, "distracting-problems": distracting_problem}


def rows(name: str, split: str, n: int, seed: int = 0) -> list[dict]:
    """Rows of "problems", "harder-problems", "distracting-problems" or "science"."""
    if name == "problems":
        return problems(n, seed, split)
    if name in _UNTRAINED:
        return distinct_rows(_UNTRAINED[name], "problem", n, Draw(stream(name, split, seed)), split)
    if name != "science":
        raise ValueError(
            f"got problems named {name!r}; expected 'problems', {', '.join(map(repr, _UNTRAINED))} "
            "or 'science'"
        )
    found = distinct_rows(science, "problem_text", n, Draw(stream("science", split, seed)), split)
    return [{**row, "problemid": f"{split}-{i}"} for i, row in enumerate(found)]
