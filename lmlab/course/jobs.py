"""Training without a notebook, ``lmlab finetune`` and ``lmlab pretrain``: it leaves a run like any other."""

import time
from collections.abc import Callable
from pathlib import Path

from lmlab.course.lesson import write_recipe, write_record
from lmlab.course.results import write_metrics
from lmlab.course.runs import RUN_FOLDERS
from lmlab.hardware import describe_machine
from lmlab.recipes import Recipe


def finetune(cfg: Recipe, run: Path | None = None, bits: int | None = None) -> Path:
    """Trains a recipe of lesson 00, 04, 05 or 06, and resumes where an earlier call was interrupted.

    Args:
        cfg: The recipe.
        run: The run's folder; None: runs/finetune-<recipe>.
        bits: Of the frozen weights beside an adapter, 4 (None) or 16.

    Returns:
        The lesson's folder, with model/ or adapter/, metrics.json, recipe.yaml and record.json.

    Raises:
        ValueError: The folder holds a finished run, or one of another recipe.
    """
    from lmlab.training import sft

    def train(out: Path) -> dict:
        evaluations = sft.run_recipe(cfg, out, bits)
        return {"eval_loss_before": evaluations[0][1], "eval_loss": min(loss for _, loss in evaluations)}

    return _train("finetune", cfg, run, train)


def pretrain(cfg: Recipe, run: Path | None = None, replace: bool = False, data_only: bool = False) -> Path:
    """Pretrains lesson 02's model by its recipe, and resumes where an earlier call was interrupted.

    Args:
        cfg: The recipe.
        run: The run's folder; None: runs/pretrain-<recipe>.
        replace: Begin again where a finished or another run is; that one goes to previous/.
        data_only: Prepare the shards, and stop.

    Returns:
        The lesson's folder.
    """
    from lmlab.training import pretrain_recipe

    def train(out: Path) -> dict | None:
        history = pretrain_recipe.run_recipe(cfg, out, replace, data_only)
        if history is None:
            return None
        return {"val_loss": history.evaluations[-1]["loss"], "tokens_per_second": history.tokens_per_second}

    return _train("pretrain", cfg, run, train)


def _train(command: str, cfg: Recipe, run: Path | None, train: Callable[[Path], dict | None]) -> Path:
    """Runs ``train(out)``, which gives the metrics; under a launcher the main process writes the records."""
    from lmlab.training.distributed import is_main_process

    started = time.time()
    # a name that says which recipe it is: the same command then resumes what it began
    run = (run or RUN_FOLDERS[0] / f"{command}-{cfg.name}").expanduser().resolve()
    out = run / cfg.lesson
    metrics = train(out)
    # None: only the data was prepared. Every process trains, and one writes.
    if metrics is None or not is_main_process():
        return out
    write_recipe(out, cfg)
    # the recipe's bands are of what the notebook measures
    write_metrics(out, cfg.model_copy(update={"expected": {}}), metrics, started)
    write_record(out, describe_machine(), time.time() - started)
    return out
