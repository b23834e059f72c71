"""Imports point downward, and importing lmlab does nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lmlab"
# a module may import its own layer and the layers below it
LAYERS = [
    {
        "hardware",
        "gpt",
        "plots",
        "checkpoints",
        "adapters",
        "files",
        "signals",
        "ranks",
        "notation",
        "units",
        "formulas",
        "token_view",
        "board",
    },
    {
        "recipes",
        "results",
        "data",
        "analysis",
        "miniworld",
        "shards",
        "loader",
        "generate",
        "pairs",
        "answers",
        "reasoning",
        "augmentation",
        "preflight",
        "rewards",
        "chat_template",
        "readers",
        "rows",
    },
    {
        "train",
        "pretraining",
        "finetune",
        "evaluate",
        "export",
        "translation",
        "cost",
        "rehearsal",
        "blind",
        "gguf_export",
        "llama_cpp",
        "modelfile",
        "chat",
        "exercises",
        "widgets",
        "live",
        "finetuning",
    },
    {"plan"},
    {"runner", "report", "pages", "records", "sanitize", "comparison", "search", "doctor", "cli", "__main__"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer_of(name: str) -> int:
    for level, names in enumerate(LAYERS):
        if name in names:
            return level
    raise AssertionError(f"lmlab.{name} stands in no layer; put it into LAYERS")


def imported_lmlab_modules(path: Path) -> set[str]:
    """First-level names under lmlab that a module imports anywhere, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not getattr(node, "level", 0), f"{path} imports relatively, which this check cannot follow"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lmlab":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lmlab.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_imports_upward(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":  # check and hint, when they are called
        assert imported_lmlab_modules(path) == {"exercises"}
        return
    above = {name for name in imported_lmlab_modules(path) if layer_of(name) > layer_of(own)}
    assert not above, f"{own} (layer {layer_of(own)}) imports upward: {above}"


def test_the_check_sees_an_upward_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from lmlab.cli import main\n    import lmlab.train\n")
    assert imported_lmlab_modules(wrong) == {"cli", "train"}


def test_the_layers_name_the_modules_that_there_are():
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert sorted(name for names in LAYERS for name in names) == sorted(modules)


MODELS = {"gpt", "train", "pretraining", "rehearsal"}  # subclasses of torch's own classes: they import torch


@pytest.mark.parametrize("module", sorted({name for names in LAYERS for name in names} | {"miniworld.bases"}))
def test_importing_is_light_and_silent(module):
    heavy = {"transformers", "trl", "peft", "datasets", "optuna"} | (
        {"torch"} if module not in MODELS else set()
    )
    code = f"import sys, lmlab.{module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_lmlab_itself_imports_nothing_of_its_own():
    code = "import sys, lmlab; print([name for name in sys.modules if name.startswith('lmlab.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
