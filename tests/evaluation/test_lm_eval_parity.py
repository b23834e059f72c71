"""HellaSwag against lm-evaluation-harness' own run of its own task, item by item, and against plain loops.

The items are made here and the model is shipped: no network is needed.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lmlab import miniworld
from lmlab.evaluation.hellaswag import score_hellaswag
from lmlab.models.gpt import GPT
from lmlab.models.sources import load_model, load_tokenizer

lm_eval = pytest.importorskip(
    "lm_eval", reason="lm-eval is not installed: pip install --no-deps -r requirements-dev.txt"
)

pytestmark = pytest.mark.slow

# HellaSwag's WikiHow half is marked with brackets, of which the harness takes away what it can
MARKS = ("[header] How to [title] Begin. [step] {}", "{} [substeps] Take care.", "[step]  {} [step]", "{}")
FOREIGN = ["Zqxj vkwq jzxq.", "Η Ζωή γελάει.", "彼女は笑う。", "Zoë’s café là."]  # 1 to 3 bytes a character


@pytest.fixture(scope="module")
def rows():
    """200 items, of which most have what the harness cleans: marks, double blanks, blanks at the ends."""
    rows = []
    for i, row in enumerate(miniworld.dataset("hellaswag", "validation", n=200)):
        mark = MARKS[i % len(MARKS)]
        row = {**row, "label": str(row["label"]), "ctx_a": mark.format(row["ctx_a"])}
        if i % 5 == 0:
            row["ctx_b"] = "the Old lady [step]"
        if i % 7 == 0:
            row["endings"] = [f" {row['endings'][0]}", f"[step] {row['endings'][1]}", *row["endings"][2:]]
        if i % 10 == 1:
            row["endings"] = FOREIGN[i % 4 :] + FOREIGN[: i % 4]
        rows.append({**row, "ctx": f"{row['ctx_a']} {row['ctx_b']}".strip()})
    return rows


@pytest.fixture(scope="module")
def harness(rows, tmp_path_factory):
    """The harness' samples in the order of the rows: {"acc", "acc_norm", "filtered_resps", ...}."""
    import yaml
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("harness")
    items = folder / "items.jsonl"
    items.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = {
        "include": str(Path(lm_eval.__file__).parent / "tasks" / "hellaswag" / "hellaswag.yaml"),
        "task": "hellaswag_local",
        "training_split": None,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(items)}, "cache_dir": str(folder / "cache")},
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
    }
    (folder / "local.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    model = HFLM(pretrained=str(miniworld.model_dir("gpt2")), dtype="float32", device="cpu", batch_size=32)
    result = simple_evaluate(
        model,
        tasks=["hellaswag_local"],
        log_samples=True,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
    )
    return sorted(result["samples"]["hellaswag_local"], key=lambda sample: sample["doc_id"])


@pytest.fixture(scope="module", params=["lmlab", "transformers"])
def scores(request, rows):
    folder = miniworld.model_dir("gpt2")
    model = (
        GPT.from_pretrained(folder)
        if request.param == "lmlab"
        else load_model("miniworld/gpt2", dtype=torch.float32)
    )
    return score_hellaswag(model, load_tokenizer("miniworld/gpt2"), rows, texts="harness", share_context=True)


def test_every_log_likelihood_is_the_harness_own(harness, scores):
    theirs = np.array([[logprob for logprob, _ in sample["filtered_resps"]] for sample in harness])
    assert theirs.shape == (200, 4)
    assert np.abs(scores.logprobs - theirs).max() < 1e-3


@pytest.mark.parametrize("convention, metric", [("sum", "acc"), ("char", "acc_norm"), ("byte", "acc_bytes")])
def test_every_verdict_is_the_harness_own(convention, metric, harness, scores):
    assert scores.correct(convention).tolist() == [bool(sample[metric]) for sample in harness]


def test_conventions_are_told_apart_by_these_items(scores):
    """Otherwise the equalities above would show little."""
    chosen = [scores.chosen(convention).tolist() for convention in ("sum", "char", "byte")]
    assert chosen[0] != chosen[1] != chosen[2]


def test_one_ending_at_a_time(harness, scores):
    """What the harness gave the model, read by transformers one text at a time, with no batch and no tree."""
    model = load_model("miniworld/gpt2", dtype=torch.float32).eval()
    tokenizer = load_tokenizer("miniworld/gpt2")
    for i, sample in enumerate(harness[:40]):
        for j, (context, ending) in enumerate(sample["arguments"]):
            ids = torch.tensor([tokenizer(context + ending)["input_ids"]])
            n = len(tokenizer(context.rstrip())["input_ids"])
            with torch.no_grad():
                logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[n - 1 :]
            assert scores.logprobs[i, j] == pytest.approx(logprobs.sum().item(), abs=1e-3)
