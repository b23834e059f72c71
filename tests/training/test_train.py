"""The pretraining loop: its arithmetic, its data rows, and that it learns."""

import math
from dataclasses import replace

import pytest
import torch

from lmlab.data import packing
from lmlab.data.loader import WindowLoader
from lmlab.models import IGNORE_INDEX
from lmlab.models.gpt import GPT, GPTConfig
from lmlab.training import distributed, pretrain
from lmlab.training.pretrain import PretrainConfig
from lmlab.training.progress import read_progress

pytestmark = pytest.mark.usefixtures("one_thread")
EOS = 0
NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
TINY = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=32, vocab_size=20, eos_token_id=EOS)
CONFIG = PretrainConfig(
    max_steps=60,
    batch_size=8,
    block_size=16,
    learning_rate=1e-2,
    warmup_steps=5,
    log_every=5,
    eval_every=20,
    checkpoint_every=25,
)


def documents(n: int, seed: int = 0) -> list[list[int]]:
    """Counting upwards from 1 to 4, by 1 to 3, five numbers: 12 texts, each with probability 1/12."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(0, 12, (n,), generator=generator).tolist()
    return [[1 + p % 4 + i * (1 + p // 4) for i in range(5)] for p in picks]


FLOOR = pretrain.entropy_floor([-math.log(12)], [6])


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT(TINY)


def test_pack_parts_documents_by_eos():
    assert packing.pack([[5, 6], [7]], EOS).tolist() == [0, 5, 6, 0, 7, 0]


def test_document_rows_count_the_document_and_its_end():
    rows = packing.document_rows([[5, 6], [7, 8, 9]], EOS, block_size=8)
    assert rows.inputs.tolist() == [[0, 5, 6, 0], [0, 7, 8, 9]]
    assert rows.targets.tolist() == [[5, 6, 0, IGNORE_INDEX], [7, 8, 9, 0]]
    with pytest.raises(ValueError, match="block_size"):
        packing.document_rows([[1] * 8], EOS, block_size=8)


def test_text_rows_predict_each_token_once():
    rows = packing.text_rows(torch.arange(11), block_size=4)
    assert rows.inputs.flatten().tolist() == list(range(8))
    assert rows.targets.flatten().tolist() == list(range(1, 9))


def windows(n_documents: int, batch_size: int = 8, seed: int = 0) -> WindowLoader:
    return WindowLoader([packing.pack(documents(n_documents), EOS).numpy()], 16, batch_size, seed, eos=EOS)


def test_mean_loss_is_weighted_by_tokens(model):
    """Equal to the sum over single documents, however they are batched and padded."""
    texts = [[3, 4, 5], [6] * 20, [7], [8, 9] * 6]
    rows = packing.document_rows(texts, EOS, 32)
    nats = sum(pretrain.mean_loss(model, packing.document_rows([t], EOS, 32)) * (len(t) + 1) for t in texts)
    expected = nats / sum(len(t) + 1 for t in texts)
    for batch_size in (1, 3, 4):
        assert pretrain.mean_loss(model, rows, batch_size) == pytest.approx(expected, abs=1e-6)


def test_schedule_warms_up_and_falls_to_the_minimum():
    cfg = replace(CONFIG, warmup_steps=10, min_learning_rate=1e-4)
    rates = [pretrain.learning_rate_at(step, cfg) for step in range(cfg.max_steps)]
    assert rates[0] == pytest.approx(cfg.learning_rate / 10)
    assert max(rates) == rates[10] == cfg.learning_rate
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-4)


def test_only_matrices_decay(model):
    groups = pretrain.build_optimizer(model, CONFIG).param_groups
    assert [g["weight_decay"] for g in groups] == [CONFIG.weight_decay, 0.0]
    assert all(p.ndim == 2 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def one_step(batches, **changes):
    """Loss, gradient norm and a weight after one step from the same start."""
    torch.manual_seed(0)
    summed = pretrain.SummedLoss(GPT(TINY))
    optimizer = torch.optim.SGD(summed.parameters(), lr=1.0)  # AdamW would hide a wrong scale
    loss, norm = pretrain.training_step(
        summed, batches, pretrain.count_targets(batches), optimizer, NO_SCALER, replace(CONFIG, **changes)
    )
    return loss, norm, summed.model.transformer.h[0].mlp.c_fc.weight


def test_accumulated_step_equals_one_large_batch_though_counts_differ():
    """Reference: transformers' own convention, the mean over all counted tokens of the step."""
    inputs, targets = windows(200).batch(0)
    targets = targets.clone()
    targets[0], targets[1, 3:], targets[5, :9] = IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX
    parts = [(inputs[:1], targets[:1]), (inputs[1:2], targets[1:2]), (inputs[2:], targets[2:])]
    whole, in_parts = one_step([(inputs, targets)]), one_step(parts)
    for ours, theirs in zip(in_parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.manual_seed(0)
    assert whole[0].item() == pytest.approx(GPT(TINY)(inputs, targets)[1].item(), abs=1e-6)


def test_gradients_are_clipped(model):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer, batch = torch.optim.SGD(model.parameters(), lr=1.0), windows(50).batch(0)
    _, norm = pretrain.training_step(
        pretrain.SummedLoss(model),
        [batch],
        batch[1].numel(),
        optimizer,
        NO_SCALER,
        replace(CONFIG, grad_clip=0.1),
    )
    moved = sum((p - before[name]).square().sum() for name, p in model.named_parameters()).sqrt()
    assert norm > 0.1 and moved.item() == pytest.approx(0.1, rel=1e-3)


def test_a_step_is_taken_where_the_model_is():
    summed = pretrain.SummedLoss(GPT(TINY).to("meta"))
    optimizer = torch.optim.SGD(summed.parameters(), lr=1.0)
    loss, norm = pretrain.training_step(summed, [windows(50).batch(0)], 128, optimizer, NO_SCALER, CONFIG)
    assert loss.device.type == norm.device.type == "meta"


def test_processes_share_the_batches_of_a_step():
    data, cfg = windows(50), replace(CONFIG, grad_accumulation=4)
    alone = pretrain.micro_batches(data, 3, cfg, distributed.DistributedContext())
    shared = [
        pretrain.micro_batches(data, 3, cfg, distributed.DistributedContext(rank, 2)) for rank in (0, 1)
    ]
    assert [len(share) for share in shared] == [2, 2]
    for i, (inputs, _) in enumerate(alone):
        assert torch.equal(inputs, shared[i % 2][i // 2][0])


def run(model, out=None, on_log=None, **changes):
    held_out = documents(40, seed=1)
    return pretrain.pretrain(
        model,
        windows(500, seed=changes.get("seed", 0)),
        replace(CONFIG, **changes),
        out=out,
        floor=FLOOR,
        measure=lambda m: {"std": m.lm_head.weight.std().item()},
        sample=lambda m: f"step {m.training}",
        validation=packing.document_rows(held_out, EOS, 16),
        on_log=on_log,
    )


@pytest.mark.slow
def test_reaches_the_floor_and_does_not_pass_it(model):
    history = run(model, max_steps=150)
    losses = history.column("loss", of="evaluations")
    assert losses[0] == pytest.approx(math.log(20), abs=0.3)
    # 40 texts are a sample: their own frequencies differ from 1/12 a little, the floor holds on average
    assert abs(losses[-1] - FLOOR) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_learns_as_float32_does(dtype):
    """float16 with its gradient scaler; the weights stay float32."""
    curves = []
    for kind in ("float32", dtype):
        torch.manual_seed(0)
        gpt = GPT(TINY)
        curves.append(run(gpt, dtype=kind, max_steps=100).column("loss"))
        assert gpt.lm_head.weight.dtype == torch.float32
    assert curves[1] == pytest.approx(curves[0], abs=0.1) and curves[1] != curves[0]
    assert curves[1][-1] < 0.3 * curves[1][0]


def test_history_holds_every_quantity(model):
    history = run(model)
    assert history.column("step") == list(range(5, 61, 5))
    assert history.column("step", of="evaluations") == [0, 20, 40, 60]
    assert history.column("step", of="samples") == [0, 30, 60]
    assert history.column("learning_rate")[0] == CONFIG.learning_rate
    assert all(norm > 0 for norm in history.column("grad_norm"))
    assert history.tokens_per_second > 0 and history.seconds > 0


def test_same_seed_same_losses():
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        losses.append(run(GPT(TINY), seed=seed, max_steps=20).column("loss"))
    assert losses[0] == losses[1] != losses[2]


def test_writes_checkpoints_and_logs_that_others_read(model, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from transformers import GPT2LMHeadModel

    history = run(model, tmp_path)
    found = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert found == ["step_0", "step_25", "step_50", "step_60"]
    theirs = GPT2LMHeadModel.from_pretrained(tmp_path / "model").eval()
    idx = torch.tensor([[0, 3, 4, 5]])
    torch.testing.assert_close(theirs(idx).logits, model(idx)[0], atol=1e-5, rtol=1e-5)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {
        "train/loss",
        "train/learning_rate",
        "train/grad_norm",
        "train/tokens_per_second",
        "eval/loss",
        "eval/floor",
        "eval/std",
    } <= set(events.Tags()["scalars"])
    noted = [(row["step"], row["val_loss"], row["floor_gap"]) for row in read_progress(tmp_path)]
    assert noted == [(row["step"], row["loss"], row["loss"] - history.floor) for row in history.evaluations]
    assert events.Scalars("eval/loss")[-1].value == pytest.approx(history.evaluations[-1]["loss"])


def test_progress_is_noted_by_the_metrics_name(model, tmp_path):
    history = run(model, tmp_path, max_steps=6)
    assert [row["val_loss"] for row in read_progress(tmp_path)] == history.column("loss", of="evaluations")


def test_floor_may_be_unknown(model):
    tokens = torch.randint(0, 20, (500,))
    history = pretrain.pretrain(
        model,
        WindowLoader([tokens.numpy()], 16, 8),
        replace(CONFIG, max_steps=6),
        validation=packing.text_rows(tokens[:100], 16),
    )
    assert history.floor is None and history.samples == []
