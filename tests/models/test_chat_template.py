"""Think targets by the published chat templates, token by token; where generation stops; what is refused."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from lmlab.data import pairs
from lmlab.data.labels import completion_only_collator
from lmlab.data.preflight import preflight
from lmlab.export.chat_models import FolderChatModel
from lmlab.export.generation_config import sampling_config
from lmlab.models import chat_template, generation
from lmlab.models.chat_template import end_of_turn, stop_token_ids
from lmlab.models.sources import load_model, load_tokenizer

REAL_QWEN2 = Path(__file__).parents[3] / "shared" / "data" / "tokenizers" / "qwen2"
CONTENT = "<think>\n2 + 3 = 5.\n</think>\n\nThe answer is 5."
ROW = {
    "prompt": [{"role": "user", "content": "What is 2 + 3?"}],
    "completion": [{"role": "assistant", "content": CONTENT}],
}
# as the miniworld's tokenizer cuts it, which has the tags as tokens, like R1's and Qwen3's
REASONING = ["2", " +", " ", "3", " =", " ", "5", ".", "\n", "</think>"]
ANSWER = ["\n", "\n", "The", " an", "s", "w", "er", " is", " ", "5", "."]

# SmolLM2-135M-Instruct's, as published; the others are kept by TRL as published
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")
R1, R1_END = "<｜begin▁of▁sentence｜><｜User｜>What is 2 + 3?<｜Assistant｜>", "<｜end▁of▁sentence｜>"
QUESTION = "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"
SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"


def published(name: str) -> str:
    return (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def r1_that_ends_its_prompt(ending: str) -> str:
    """R1's template; until February 2025 its generation prompt ended in "<｜Assistant｜>"."""
    now, then = "<｜Assistant｜><think>\\n", f"<｜Assistant｜>{ending}"
    assert published("deepseek_r1_distill").count(now) == 1
    return published("deepseek_r1_distill").replace(now, then)


def with_template(template: str, added=(), base: str = "miniworld/qwen2", **special):
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    for name, token in special.items():
        setattr(tokenizer, name, token)
    tokenizer.chat_template = template
    return tokenizer


# name -> (the tokenizer, the prompt, what the completion begins with before REASONING, the end of the turn)
CASES = {
    "R1": (lambda: with_template(published("deepseek_r1_distill")), R1 + "<think>\n", [], R1_END),
    "R1 until February 2025": (
        lambda: with_template(r1_that_ends_its_prompt("")),
        R1,
        ["<think>", "\n"],
        R1_END,
    ),
    "opened without a line break": (
        lambda: with_template(r1_that_ends_its_prompt("<think>")),
        R1 + "<think>",
        ["\n"],
        R1_END,
    ),
    "opened with two": (
        lambda: with_template(r1_that_ends_its_prompt("<think>\\n\\n")),
        R1 + "<think>\n\n",
        [],
        R1_END,
    ),
    "Qwen2.5": (
        lambda: with_template(published("qwen2_5"), CHATML, eos_token="<|im_end|>", bos_token=None),
        SYSTEM.format("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.") + QUESTION,
        ["<think>", "\n"],
        "<|im_end|>",
    ),
    "Qwen2.5, base": (
        lambda: with_template(published("qwen2_5"), CHATML, eos_token="<|endoftext|>", bos_token=None),
        SYSTEM.format("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.") + QUESTION,
        ["<think>", "\n"],
        "<|im_end|>",
    ),
    "Qwen3": (
        lambda: with_template(published("qwen3"), CHATML, eos_token="<|im_end|>", bos_token=None),
        QUESTION,
        ["<think>", "\n"],
        "<|im_end|>",
    ),
    "Qwen3.5, thinking": (
        lambda: with_template(published("qwen3_5_think"), CHATML, eos_token="<|im_end|>", bos_token=None),
        QUESTION + "<think>\n",
        [],
        "<|im_end|>",
    ),
    "SmolLM2": (
        lambda: with_template(SMOLLM2, CHATML, bos_token="<|im_start|>", eos_token="<|im_end|>"),
        SYSTEM.format("You are a helpful AI assistant named SmolLM, trained by Hugging Face") + QUESTION,
        ["<think>", "\n"],
        "<|im_end|>",
    ),
    "Llama 3, base": (
        lambda: with_template(
            published("llama3"), LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
        ),
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 3?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ["<think>", "\n"],
        "<|eot_id|>",
    ),
    "Llama 3.2": (
        lambda: with_template(
            published("llama3_2").replace('strftime_now("%d %b %Y")', "'today'"),
            LLAMA3,
            bos_token="<|begin_of_text|>",
            eos_token="<|eot_id|>",
        ),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: today\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 3?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ["<think>", "\n"],
        "<|eot_id|>",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_targets_token_by_token(name):
    make, prompt, opening, end = CASES[name]
    tokenizer = make()
    ids, labels = chat_template.reference_labels(tokenizer, ROW)
    n_prompt = labels.count(-100)
    inference = tokenizer.apply_chat_template(ROW["prompt"], add_generation_prompt=True)["input_ids"]
    assert ids[:n_prompt] == inference
    assert tokenizer.decode(ids[:n_prompt]) == prompt
    assert [tokenizer.decode([token]) for token in ids[n_prompt:]] == [*opening, *REASONING, *ANSWER, end]
    assert labels == [-100] * n_prompt + ids[n_prompt:]
    # generation starts from this prompt, and stops at this end
    assert chat_template.prompt_text(tokenizer, ROW["prompt"]) == prompt
    assert tokenizer.decode([end_of_turn(tokenizer)]) == end


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("R1", "opened"))])
def test_targets_are_the_rendered_conversation(name):
    """Where a template keeps the reasoning: to the last character but ChatML's line break after the end."""
    tokenizer = CASES[name][0]()
    ids, _ = chat_template.reference_labels(tokenizer, ROW)
    rendered = tokenizer.apply_chat_template(ROW["prompt"] + ROW["completion"], tokenize=False)
    assert tokenizer.decode(ids) == rendered.removesuffix("\n")
    assert ids == tokenizer(rendered, add_special_tokens=False)["input_ids"][: len(ids)]


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(("R1", "opened"))])
def test_where_the_template_strips_the_reasoning_the_rest_is_the_rendered_conversation(name):
    tokenizer = CASES[name][0]()
    text = tokenizer.decode(chat_template.reference_labels(tokenizer, ROW)[0])
    before, _, after = text.partition("</think>")
    rendered = tokenizer.apply_chat_template(ROW["prompt"] + ROW["completion"], tokenize=False)
    assert before.partition("<think>")[0] + after == rendered


