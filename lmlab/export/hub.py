"""Model cards and uploads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmlab.export.merge import FILE_LIST
from lmlab.export.weight_files import HEAD, own_head

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelCard

CARD_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


class Result(NamedTuple):
    """One metric of a model on held-out data, with its 95% interval."""

    metric: str  # "perplexity", "accuracy", ...
    value: float
    low: float
    high: float
    data: str  # the source of the data

    @property
    def source_name(self) -> str:
        """The data by a name that anybody may see."""
        return _public_name(self.data)


def hub_id(source: str) -> str | None:
    """The hub's name in a source of data or of a model, or None where it is local or of a miniworld."""
    from lmlab.models.sources import model_source

    name = source.partition(":")[0]
    if source.startswith("miniworld/") or Path(source).suffix in (".txt", ".jsonl", ".json", ".parquet"):
        return None
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        return None
    return name if model_source(name) == name and not Path(name).exists() else None


def _public_name(source: str) -> str:
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
) -> ModelCard:
    """A ``huggingface_hub.ModelCard``: what the model is made of, what was measured and how sure, its limits.

    Base and data that are on the hub are linked in the metadata, others are named in the text.

    Args:
        title: The model's name.
        base: The source of the base.
        data: The sources that it was trained on.
        recipe: How it was trained, in one line.
        results: What was measured.
        facts: Name and value of what the table of the merge says.
        limits: What it cannot do, a sentence each.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    evaluated = []
    for result in results:
        evaluated.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=hub_id(result.data) or result.source_name,
                dataset_name=result.source_name,
                dataset_split="held out",
                metric_type=result.metric.replace(" ", "_"),
                metric_name=result.metric,
                metric_value=round(result.value, 4),
                metric_args={"interval_95": [round(result.low, 4), round(result.high, 4)]},
            )
        )
    card_data = ModelCardData(
        base_model=hub_id(base),
        base_model_relation="finetune" if hub_id(base) else None,
        datasets=[hub_id(source) for source in data if hub_id(source)] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lmlab", "lora", "merged"],
        model_name=title,
        eval_results=evaluated,
    )
    return ModelCard.from_template(
        card_data,
        template_path=str(CARD_TEMPLATE),
        title=title,
        base=_public_name(base),
        data=", ".join(_public_name(source) for source in data),
        recipe=recipe,
        results=results,
        facts=facts,
        limits=limits,
    )


class Upload(NamedTuple):
    """What goes, or would go, to the hub."""

    repo: str
    private: bool
    files: dict[str, int]  # path -> bytes
    done: bool

    def __str__(self) -> str:
        lines = ["uploaded:" if self.done else "a dry run, nothing is sent; what would be called:"]
        lines.append(f"  HfApi().create_repo({self.repo!r}, private={self.private}, exist_ok=True)")
        lines.append(f"  HfApi().upload_folder(repo_id={self.repo!r}, folder_path=...)")
        lines += [f"  {size / 1e6:12,.3f} MB  {name}" for name, size in self.files.items()]
        lines.append(f"  {sum(self.files.values()) / 1e6:12,.3f} MB  in {len(self.files)} files")
        return "\n".join(lines)


def push_to_hub(
    folder: str | Path, repo: str, *, dry_run: bool = True, private: bool = True, api: HfApi | None = None
) -> Upload:
    """Uploads a merged folder to a repository of the hub; in a dry run it only says what it would do.

    Args:
        folder: What ``merge_to_folder`` wrote, with a model card.
        repo: "owner/name".
        dry_run: Nothing is sent.
        private: Whether the repository is made private.
        api: A ``huggingface_hub.HfApi``; by default a new one.

    Raises:
        ValueError: The folder is not a complete model with a model card, the name is no "owner/name", or the
            repository is public already and was to be private.
        LocalTokenNotFoundError: Nobody is logged in (hf auth login).
    """
    folder = Path(folder)
    missing = [name for name in ("config.json", "README.md") if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"{folder} lacks {', '.join(missing) or 'weights'}; give a folder that merge_to_folder wrote, with "
            "its model card"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ValueError(f"repo got {repo!r}; give owner/name, as in you/llama-encyclopedia")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("tie_word_embeddings", config.get("model_type") == "gpt2") and own_head(folder):
        raise ValueError(
            f"{folder} holds a {HEAD} that is not its embeddings, and tie_word_embeddings in config.json says that "
            "it is: many programs would drop it; set that to false"
        )
    # what is sent, and how much that is
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != FILE_LIST:
            files[str(file.relative_to(folder))] = file.stat().st_size
    if not dry_run:
        _upload(folder, repo, private, api)
    return Upload(repo, private, files, done=not dry_run)


def _upload(folder: Path, repo: str, private: bool, api) -> None:
    from huggingface_hub import HfApi

    api = api or HfApi()
    api.whoami()  # raises, and says how to log in
    if private and api.repo_exists(repo) and not api.repo_info(repo).private:
        raise ValueError(f"repo got {repo!r}, which is public already; give another name, or private=False")
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo,
        folder_path=str(folder),
        ignore_patterns=[FILE_LIST],
        commit_message="A merged model, by lmlab",
    )
