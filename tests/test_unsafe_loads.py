"""Nothing that is loaded can run code: not by this project's calls, not from a stranger's checkpoint."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager
from peft import LoraConfig, get_peft_model

from lmlab.cli import main
from lmlab.export import merge
from lmlab.export.gguf import export_gguf
from lmlab.models.adapters import save_adapter
from lmlab.models.sources import load_model, load_tokenizer, model_source
from lmlab.training.checkpoints import mark_complete

ROOT = Path(__file__).parents[1]
# modules that run code as they load, and what may be taken of them
RUN_CODE = {
    "pickle": {"UnpicklingError"},
    "dill": set(),
    "cloudpickle": set(),
    "joblib": set(),
    "shelve": set(),
    "marshal": set(),
    "_pickle": set(),
}
FORBIDDEN = {"eval", "exec"}  # as functions; model.eval() is another thing


def unsafe(source: str) -> list[str]:
    """What in a piece of Python could run code that it loads, line by line."""
    found, tree = [], ast.parse(source)
    checked = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _says(node, weights_only=True)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names if alias.name.split(".")[0] in RUN_CODE]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names, package = {alias.name for alias in node.names}, node.module.split(".")[0]
            if node.module in ("torch", "yaml"):
                found += [
                    (node, f"{node.module}.{name}") for name in names & {"load", "unsafe_load", "full_load"}
                ]
            elif package in RUN_CODE:
                found += [(node, f"{node.module}.{name}") for name in names - RUN_CODE[package]]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if name == "torch.load" and id(node) not in checked:
                found.append((node, name))
            if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load") or node.attr == "read_pickle":
                found.append((node, name))
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN:
                found.append((node, node.func.id))
            for key in ("allow_pickle", "trust_remote_code"):
                if any(keyword.arg == key for keyword in node.keywords) and not _says(node, **{key: False}):
                    found.append((node, key))
    return [f"line {node.lineno}: {name}" for node, name in found]


def _says(call: ast.Call, **values) -> bool:
    ((key, value),) = values.items()
    return any(
        keyword.arg == key and isinstance(keyword.value, ast.Constant) and keyword.value.value is value
        for keyword in call.keywords
    )


def notebook_cells(path: Path) -> list[str]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    # magics become function calls
    return [TransformerManager().transform_cell(source) for source in sources]


FILES = sorted(
    path
    for folder in ("lmlab", "benchmarks", "notebooks", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in path.parts
)


@pytest.mark.slow
def test_nothing_in_the_project_loads_what_could_run():
    """Tests may run the project's own cells; what they load is held to the same."""
    found = []
    for path in FILES:
        cells = notebook_cells(path) if path.suffix == ".ipynb" else [path.read_text(encoding="utf-8")]
        for number, cell in enumerate(cells):
            found += [f"{path.relative_to(ROOT)}, cell {number}, {one}" for one in unsafe(cell)]
    in_tests = [one for one in found if one.startswith("tests/") and one.endswith((": eval", ": exec"))]
    assert set(found) == set(in_tests)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=name == 'a')",
        "read = torch.load",
        "from torch import load",
        "import pickle",
        "from pickle import loads",
        "import joblib",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "f(trust_remote_code=trust)",
        "eval(text)",
        "exec(text)",
    ],
)
def test_the_check_sees_what_is_unsafe(line):
    assert len(unsafe(line)) == 1


def test_the_check_lets_pass_what_is_safe():
    assert not unsafe(
        "torch.load(path, "
        "weights_only=True)\nyaml.safe_load(text)\nnp.load(path)\nmodel.eval()\nnp.load(path, "
        "allow_pickle=False)\nfrom pickle import UnpicklingError\nast.literal_eval(text)"
    )


# --- a stranger's files ----------------------------------------------------------------------------


class Hostile:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture()
def hostile(tmp_path):
    """Writes a hostile file. When the test is over, the code in it must not have run."""
    mark = tmp_path / "the code was run"

    def write(path: Path) -> Path:
        torch.save({"optimizer": Hostile(mark), "model": Hostile(mark)}, path)
        return path

    yield write
    assert not mark.exists()


