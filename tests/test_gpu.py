"""What must hold on a GPU as on a CPU: the same tests for both, those for a GPU marked so.

Bounds that differ say why: a GPU adds in another order each time, and computes in 16 bits.
"""

import dataclasses
import socket

import pytest
import torch

from lmlab.data import packing
from lmlab.data.loader import WindowLoader
from lmlab.hardware import describe_machine
from lmlab.models.gpt import GPT, GPTConfig
from lmlab.recipes import load_recipe
from lmlab.training import pretrain
from lmlab.training.distributed import DistributedContext, cleanup_distributed, init_distributed

DEVICES = [pytest.param("cpu", id="cpu"), pytest.param("cuda", id="cuda", marks=pytest.mark.gpu)]
on_both = pytest.mark.parametrize("device", DEVICES)
SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=64, block_size=32, vocab_size=256)


def machine_of(device: str):
    """This machine; of one with a GPU, for the tests of the CPU, without it."""
    found = describe_machine()
    if device == found.device:
        return found
    return dataclasses.replace(found, device="cpu", dtype="float32")


def ids_of(device: str, shape=(4, 48), vocab_size: int = 1536, seed: int = 0):
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed)).to(device)


# --- adapters on 4 bits ----------------------------------------------------------------------------


@pytest.fixture
def four_bit(device):
    """A function that gives the shipped Qwen2 in 4 bits with a fresh adapter, the same at each call."""
    for name in ("bitsandbytes", "trl", "datasets"):
        pytest.importorskip(name)
    from lmlab.models import quantization
    from lmlab.training import sft

    machine = machine_of(device)
    cfg = load_recipe("06_deepseek_qlora_think", "tiny")

    def make():
        torch.manual_seed(0)
        return sft.with_lora(quantization.load_four_bit(cfg.model, machine), cfg)

    return make


def steps_of_training(model, device: str, evaluate: bool, n: int = 5) -> list[float]:
    """The losses of n steps; with ``evaluate`` the model reads something without gradients between them."""
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=4e-3)
    losses, dtype = [], machine_of(device).dtype
    for step in range(n):
        ids = ids_of(device, seed=step)
        with pretrain.forward_context(torch.device(device), dtype):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if evaluate:
            model.eval()
            with torch.no_grad():
                model(input_ids=ids)
            model.train()
    return losses


@pytest.mark.slow
@on_both
def test_evaluations_in_between_change_no_training_on_four_bits(device, four_bit):
    from lmlab.models.parameters import frozen_parameters_hash

    model = four_bit()
    frozen = frozen_parameters_hash(model)
    alone = steps_of_training(model.train(), device, evaluate=False)
    measured = four_bit()
    between = steps_of_training(measured.train(), device, evaluate=True)
    assert between == pytest.approx(alone, rel=1e-6 if device == "cpu" else 5e-3)
    assert frozen_parameters_hash(measured) == frozen
    assert all(p.abs().max() > 0 for name, p in measured.named_parameters() if "lora_B" in name)


@on_both
def test_the_chunked_head_gives_the_loss_of_whole_logits(device, four_bit):
    model = four_bit().train()
    ids = ids_of(device)
    found = {}
    for fused in (False, True):
        with pretrain.forward_context(torch.device(device), machine_of(device).dtype):
            loss = model(input_ids=ids, labels=ids, **({"fused_lm_head": True} if fused else {})).loss
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found[fused] = (loss.item(), gradients.float())
        model.zero_grad()
    bound = 1e-4 if device == "cpu" else 2e-2  # bfloat16 keeps eight bits
    assert found[True][0] == pytest.approx(found[False][0], rel=bound)
    assert (found[True][1] - found[False][1]).norm() < 5 * bound * found[False][1].norm()


@on_both
def test_four_bits_are_those_of_the_cpu(device):
    pytest.importorskip("bitsandbytes")
    from lmlab.export.merge import quantize_dequantize

    weight = torch.randn(128, 256, generator=torch.Generator().manual_seed(0)) * 0.02
    here, there = (quantize_dequantize(weight, machine_of(kind)).float() for kind in (device, "cpu"))
    # a GPU rounds to bfloat16 first, so that a few numbers get the next of NF4's sixteen values
    assert (here - there).norm() <= (0 if device == "cpu" else 0.06) * weight.norm()
    assert (here - weight).norm() < 0.15 * weight.norm()


@pytest.mark.gpu
def test_the_paged_8_bit_optimizer_keeps_a_byte_for_each_moment():
    pytest.importorskip("bitsandbytes")
    import bitsandbytes

    from lmlab.course.cost import adam_bytes
    from lmlab.models.parameters import optimizer_bytes

    layer = torch.nn.Linear(256, 256, bias=False, device="cuda")
    optimizer = bitsandbytes.optim.PagedAdamW8bit(layer.parameters())
    before = layer.weight.detach().clone()
    layer(torch.ones(2, 256, device="cuda")).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)
    wanted = adam_bytes([(layer.weight.numel(), False)], "paged_adamw_8bit")
    assert optimizer_bytes(optimizer) == pytest.approx(wanted, rel=0.1)  # its code books come on top


