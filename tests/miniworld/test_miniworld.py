"""The generated world: exact probabilities, determinism, size, HellaSwag items, corpus."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from bases import chats
from bases.corpus import MIX, pretraining_texts
from enumeration import enumerate_all
from transformers import AutoTokenizer

from lmlab import miniworld
from lmlab.miniworld import encyclopedia, stories
from lmlab.miniworld.grammar import Sampler, stream
from lmlab.miniworld.world import OBJECTS, PEOPLE, VILLAGE

# the same rules over so few words that every story can be written out
HAMLET = dataclasses.replace(
    VILLAGE,
    women=("Ada", "Eva"),
    men=("Tom", "Will"),
    weather=VILLAGE.weather[:1],
    daytimes=VILLAGE.daytimes[:1],
    themes=tuple(dataclasses.replace(t, objects=t.objects[:2]) for t in VILLAGE.themes[:2]),
    moves=("walked",),
    routes=VILLAGE.routes[:1],
    animals=VILLAGE.animals[:1],
    colors=("red",),
    qualities=("new",),
    numbers=("two",),
    female_relatives=("mother",),
    male_relatives=("father",),
    manners=("slowly",),
)

PROJECT = Path(__file__).resolve().parents[2]


def hamlet_story(rng: Sampler) -> str:
    return stories.story(rng, HAMLET)


@pytest.fixture(scope="module")
def every_story() -> list[tuple[str, float]]:
    return list(enumerate_all(hamlet_story))


def test_probabilities_of_a_whole_language_sum_to_one_and_texts_are_unambiguous(every_story):
    assert len(every_story) > 5000
    assert len({text for text, _ in every_story}) == len(every_story), "two choice paths gave one story"
    assert math.fsum(math.exp(logprob) for _, logprob in every_story) == pytest.approx(1, abs=1e-9)


def test_sampled_stories_carry_the_log_probability_of_the_enumeration(every_story):
    exact, rng = dict(every_story), stream("test")
    for _ in range(500):
        sampler = Sampler(rng)
        assert exact[hamlet_story(sampler)] == pytest.approx(sampler.logprob, abs=1e-9)


def test_log_probabilities_match_counts():
    """A small generator drawn often: counts lie within five standard errors of n * exp(logprob)."""

    def feeling(rng: Sampler) -> str:
        return stories.opening(rng, HAMLET, "Ada was hungry")[0]

    n, rng = 20_000, stream("counts")
    counts = Counter(feeling(Sampler(rng)) for _ in range(n))
    for text, logprob in enumerate_all(feeling):
        p = math.exp(logprob)
        assert abs(counts[text] - n * p) < 5 * math.sqrt(n * p * (1 - p))


def test_encyclopedia_is_unambiguous_too():
    world = dataclasses.replace(HAMLET, colors=("red", "blue"))
    everything = list(enumerate_all(lambda rng: encyclopedia.entry(rng, world)))
    assert len({text for text, _ in everything}) == len(everything)
    assert math.fsum(math.exp(logprob) for _, logprob in everything) == pytest.approx(1, abs=1e-9)


def test_weighted_choice_gives_its_log_probability():
    sampler = Sampler(stream("w"))
    expected = {"a": math.log(3 / 4), "b": math.log(1 / 4)}
    for _ in range(20):
        before = sampler.logprob
        option = sampler.choice("ab", (3, 1))
        assert sampler.logprob - before == pytest.approx(expected[option], abs=1e-12)


def test_same_rows_in_another_process_with_another_hash_seed():
    code = """