def test_a_careless_reader_would_run_it(tmp_path):
    torch.save(Hostile(tmp_path / "run"), tmp_path / "file.pt")
    vars(torch)["load"](tmp_path / "file.pt", weights_only=False)  # as the check above does not see it
    assert (tmp_path / "run").exists()


def refused(capsys, *command: str) -> str:
    """What a command says that must refuse."""
    assert main([*map(str, command)]) == 2
    said = capsys.readouterr().err
    assert "weights_only" not in said and "Traceback" not in said
    return said


def test_a_models_folder(hostile, capsys, tmp_path):
    folder = shutil.copytree(model_source("miniworld/llama"), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    hostile(folder / "pytorch_model.bin")
    assert str(folder) in refused(capsys, "chat", folder, "--prompt", "Hello")
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        load_model(str(folder))
    with pytest.raises(ValueError, match="safetensors"):
        export_gguf(folder, tmp_path / "model.gguf")


def test_an_adapters_folder(hostile, machine, capsys, tmp_path):
    model = get_peft_model(
        load_model("miniworld/llama"), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    adapter = save_adapter(model, tmp_path / "adapter", "miniworld/llama")
    (adapter / "adapter_model.safetensors").unlink()
    hostile(adapter / "adapter_model.bin")
    assert str(adapter) in refused(capsys, "chat", adapter, "--prompt", "Hello")
    with pytest.raises(ValueError, match=re.escape(str(adapter))):
        merge.merge_to_folder(
            adapter, tmp_path / "m", "16-bit base", machine, load_tokenizer("miniworld/llama")
        )
    assert not (tmp_path / "m").exists()


def settings(**values) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


PRETRAIN = [
    "pretrain",
    *settings(
        max_steps=4,
        checkpoint_every=2,
        eval_every=4,
        warmup_steps=1,
        n_docs=200,
        shard_tokens=10_000,
        eval_docs=10,
        n_layer=1,
        n_embd=32,
        batch_size=2,
        grad_accumulation=1,
        hellaswag_items=4,
    ),
]


@pytest.mark.slow
def test_a_pretraining_that_is_to_go_on(hostile, capsys, tmp_path):
    out = tmp_path / "out"
    assert main([*PRETRAIN, "--out", str(out)]) == 0
    capsys.readouterr()
    lesson = out / "02_gpt2_from_scratch"
    shutil.rmtree(lesson / "model")
    newest = max(
        (lesson / "checkpoints").glob("step_*/trainer.pt"), key=lambda path: int(path.parent.name[5:])
    )
    hostile(newest)
    assert str(newest) in refused(capsys, *PRETRAIN, "--out", out)


FINETUNE = [
    "finetune",
    "05",
    *settings(n_train=16, n_validation=4, epochs=3, evaluations=3, grad_accumulation=1),
]


@pytest.fixture(scope="module")
def interrupted(machine, tmp_path_factory):
    """A fine-tuning that was killed before its last step."""
    out = tmp_path_factory.mktemp("finetune") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lmlab.training.sft.remove_checkpoints", lambda folder: None)
        assert main([*FINETUNE, "--out", str(out)]) == 0
    shutil.rmtree(out / "05_llama_lora_4bit" / "adapter")
    shutil.rmtree(out / "05_llama_lora_4bit" / "trainer" / "checkpoint-3")
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin"])
def test_a_fine_tuning_that_is_to_go_on(name, interrupted, hostile, capsys, tmp_path):
    out = shutil.copytree(interrupted, tmp_path / "out")
    for checkpoint in (out / "05_llama_lora_4bit" / "trainer").glob("checkpoint-*"):
        if name.endswith(".bin"):
            (checkpoint / "adapter_model.safetensors").unlink()
        hostile(checkpoint / name)
        mark_complete(checkpoint)
    assert "checkpoint-" in refused(capsys, *FINETUNE, "--out", out)
