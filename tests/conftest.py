"""What several test files share."""

import os
import sys
from pathlib import Path

import pytest

sys.path.append(
    str(Path(__file__).parents[1] / "benchmarks")
)  # the builder of the miniworld's bases is there

# Two workers with two threads each would fight over two cores. Set before torch is imported; children
# inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

MARKER_OF_FIXTURE = {"page": "browser", "course": "course"}  # what a test asks for says what it is


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Marks tests by their fixtures; leaves out, with the reason, what needs a GPU where there is none."""
    for item in items:
        for fixture in MARKER_OF_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKER_OF_FIXTURE[fixture])
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


@pytest.fixture(scope="session")
def machine():
    """This machine, where it can compute in 4 bits; elsewhere the test is skipped with the reason."""
    from lmlab.hardware import describe_machine

    machine = describe_machine()
    if not machine.four_bit:
        pytest.skip(machine.reasons[-1])
    return machine


@pytest.fixture(scope="module")
def one_thread():
    """Tiny models are quicker on one; and sums are rounded as in other processes with one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory):
    """A tiny random GPT-2 with a byte-level tokenizer, in the hub's layout; nothing shipped is needed."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from lmlab import miniworld
    from lmlab.models.gpt import GPT, GPTConfig

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [row["text"] for row in miniworld.dataset("stories", n=200)]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<|endoftext|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    folder = tmp_path_factory.mktemp("gpt2")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=256, vocab_size=400)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of a headless Chromium; where there is none the test is skipped and says how to get one."""
    import chromium

    if not chromium.find_chromium():
        pytest.skip(chromium.HOW_TO_GET_IT)
    page = chromium.Page(tmp_path_factory.mktemp("chromium"))
    yield page
    page.close()