@pytest.mark.parametrize("name", CASES)
def test_preflight_passes_on_every_template_and_sees_a_lost_tag_and_another_end(name):
    tokenizer = CASES[name][0]()
    ids, labels = chat_template.reference_labels(tokenizer, ROW)
    n_prompt = labels.count(-100)

    def failed(completion):
        row = {"input_ids": ids[:n_prompt] + completion, "labels": [-100] * n_prompt + completion}
        found = preflight([row], tokenizer, completion_only_collator(tokenizer))
        return {check.name for check in found.checks if not check.passed}

    assert failed(ids[n_prompt:]) == set()
    assert "EOS contributes to the loss" in failed(ids[n_prompt:-1] + tokenizer.encode("</think>")[-1:])
    think = tokenizer.convert_tokens_to_ids("<think>")
    doubled_or_lost = [token for token in ids[n_prompt:] if token != think]
    if len(doubled_or_lost) == len(ids) - n_prompt:
        doubled_or_lost.insert(0, think)
    assert "one <think>, one </think>" in failed(doubled_or_lost)


def test_a_tokenizer_without_the_tags_writes_them_in_pieces():
    if not REAL_QWEN2.is_dir():
        pytest.skip(f"no {REAL_QWEN2}: the real Qwen2 tokenizer")
    tokenizer = load_tokenizer(str(REAL_QWEN2))
    ids, labels = chat_template.reference_labels(tokenizer, ROW)
    assert tokenizer.eos_token == "<|endoftext|>", "not what ends a turn"
    assert [tokenizer.decode([token]) for token in ids[labels.count(-100) :]] == [
        "<th",
        "ink",
        ">\n",
        "2",
        " +",
        " ",
        "3",
        " =",
        " ",
        "5",
        ".\n",
        "</",
        "think",
        ">\n\n",
        "The",
        " answer",
        " is",
        " ",
        "5",
        ".",
        "<|im_end|>",
    ]
    row = {"input_ids": ids, "labels": labels}
    assert preflight([row], tokenizer, completion_only_collator(tokenizer)).passed