# --- pretraining -----------------------------------------------------------------------------------


def batches(block_size: int = 32, batch_size: int = 4) -> WindowLoader:
    tokens = ids_of("cpu", (5000,), SMALL.vocab_size).numpy()
    return WindowLoader([tokens], block_size, batch_size)


def pretrained(device: str, out=None, stop_at: int | None = None, **choices):
    """A model after ten steps; with ``stop_at`` interrupted there, as by a signal."""
    torch.manual_seed(0)
    model = GPT(SMALL).to(device)
    steps = pretrain.PretrainConfig(
        max_steps=10,
        batch_size=4,
        block_size=32,
        learning_rate=1e-3,
        checkpoint_every=5,
        log_every=1,
        eval_every=10,
        dtype=machine_of(device).dtype,
        **choices,
    )

    def stop(part: str, row: dict, max_steps: int) -> None:
        if part == "train" and row["step"] == stop_at:
            raise KeyboardInterrupt

    rows = packing.text_rows(ids_of("cpu", (200,), SMALL.vocab_size), 32)
    history = pretrain.pretrain(model, batches(), steps, validation=rows, out=out, on_log=stop)
    return model, history.column("loss")


@on_both
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(device, tmp_path):
    """Bit for bit where a run repeats itself so; a GPU may add in any order, then no two runs are equal."""
    first, losses = pretrained(device)
    second, _ = pretrained(device)
    with pytest.raises(KeyboardInterrupt):
        pretrained(device, tmp_path, stop_at=7)
    resumed, again = pretrained(device, tmp_path)
    assert distance(first, resumed) <= 3 * distance(first, second)
    assert again == pytest.approx(losses, rel=1e-9 if device == "cpu" else 1e-3)


def distance(a, b) -> float:
    """The norm of what the weights of two models differ by."""
    return (
        torch.cat([(p - q).flatten() for p, q in zip(a.parameters(), b.parameters(), strict=True)])
        .norm()
        .item()
    )


@on_both
@pytest.mark.parametrize("dtype, bound", [("bfloat16", 0.02), ("float16", 0.005)])
def test_losses_in_sixteen_bits_are_near_those_of_float32(device, dtype, bound):
    torch.manual_seed(0)
    model = GPT(dataclasses.replace(SMALL, n_embd=128)).to(device)
    rows = packing.text_rows(ids_of("cpu", (2000,), SMALL.vocab_size), 32)
    exact, rounded = (pretrain.mean_loss(model, rows, dtype=kind) for kind in ("float32", dtype))
    assert 0 < abs(rounded - exact) < bound


@on_both
def test_steps_in_float16_are_scaled_and_finite(device):
    torch.manual_seed(0)
    model = GPT(SMALL).to(device)
    steps = pretrain.PretrainConfig(
        max_steps=20, batch_size=4, block_size=32, learning_rate=1e-3, log_every=1, dtype="float16"
    )
    rows = packing.text_rows(ids_of("cpu", (200,), SMALL.vocab_size), 32)
    losses = pretrain.pretrain(model, batches(), steps, validation=rows).column("loss")
    assert all(torch.isfinite(p).all() for p in model.parameters()) and losses[-1] < losses[0]


@on_both
def test_one_process_alone_joins_and_adds_up(device, monkeypatch):
    """NCCL on a GPU, gloo on a CPU, of one process: DDP makes the gradients that the model alone makes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 1,
        "LOCAL_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }.items():
        monkeypatch.setenv(name, str(value))
    torch.manual_seed(0)
    model = GPT(SMALL).to(device)
    ids = ids_of(device, (2, 32), SMALL.vocab_size)
    pretrain.SummedLoss(model)(ids, ids).backward()
    alone = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    try:
        context = init_distributed(device)
        assert context == DistributedContext(0, 1, device if device == "cpu" else "cuda:0", True)
        summed = torch.nn.parallel.DistributedDataParallel(
            pretrain.SummedLoss(model), device_ids=None if device == "cpu" else [0]
        )
        summed(ids, ids).backward()
        one = torch.ones(3, device=context.device)
        torch.distributed.all_reduce(one)
        assert one.tolist() == [1, 1, 1] and context.all_reduce(2.5) == [2.5]
    finally:
        cleanup_distributed()
    for a, p in zip(alone, model.parameters(), strict=True):
        assert torch.allclose(a, p.grad, rtol=1e-4, atol=1e-4)
