"""Model cards and uploads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lmlab.export.merge import MERGED_MARK

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

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


def _hub_id(source: str) -> str | None:
    """The owner/name of a source of data or of a model that is on the hub, else None."""
    name = source.partition(":")[0]  # what follows is the configuration of a data set
    is_local = source.startswith("miniworld/") or Path(name).exists()
    return name if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not is_local else None


def _public_name(source: str) -> str:
    """A source by a name that says nothing of this machine's folders."""
    return source if _hub_id(source) or source.startswith("miniworld/") else Path(source).name


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

    # what the hub shows beside the card; it knows no intervals, so they go among the arguments
    evaluated = []
    for result in results:
        evaluated.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=_hub_id(result.data) or result.source_name,
                dataset_name=result.source_name,
                dataset_split="held out",
                metric_type=result.metric.replace(" ", "_"),
                metric_name=result.metric,
                metric_value=round(result.value, 4),
                metric_args={"interval_95": [round(result.low, 4), round(result.high, 4)]},
            )
        )
    # the hub refuses metadata that names a model or a data set which it does not have
    card_data = ModelCardData(
        base_model=_hub_id(base),
        base_model_relation="finetune" if _hub_id(base) else None,
        datasets=[_hub_id(source) for source in data if _hub_id(source)] or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lmlab", "lora", "merged"],
        model_name=title,
        eval_results=evaluated,
    )
    # a private path must not get into a card that others will read
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


def push_to_hub(folder: str | Path, repo: str, *, dry_run: bool = True) -> str:
    """Uploads a merged folder to a private repository of the hub; in a dry run it only says what it would do.

    Args:
        folder: What ``merge_to_folder`` wrote, with a model card.
        repo: "owner/name".
        dry_run: Nothing is sent.

    Returns:
        What was sent, or would be: each file with its size.

    Raises:
        ValueError: The folder is not a complete model with a model card, or the repository is public already.
        LocalTokenNotFoundError: Nobody is logged in (hf auth login).
    """
    folder = Path(folder)
    for pattern in ("config.json", "README.md", "*.safetensors"):
        if not any(folder.glob(pattern)):
            raise ValueError(f"{folder} lacks {pattern}; give what merge_to_folder wrote, with a card")
    # the list is the dry run's whole purpose: it shows a file that should not be sent
    sizes = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MERGED_MARK:
            sizes[str(file.relative_to(folder))] = file.stat().st_size
    if not dry_run:
        _upload(folder, repo)
    lines = [f"a dry run, nothing is sent to {repo}:" if dry_run else f"uploaded to {repo}:"]
    lines += [f"  {size / 1e6:12,.3f} MB  {name}" for name, size in sizes.items()]
    lines.append(f"  {sum(sizes.values()) / 1e6:12,.3f} MB  in {len(sizes)} files")
    return "\n".join(lines)


def _upload(folder: Path, repo: str) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.whoami()  # raises, and says how to log in
    # create_repo would leave a public repository public, and what was fetched from it cannot be taken back
    if api.repo_exists(repo) and not api.repo_info(repo).private:
        raise ValueError(f"repo got {repo!r}, which is public already; give another name")
    api.create_repo(repo, private=True, exist_ok=True)
    api.upload_folder(
        repo_id=repo,
        folder_path=str(folder),
        ignore_patterns=[MERGED_MARK],
        commit_message="A merged model, by lmlab",
    )