def test_earlier_turns_are_of_the_prompt():
    tokenizer = CASES["Qwen2.5"][0]()
    earlier = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "<think>\n1 + 1 = 2.\n</think>\n\nThe answer is 2."},
    ]
    row = ROW | {"prompt": earlier + ROW["prompt"]}
    ids, labels = chat_template.reference_labels(tokenizer, row)
    n_prompt = labels.count(-100)
    assert tokenizer.decode(ids[n_prompt:]) == CONTENT + "<|im_end|>"
    prompt = tokenizer.decode(ids[:n_prompt])
    assert prompt.startswith(SYSTEM.format("Be brief.") + "<|im_start|>user\n1 + 1?<|im_end|>")
    row = {"input_ids": ids, "labels": labels}
    assert preflight([row], tokenizer, completion_only_collator(tokenizer)).passed


@pytest.mark.parametrize(
    "template",
    ["{%- set enable_thinking = false %}" + published("qwen3"), published("qwen3_5_nothink")],
    ids=["Qwen3", "Qwen3.5"],
)
def test_a_prompt_that_has_closed_the_reasoning_is_refused_and_the_way_out_works(template):
    tokenizer = with_template(template, CHATML, eos_token="<|im_end|>", bos_token=None)
    assert chat_template.prompt_text(tokenizer, ROW["prompt"]).endswith("<think>\n\n</think>\n\n")
    with pytest.raises(ValueError, match="set enable_thinking = true"):
        chat_template.reference_labels(tokenizer, ROW)
    tokenizer.chat_template = "{%- set enable_thinking = true %}\n" + template.replace(
        "{%- set enable_thinking = false %}", ""
    )
    ids, _ = chat_template.reference_labels(tokenizer, ROW)
    assert tokenizer.decode(ids) == QUESTION + CONTENT + "<|im_end|>"


def test_a_template_that_ends_a_turn_with_no_token_leaves_it_to_eos():
    plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{{ 'assistant: ' }}"
    tokenizer = with_template(plain)
    ids, _ = chat_template.reference_labels(tokenizer, ROW)
    assert tokenizer.decode(ids) == f"user: What is 2 + 3?\nassistant: {CONTENT}{tokenizer.eos_token}"
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token"):
        chat_template.reference_labels(tokenizer, ROW)


def test_a_template_that_shows_no_answers_is_refused():
    tokenizer = with_template("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(ValueError, match="chat_template"):
        chat_template.reference_labels(tokenizer, ROW)


# --- where generation stops --------------------------------------------------------------------------


@pytest.fixture
def model():
    return load_model("miniworld/qwen2").eval()


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("miniworld/qwen2")


def written_without_end(model, tokenizer, n=12):
    """(prompt, the greedy tokens after it) of a model that stops at nothing."""
    prompt = chat_template.prompt_text(tokenizer, [{"role": "user", "content": "Who works at the mill?"}])
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    made = model.generate(input_ids=ids, max_new_tokens=n, do_sample=False, eos_token_id=None, pad_token_id=0)
    return prompt, made[0, ids.shape[1] :].tolist()


def test_generation_stops_at_every_end_of_the_model(model, tokenizer):
    """At any of generation_config's list, and the end itself is not shown, though it is no special token."""
    prompt, tokens = written_without_end(model, tokenizer)
    at = next(i for i in range(3, len(tokens)) if tokens[i] not in tokens[:i])
    model.generation_config.eos_token_id = [tokens[at], tokenizer.eos_token_id]
    wanted = tokenizer.decode(tokens[:at])
    assert generation.generate_greedy(model, tokenizer, [prompt], 40) == [wanted]
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    greedy = sampling_config(temperature=0)
    said = []
    FolderChatModel("m", model, tokenizer).answer(ids, 40, greedy, 0, said.append)
    assert "".join(said) == wanted


@pytest.mark.parametrize("ends, listed", [(None, set()), (7, {7}), ([7, 9], {7, 9}), ([], set())])
def test_stops_are_all_of_the_models_the_tokenizers_and_the_templates(model, ends, listed):
    model.generation_config.eos_token_id = ends
    base = load_tokenizer("miniworld/llama")  # its EOS is <|endoftext|>; its template ends a turn otherwise
    end = base.convert_tokens_to_ids(R1_END)
    assert set(stop_token_ids(model, base)) == {base.eos_token_id, end} | listed
    base.chat_template = None
    assert set(stop_token_ids(model, base)) == {base.eos_token_id} | listed


def test_generation_stops_at_the_templates_end_which_no_config_names(model, tokenizer):
    prompt, tokens = written_without_end(model, tokenizer)
    at = next(i for i in range(3, len(tokens)) if tokens[i] not in tokens[:i])
    end = tokenizer.convert_ids_to_tokens(tokens[at])
    other = with_template(tokenizer.chat_template.replace("<｜end▁of▁sentence｜>", end), [end])
    assert generation.generate_greedy(model, other, [prompt], 40) == [tokenizer.decode(tokens[:at])]


# --- the job -------------------------------------------------------------------------------------------


THINK = {"n_train": 20, "n_validation": 5, "n_eval": 5, "n_harder": 0, "augmented_copies": 0, "epochs": 1}
THINK["trained_steps"] = 4  # all problems of the set


R1_TEMPLATE = published("deepseek_r1_distill")


def saved_with(tmp_path, base="qwen2", template=None, **config):
    """A copy of a base with another template or other special tokens."""
    import shutil

    from lmlab import miniworld

    folder = shutil.copytree(miniworld.model_dir(base), tmp_path / "model")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | config), encoding="utf-8")
    return str(folder)


