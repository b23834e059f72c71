"""Word problems about the village with verified steps, and the plain arithmetic that they rest on.

``problem`` stands in for MathCodeInstruct (Wang et al. 2023), ``science`` for SciBench (Wang et al. 2023), ``textbook``
is pretraining text of the same skills without question-and-answer format. Sums stay within 0 to 40; times tables are
2..5 by 2..9. Two-step problems compose one-step ones.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from lmlab.miniworld.grammar import Draw, stream
from lmlab.miniworld.splits import distinct_rows
from lmlab.miniworld.world import PLACES, TRADES, VILLAGE

LARGEST = 40  # no number in any problem or step is larger
_STEP = re.compile(r"(\d+) ([+\-x/]) (\d+) = (\d+)\.")
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "x": lambda a, b: a * b, "/": lambda a, b: a // b}


@dataclass(frozen=True)
class Task:
    """A problem in parts. ``facts`` and ``question`` make the problem text; ``conclusion`` says the answer in words."""

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
_THINGS = tuple(tuple(pair.split("/")) for pair in """loaf/loaves bun/buns pie/pies roll/rolls cake/cakes tart/tarts
cup/cups mug/mugs jug/jugs bottle/bottles blanket/blankets scarf/scarves shawl/shawls coat/coats boot/boots shoe/shoes
slipper/slippers sandal/sandals book/books map/maps poem/poems tale/tales drum/drums flute/flutes sponge/sponges
towel/towels brush/brushes pillow/pillows lantern/lanterns torch/torches candle/candles lamp/lamps shirt/shirts
dress/dresses sock/socks lamb/lambs rabbit/rabbits basket/baskets ribbon/ribbons rug/rugs vase/vases rose/roses
lily/lilies tulip/tulips daisy/daisies chart/charts boat/boats parcel/parcels note/notes letter/letters needle/needles
button/buttons pin/pins hammer/hammers key/keys chain/chains axe/axes hook/hooks net/nets shield/shields bow/bows
pen/pens pencil/pencils hen/hens duck/ducks apple/apples pear/pears plum/plums cherry/cherries potato/potatoes
carrot/carrots onion/onions turnip/turnips broom/brooms ring/rings pot/pots plate/plates jar/jars bowl/bowls
mask/masks rope/ropes doll/dolls ball/balls kite/kites marble/marbles coin/coins""".split())
_BOXES = tuple(tuple(pair.split("/")) for pair in "box/boxes bag/bags chest/chests crate/crates sack/sacks".split())
# (a maker: the trade, its thing) for rates; every theme whose thing is counted
_MAKERS = tuple((theme.trade, pair) for theme in VILLAGE.themes for pair in _THINGS if pair[0] in theme.objects)


def _hero(d: Draw, *taken: Hero) -> Hero:
    name = d.choice([name for name in VILLAGE.women + VILLAGE.men if name not in [hero.name for hero in taken]])
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
    form = d.choice((f"{hero.name} has {n} {box[1]} with {each} {thing[1]} in each {box[0]}.",
                     f"{hero.name} has {n} {box[1]}. There are {each} {thing[1]} in each {box[0]}.",
                     f"{hero.name} packs {each} {thing[1]} into each of {n} {box[1]}."))
    return State(hero, thing, n * each, (form,), (step(n, "x", each),))


def _gain(d: Draw, s: State) -> State:
    n = _number(d, 1, min(20, LARGEST - s.value))
    he, other = s.hero.he.capitalize(), _hero(d, s.hero)
    fact = d.choice((f"{he} buys {n} more at the {d.choice(PLACES)}.", f"{he} finds {n} more.",
                     f"{other.name} gives {s.hero.him} {n} more.", f"{he} gets {n} more from the {d.choice(TRADES)}.",
                     f"Then {s.hero.he} makes {n} more."))
    return State(s.hero, s.thing, s.value + n, (*s.facts, fact), (*s.steps, step(s.value, "+", n)))


def _lose(d: Draw, s: State) -> State:
    n = _number(d, 1, min(20, s.value))
    he, other = s.hero.he.capitalize(), _hero(d, s.hero)
    fact = d.choice((f"{he} sells {n} of them.", f"{he} gives {n} of them to {other.name}.",
                     f"{he} loses {n} of them.", f"{he} leaves {n} of them at the {d.choice(PLACES)}.",
                     f"The {d.choice(TRADES)} takes {n} of them."))
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
    s, other = _owns(d), None
    other = _hero(d, s.hero)
    sign = d.choice("+-")
    n = _number(d, 1, 20 if sign == "+" else s.value)
    word = "more" if sign == "+" else "fewer"
    value = _OPERATIONS[sign](s.value, n)
    fact = f"{other.name} has {n} {word} than {s.hero.name}."
    return Task((*s.facts, fact), f"How many {s.thing[1]} does {other.name} have?", (step(s.value, sign, n),), value,
                f"So {other.name} has {_count(value, s.thing)}.")


def together(d: Draw) -> Task:
    s = _owns(d)
    other, n = _hero(d, s.hero), _number(d, 1, 20)
    fact = f"{s.hero.name} has {_count(s.value, s.thing)} and {other.name} has {n}."
    value = s.value + n
    return Task((fact,), f"How many {s.thing[1]} do they have together?", (step(s.value, "+", n),), value,
                f"So they have {_count(value, s.thing)} together.")


def difference(d: Draw) -> Task:
    s = _owns(d, low=2)
    other, n = _hero(d, s.hero), _number(d, 1, s.value - 1)
    fact = f"{s.hero.name} has {_count(s.value, s.thing)} and {other.name} has {n}."
    value = s.value - n
    return Task((fact,), f"How many more {s.thing[1]} does {s.hero.name} have?", (step(s.value, "-", n),), value,
                f"So {s.hero.name} has {value} more.")


def compare_then_together(d: Draw) -> Task:
    s = _owns(d, high=13)
    other, n = _hero(d, s.hero), _number(d, 1, 13)
    theirs = s.value + n
    facts = (*s.facts, f"{other.name} has {n} more than {s.hero.name}.")
    return Task(facts, f"How many {s.thing[1]} do they have together?",
                (step(s.value, "+", n), step(s.value, "+", theirs)), s.value + theirs,
                f"So they have {_count(s.value + theirs, s.thing)} together.")


def _rate(d: Draw) -> tuple[Hero, str, tuple[str, str], int, int]:
    trade, thing = d.choice(_MAKERS)
    return _hero(d), trade, thing, _number(d, 2, 9), _number(d, 2, 5)


def rate(d: Draw) -> Task:
    hero, trade, thing, each, days = _rate(d)
    value = each * days
    return Task((f"{hero.name} the {trade} sells {each} {thing[1]} a day.",),
                f"How many {thing[1]} does {hero.he} sell in {days} days?", (step(days, "x", each),), value,
                f"So {hero.he} sells {value} {thing[1]}.")


def rate_then_more(d: Draw) -> Task:
    hero, trade, thing, each, days = _rate(d)
    extra = _number(d, 1, min(20, max(1, LARGEST - each * days)))
    extra = min(extra, 9)
    value = each * days
    total = value + extra if value + extra <= LARGEST else value - extra
    sign, fact = ("+", f"Then {hero.he} sells {extra} more.") if total > value else (
        "-", f"Then {extra} of them are brought back.")
    return Task((f"{hero.name} the {trade} sells {each} {thing[1]} a day for {days} days.", fact),
                f"How many {thing[1]} are sold in the end?", (step(days, "x", each), step(value, sign, extra)), total,
                f"So {total} {thing[1]} are sold.")


def price(d: Draw) -> Task:
    hero, trade, thing, each, n = _rate(d)
    value = n * each
    return Task((f"One {thing[0]} costs {each} coins.", f"{hero.name} buys {n} {thing[1]} from the {trade}."),
                f"How many coins does {hero.name} pay?", (step(n, "x", each),), value,
                f"So {hero.name} pays {value} coins.")


def change_money(d: Draw) -> Task:
    hero, trade, thing, each, n = _rate(d)
    cost = n * each
    money = _number(d, cost, max(cost, LARGEST))
    return Task((f"{hero.name} has {money} coins.", f"{hero.he.capitalize()} buys {n} {thing[1]} for {each} coins each."),
                f"How many coins does {hero.name} have left?", (step(n, "x", each), step(money, "-", cost)),
                money - cost, f"So {hero.name} has {_count(money - cost, ('coin', 'coins'))} left.")


def two_prices(d: Draw) -> Task:
    hero, _, thing, each, n = _rate(d)
    other = d.choice([pair for pair in _THINGS[:-1] if pair != thing])
    cost = min(_number(d, 2, 20), max(2, LARGEST - n * each)) if n * each < LARGEST - 1 else 2
    if n * each + cost > LARGEST:
        n = 2
    total = n * each + cost
    return Task((f"{hero.name} buys {n} {thing[1]} for {each} coins each and one {other[0]} for {cost} coins.",),
                f"How many coins does {hero.name} pay?", (step(n, "x", each), step(n * each, "+", cost)), total,
                f"So {hero.name} pays {total} coins.")


ONE_STEP = (gain, lose, groups, more_or_fewer, together, difference, rate, price)
TWO_STEP = (two_changes, groups_then_change, compare_then_together, rate_then_more, change_money, two_prices)

# ---------------------------------------------------------------- science


def _table(d: Draw) -> tuple[int, int, int]:
    """(a, b, a x b) from the times tables."""
    a, b = _number(d, 2, 5), _number(d, 2, 9)
    return a, b, a * b


def _product_or_quotient(d: Draw, law: str, unit: str, product: tuple[str, str, str, str],
                         quotient_unit: str, quotient: tuple[str, str, str, str]) -> Task:
    """A law of the form p = a x b, asked for p or for b. The texts are (facts, question, conclusion, law)."""
    a, b, p = _table(d)
    forward = d.choice((True, False), (2, 1))
    facts, question, conclusion, law = (text.format(a=a, b=b, p=p) for text in (product if forward else quotient))
    steps = (step(a, "x", b),) if forward else (step(p, "/", a),)
    return Task((facts,), question, steps, p if forward else b, conclusion, law, unit if forward else quotient_unit)


def speed(d: Draw) -> Task:
    who, thing = _hero(d).name, d.choice(("horse", "mule", "boat", "cart", "donkey", "pony"))
    return _product_or_quotient(
        d, "", "km", (f"The {thing} of {who} moves at {{b}} km per hour for {{a}} hours.", "How far does it go in km?",
                      "So it goes {p} km.", "Distance is time times speed."),
        "km/h", (f"The {thing} of {who} goes {{p}} km in {{a}} hours.", "What is its speed in km per hour?",
                 "So its speed is {b} km per hour.", "Speed is distance over time."))


def density(d: Draw) -> Task:
    who, thing = _hero(d).name, d.choice(("stone", "jar of honey", "block of wax", "sack of salt", "bar of soap"))
    return _product_or_quotient(
        d, "", "kg", (f"The {thing} of {who} has a volume of {{a}} liters and a density of {{b}} kg per liter.",
                      "What is its mass in kg?", "So its mass is {p} kg.", "Mass is volume times density."),
        "kg/L", (f"The {thing} of {who} has a mass of {{p}} kg and a volume of {{a}} liters.",
                 "What is its density in kg per liter?", "So its density is {b} kg per liter.",
                 "Density is mass over volume."))


def work(d: Draw) -> Task:
    who, thing = _hero(d).name, d.choice(("cart", "raft", "chest", "sled", "crate", "barrel"))
    return _product_or_quotient(
        d, "", "J", (f"{who} pushes a {thing} over {{a}} m with a force of {{b}} N.", "What is the work in J?",
                     "So the work is {p} J.", "Work is distance times force."),
        "N", (f"{who} pushes a {thing} over {{a}} m and does {{p}} J of work.", "What is the force in N?",
              "So the force is {b} N.", "Force is work over distance."))


def total_price(d: Draw) -> Task:
    who, thing = _hero(d).name, d.choice(("flour", "wheat", "honey", "rice", "rope", "wax"))
    return _product_or_quotient(
        d, "", "coins", (f"{who} buys {{a}} kg of {thing} at {{b}} coins per kg.", "What is the price in coins?",
                         "So the price is {p} coins.", "Price is amount times unit price."),
        "coins/kg", (f"{who} pays {{p}} coins for {{a}} kg of {thing}.", "What is the price per kg in coins?",
                     "So one kg costs {b} coins.", "Unit price is price over amount."))


def flow(d: Draw) -> Task:
    who, thing = _hero(d).name, d.choice(("tub", "pond", "barrel", "trough", "basin"))
    return _product_or_quotient(
        d, "", "L", (f"Water runs into the {thing} of {who} at {{b}} liters per minute for {{a}} minutes.",
                     "What is the volume in liters?", "So the volume is {p} liters.", "Volume is time times flow."),
        "L/min", (f"The {thing} of {who} takes {{p}} liters of water in {{a}} minutes.",
                  "What is the flow in liters per minute?", "So the flow is {b} liters per minute.",
                  "Flow is volume over time."))


SCIENCE = (speed, density, work, total_price, flow)

# ---------------------------------------------------------------- rows


def problem_text(task: Task) -> str:
    return " ".join((*task.facts, task.question))


def a_task(d: Draw) -> Task:
    """A maths problem of one step (3 in 5) or two."""
    return d.choice(d.choice((ONE_STEP, TWO_STEP), (3, 2)))(d)


def problem(d: Draw) -> dict:
    """A row in the layout of MathCodeInstruct, with "problem", "steps" (list of str) and "answer" (str) beside it."""
    task = a_task(d)
    text, answer = problem_text(task), str(task.answer)
    solution = [{"type": "text", "content": " ".join(task.steps)},
                {"type": "text", "content": f"The answer is {answer}."}]
    messages = [{"role": "user", "content": [{"type": "text", "content": text}]},
                {"role": "assistant", "content": solution}]
    return {"messages": messages, "problem": text, "steps": list(task.steps), "answer": answer}


def science(d: Draw) -> dict:
    """A row with SciBench's keys; "solution" is the law in words and the steps. "problemid" is set by ``rows``."""
    kind = d.choice(SCIENCE)
    task = kind(d)
    return {"problem_text": problem_text(task), "answer_latex": str(task.answer), "answer_number": str(task.answer),
            "unit": task.unit, "source": f"miniworld_{kind.__name__}", "problemid": "", "comment": "",
            "solution": " ".join((task.law, *task.steps))}