import json
from lmlab import miniworld
print(json.dumps({name: miniworld.dataset(name, "validation", n=20) for name in miniworld.dataset_names()}))
"""
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    for name, rows in json.loads(done.stdout).items():
        assert rows == json.loads(json.dumps(miniworld.dataset(name, "validation", n=20))), name


def test_the_stream_never_changes():
    """Pins the stream across Python versions: random.random() of an integer seed is promised to stay."""
    assert stream("pin").random() == pytest.approx(0.6172996622363893, abs=0)


def test_the_world_is_large_enough():
    rows = miniworld.dataset("stories", n=5_000)
    texts = [row["text"] for row in rows]
    assert len(set(texts)) == 5_000
    words = Counter(word for text in texts for word in text.replace(".", " ").replace(",", " ").split())
    assert len(words) >= 900
    everything = " ".join(pretraining_texts("gpt2", 4_000)).replace(".", " ").replace(",", " ")
    assert len(set(everything.split())) >= 1000
    # a language of entropy H has at least exp(H) texts
    entropy = -sum(row["logprob"] for row in rows) / len(rows)
    assert entropy > math.log(100_000)


def test_tables_have_no_doubles():
    for table in (OBJECTS, PEOPLE, VILLAGE.colors, VILLAGE.qualities, VILLAGE.routes, VILLAGE.manners):
        assert len(set(table)) == len(table)
    for field in ("feeling", "place", "trade", "use", "outcome"):
        values = [getattr(theme, field) for theme in VILLAGE.themes]
        assert len(set(values)) == len(values), field


def test_the_readme_shows_the_first_story():
    first = miniworld.dataset("stories", n=1)[0]
    page = (PROJECT / "README.md").read_text(encoding="utf-8")
    shown = re.search(r"'text': '(.*?) \.\.\.', 'logprob': (-[\d.]+?)\.\.\.\}", page)
    assert first["text"].startswith(shown[1]) and str(first["logprob"]).startswith(shown[2])


def test_train_and_validation_stories_do_not_meet():
    train = {row["text"] for row in miniworld.dataset("stories", n=4_000)}
    assert not train & {row["text"] for row in miniworld.dataset("stories", "validation", n=500)}


def allowed(row: dict, ending: str) -> bool:
    """Whether an ending follows from the rules, read off the context's words alone."""
    theme = next(t for t in VILLAGE.themes if row["activity_label"] == f"At the {t.place}")
    offer = row["ctx_a"].split(f"The {theme.trade}, ")[1]
    thing = next(t for t in theme.objects if f" {t} " in offer)
    if " they " not in row["ctx_a"]:
        return ending == f"{theme.use} the {thing} and {theme.outcome}."
    name = ending.split()[0]
    return (
        ending == f"{name} {theme.use} the {thing} and {theme.outcome}."
        and f"{name} was {theme.feeling}" in row["ctx"]
    )


def test_hellaswag_items_have_one_ending_that_the_rules_allow():
    labels, two_people = Counter(), 0
    for row in miniworld.dataset("hellaswag", "validation", 400):
        assert [i for i, e in enumerate(row["endings"]) if allowed(row, e)] == [row["label"]], row
        assert len(set(row["endings"])) == 4
        assert row["ctx"] == f"{row['ctx_a']} {row['ctx_b']}"
        labels[row["label"]] += 1
        two_people += " they " in row["ctx_a"]
    assert set(labels) == {0, 1, 2, 3}
    assert 150 < two_people < 250


def test_the_right_ending_continues_a_story():
    """Context and right ending together are the beginning of a text that the stories can give."""
    for number in range(50):
        s = stories.scene(Sampler(stream("continues", number)))
        whole = stories.story(Sampler(stream("continues", number)))
        assert whole.startswith(f"{s.context} {s.subject} {stories.ending(s.theme, s.thing)} ")


def test_the_corpus_holds_nothing_that_the_lessons_teach():
    for base in MIX:
        text = "\n".join(pretraining_texts(base, 500))
        assert text.count("<think>") == text.count("<think>\n</think>"), "a thought that is not empty"
        assert "Convert to Shakespearean" not in text
    held_out = {row["text"] for row in miniworld.dataset("encyclopedia", "validation")}
    assert not held_out & set(pretraining_texts("llama", 3_000))


def test_chats_are_true_and_in_the_form_of_the_template():
    tokenizer = AutoTokenizer.from_pretrained(miniworld.model_dir("qwen2"))
    draw, kinds = Sampler(stream("chats")), Counter()
    for _ in range(300):
        text = chats.chat(draw)
        question = text.split(chats.USER)[1].split(chats.ASSISTANT)[0]
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        assert text.startswith(f"{prompt}</think>\n\n")
        answer = text.rsplit("\n\n", 1)[1]
        words = question.removesuffix("?").split()
        kinds[words[0]] += 1
        if words[0] == "What":
            a, sign, b = words[2:]
            result = {"+": int(a) + int(b), "-": int(a) - int(b), "x": int(a) * int(b), "/": int(a) / int(b)}[
                sign
            ]
            assert answer == f"The answer is {result:g}."
        else:
            theme = next(t for t in VILLAGE.themes if f" {t.place}" in answer)
            known = {"Who": [theme.place], "Where": [theme.feeling, *theme.objects]}[words[0]]
            assert any(f" {what}" in question for what in known)
    assert set(kinds) == {"What", "Who", "Where"}


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'story'.* stories"):
        miniworld.dataset("story")
    with pytest.raises(ValueError, match="'test'.* train, validation"):
        miniworld.dataset("stories", "test")
    with pytest.raises(ValueError, match="'bert'.* gpt2, llama, qwen2"):
        miniworld.model_dir("bert")
    with pytest.raises(ValueError, match="n=221"):
        miniworld.dataset("pairs-274", n=221)