def run(lesson, tmp_path, **choices):
    from lmlab.recipes import load_recipe
    from lmlab.training.sft import run_recipe

    return run_recipe(load_recipe(lesson, "tiny", **choices), tmp_path / "out")


@pytest.fixture
def no_weights(monkeypatch):
    """What is refused is refused before any weights are loaded."""

    def loads(*_, **__):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("lmlab.training.sft.build_model", loads)


@pytest.mark.parametrize(
    "fault, told",
    [
        ({"template": R1_TEMPLATE.replace("{{bos_token}}", "{{bos_token}}{{bos_token}}")}, "BOS"),
        ({"template": R1_TEMPLATE.replace("<think>\\n", "<think>\\n<think>\\n")}, "<think>"),
        ({"template": R1_TEMPLATE.replace("<think>\\n", "<think>\\n</think>\\n")}, "enable_thinking"),
        ({"template": R1_TEMPLATE.replace(R1_END, ""), "eos_token": None}, "eos_token"),
    ],
    ids=["two BOS", "two <think>", "closed", "no end"],
)
def test_job_06_refuses_what_notebook_06_would(fault, told, tmp_path, no_weights):
    model = saved_with(tmp_path, **fault)
    with pytest.raises(ValueError, match=told):
        run("06_deepseek_qlora_think", tmp_path, model=model, **THINK)


def test_job_06_refuses_labels_without_the_reasoning(tmp_path, no_weights, monkeypatch):
    """Targets from the whole rendered conversation, a common mistake: R1's template drops the reasoning."""

    def rendered(tokenizer, row):
        ids = tokenizer.apply_chat_template(row["prompt"] + row["completion"])["input_ids"]
        return ids, [-100, *ids[1:]]

    monkeypatch.setattr("lmlab.data.labels.reference_labels", rendered)
    with pytest.raises(ValueError, match="the reasoning contributes to the loss"):
        run("06_deepseek_qlora_think", tmp_path, **THINK)


def test_job_06_tells_what_the_preflight_found_and_then_loads_weights(tmp_path, no_weights, caplog):
    with caplog.at_level("INFO", "lmlab"), pytest.raises(AssertionError, match="weights were loaded"):
        run("06_deepseek_qlora_think", tmp_path, model="miniworld/llama", **THINK)
    lines = [record.message for record in caplog.records if record.message.startswith("preflight")]
    assert [line.split(":")[0] for line in lines] == ["preflight of train", "preflight of validation"]
    assert all("checks passed" in line for line in lines)
    assert "20 examples" in lines[0] and "5 examples" in lines[1]


@pytest.mark.parametrize(
    "lesson, choices",
    [
        ("04_shakespeare_full_finetune", {"n_train": 32, "n_validation": 20, "study_sizes": [20]}),
        ("05_llama_lora_4bit", {"n_train": 40, "n_validation": 5}),
    ],
)
def test_jobs_04_and_05_refuse_a_tokenizer_without_an_end(lesson, choices, tmp_path, no_weights):
    base = {"04": "gpt2", "05": "llama"}[lesson[:2]]
    model = saved_with(tmp_path, base, eos_token=None)
    with pytest.raises(ValueError, match="eos_token"):
        run(lesson, tmp_path, model=model, **choices)


def test_job_04_refuses_pairs_whose_prompt_is_learnt(tmp_path, no_weights, monkeypatch):
    def careless(*args, make=pairs.tokenize_pairs, **kwargs):
        rows = make(*args, **kwargs)
        return rows.map(lambda row: {"labels": [-100, *row["input_ids"][1:]]})

    monkeypatch.setattr("lmlab.training.sft.tokenize_pairs", careless)
    with pytest.raises(ValueError, match="the prompt is masked"):
        run("04_shakespeare_full_finetune", tmp_path, n_train=32, n_validation=20, study_sizes=[20])
