"""Model cards and uploads."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lmlab.export.folders import MARK
from lmlab.export.merge import HEAD, own_head


class Result(NamedTuple):
    """One metric of a model on held-out data, with its 95% interval."""

    metric: str  # "perplexity", "right answers", ...
    value: float
    low: float
    high: float
    data: str  # the source of the data


def hub_id(source: str) -> str | None:
    """The hub's name in a source of data or of a model, or None where it is local or of a miniworld."""
    from lmlab.models.sources import model_source

    name = source.partition(":")[0]
    if source.startswith("miniworld/") or Path(source).suffix in (".txt", ".jsonl", ".json", ".parquet"):
        return None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return None
    return name if model_source(name) == name and not Path(name).exists() else None


def _name_of(source: str) -> str:
    """A source by a name that says nothing of this machine's folders."""
    return source if hub_id(source) or source.startswith("miniworld/") else Path(source).name


def model_card(
    title: str,
    *,
    base: str,
    data: Sequence[str],
    recipe: str,
    results: Sequence[Result],
    facts: Mapping[str, object],
    limits: Sequence[str],
):
    """A ``huggingface_hub.ModelCard``: what the model is made of, what was measured and how sure, its limits.

    data: the sources that it was trained on. recipe: how, in one line. facts: what the table of the merge says.
    Base and data that are on the hub are linked in the metadata, others are named in the text.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    about = ModelCardData(
        base_model=hub_id(base),
        base_model_relation="finetune" if hub_id(base) else None,
        datasets=[hub_id(source) for source in data if hub_id(source)] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lmlab", "lora", "merged"],
        model_name=title,
        eval_results=[
            EvalResult(
                "text-generation",
                hub_id(result.data) or _name_of(result.data),
                _name_of(result.data),
                result.metric.replace(" ", "_"),
                round(result.value, 4),
                metric_name=result.metric,
                dataset_split="held out",
                metric_args={"interval_95": [round(result.low, 4), round(result.high, 4)]},
            )
            for result in results
        ],
    )
    measured = "\n".join(
        f"| {r.metric} | {r.value:.4g} | {r.low:.4g} to {r.high:.4g} | {_name_of(r.data)} |" for r in results
    )
    merge = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return ModelCard(f"""---
{about.to_yaml()}
---
# {title}

{_name_of(base)} with a LoRA adapter merged into its weights. It needs neither peft nor bitsandbytes.

- **Base:** {_name_of(base)}
- **Data:** {", ".join(map(_name_of, data))}
- **Recipe:** {recipe}
- **Licence:** that of the base holds for this model too; read it before you share this

## Measured

On held-out data, with 95% intervals.

| metric | value | interval | data |
|---|---|---|---|
{measured}

## The merge

| what | value |
|---|---|
{merge}

## Limits

{chr(10).join(f"- {limit}" for limit in limits)}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")
tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")
```
""")


class Upload(NamedTuple):
    """What goes, or would go, to the hub."""

    repo: str
    private: bool
    files: dict[str, int]  # path -> bytes
    done: bool

    def __str__(self) -> str:
        rows = [f"  {size / 1e6:12,.3f} MB  {name}" for name, size in self.files.items()]
        calls = [
            f"HfApi().create_repo({self.repo!r}, private={self.private}, exist_ok=True)",
            f"HfApi().upload_folder(repo_id={self.repo!r}, folder_path=...)",
        ]
        said = "uploaded:" if self.done else "a dry run, nothing is sent; what would be called:"
        total = f"  {sum(self.files.values()) / 1e6:12,.3f} MB  in {len(self.files)} files"
        return "\n".join([said, *(f"  {call}" for call in calls), *rows, total])


def push_to_hub(
    folder: str | Path, repo: str, *, really: bool = False, private: bool = True, api=None
) -> Upload:
    """Uploads a merged folder to a repository of the hub; without ``really`` it only says what it would do.

    api: a ``huggingface_hub.HfApi``, made where none is given. Raises ValueError for a folder that is not a
    whole model with a card, for a name that is no "owner/name", and where nobody is logged in.
    """
    folder = Path(folder)
    lacking = [name for name in ("config.json", "README.md") if not (folder / name).is_file()]
    if lacking or not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} lacks {', '.join(lacking) or 'weights'}; give a folder that merge_to_folder "
            "wrote, with its card"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"repo got {repo!r}; give owner/name, as in you/llama-encyclopedia")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("tie_word_embeddings", config.get("model_type") == "gpt2") and own_head(folder):
        raise ValueError(
            f"{folder} holds a {HEAD} that is not its embeddings, and tie_word_embeddings in "
            "config.json says that it is: many programs would drop it; set that to false"
        )
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MARK
    }
    if really:
        _send(folder, repo, private, api)
    return Upload(repo, private, files, really)


def _send(folder: Path, repo: str, private: bool, api) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    api = api or HfApi()
    try:
        api.whoami()
    except LocalTokenNotFoundError as error:
        raise ValueError(f"pushing {repo} needs a login; run: hf auth login") from error
    if private and api.repo_exists(repo) and not api.repo_info(repo).private:
        raise ValueError(f"{repo} is there already, and public; give another name, or private=False")
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo,
        folder_path=str(folder),
        ignore_patterns=[MARK],
        commit_message="A merged model, by lmlab",
    )