def sums(d: Draw) -> str:
    """Two to six bare sums, each kind of step as often as its table is large."""
    return " ".join(_bare_sum(d) for _ in range(_number(d, 2, 6)))


def _bare_sum(d: Draw) -> str:
    sign = d.choice("+-x/", (4, 4, 3, 1))
    if sign == "x":
        return step(_number(d, 2, 5), "x", _number(d, 2, 9))
    if sign == "/":
        a, _, product = _table(d)
        return step(product, "/", a)
    a = _number(d, 1, LARGEST - 1 if sign == "+" else LARGEST)
    return step(a, sign, _number(d, 1, min(20, LARGEST - a if sign == "+" else a)))


def textbook(d: Draw) -> str:
    """Plain text of the same skills: bare sums, or a story that says its sums and its end. No chat, no thinking."""
    if d.choice(("sums", "story"), (1, 3)) == "sums":
        return sums(d)
    task = d.choice(SCIENCE)(d) if d.choice((False, True), (5, 1)) else a_task(d)
    asks = d.choice((True, False))
    return " ".join((*task.facts, *((task.question,) if asks else ()), *([task.law] if task.law else []),
                     *task.steps, task.conclusion))


# ---------------------------------------------------------------- verification


def verify(row: dict) -> bool:
    """Whether every step is true, uses only numbers of the problem or of earlier steps, and the last is the answer.

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


def _messages_agree(row: dict) -> bool:
    if "messages" not in row:
        return True
    user, assistant = (message["content"] for message in row["messages"])
    said = [part["content"] for part in assistant]
    return (user[0]["content"] == row["problem"]
            and said == [" ".join(row["steps"]), f"The answer is {row['answer']}."])


def problems(n: int, seed: int = 0, split: str = "train") -> list[dict]:
    """``n`` distinct problems of one split; the splits share no problem text, whatever the seeds."""
    return distinct_rows(problem, "problem", n, Draw(stream("problems", split, seed)), split)


def rows(name: str, split: str, n: int, seed: int = 0) -> list[dict]:
    """Rows of "problems" or "science"."""
    if name == "problems":
        return problems(n, seed, split)
    if name != "science":
        raise ValueError(f"got problems named {name!r}; expected 'problems' or 'science'")
    found = distinct_rows(science, "problem_text", n, Draw(stream("science", split, seed)), split)
    return [{**row, "problemid": f"{split}-{i}"} for i, row in enumerate(found)]
