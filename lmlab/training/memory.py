"""A training step played on torch's device "meta", whose tensors have shapes and no memory.

The modules are the real ones, of transformers, peft and ``lmlab.models.gpt``; what is counted is each storage that the
step makes, from its birth to its end, and each matrix product. So a model of any size is measured in seconds, on
any machine, and nothing is estimated but what a GPU's allocator adds (rounding, gaps, workspaces).
"""

import warnings
import weakref
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import flop_registry

from lmlab.hardware import SHORT_WINDOW

PIECE_TOKENS, PIECE_ENTRIES = (
    4096,
    32768,
)  # of the logits that TRL's loss has at a time: trl.kernels, trl 1.16


PHASES = ("forward", "loss", "blocks", "embeddings")  # forward, then backward through each


class Step(NamedTuple):
    """What one training step makes, in bytes at the fullest moment, and what it computes."""

    gradients: int  # kept at that moment; all of them where there are several micro-batches
    activations: int
    logits: (
        int  # with their gradients; 0 where the fullest moment is in the backward pass, after they are gone
    )
    flops: int  # of one micro-batch
    operations: int  # calls of torch in one micro-batch: each takes its time, however small
    moments: tuple[int, ...]  # all three at the fullest moment of each of the PHASES


class FourBit(nn.Linear):
    """Stands in for bitsandbytes' Linear4bit: frozen, keeps nothing for the backward pass, unpacks in both."""

    def forward(self, x: Tensor) -> Tensor:
        return _Unpacked.apply(x, self.weight, self.bias)


class _Unpacked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.weight = weight
        return F.linear(x, torch.empty_like(weight, dtype=x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ torch.empty_like(ctx.weight, dtype=gradient.dtype), None, None


class _ChunkedLoss(torch.autograd.Function):
    """The shapes of TRL's loss: (N, C) by (V, C), piece by piece, and again in the backward pass."""

    @staticmethod
    def forward(ctx, hidden, weight, dtype):
        ctx.save_for_backward(hidden)
        ctx.weight, ctx.dtype = weight, dtype
        _ChunkedLoss.products(hidden, weight, dtype, backward=False)
        return torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)

    @staticmethod
    def backward(ctx, gradient):
        (hidden,) = ctx.saved_tensors
        summed = torch.empty_like(hidden, dtype=torch.float32)
        _ChunkedLoss.products(hidden, ctx.weight, ctx.dtype, backward=True)
        return summed.to(hidden.dtype), None, None

    @staticmethod
    def products(hidden, weight, dtype, backward):
        tile = hidden.new_empty(min(len(hidden), PIECE_TOKENS), PIECE_ENTRIES, dtype=dtype)
        for rows in hidden.split(PIECE_TOKENS):
            for entries in weight.to(dtype).split(PIECE_ENTRIES):
                part = torch.mm(rows.to(dtype), entries.t(), out=tile[: len(rows), : len(entries)])
                if backward:  # a GPU adds it to the sum in place; this one is freed at once
                    torch.mm(part, entries)


# --- models without weights ------------------------------------------------------------------------


def model_on_meta(config, dtype: torch.dtype = torch.float32):
    """The causal model of a transformers config, or ``lmlab.models.gpt``'s of a GPTConfig, on the device meta."""
    from lmlab.models.gpt import GPT, GPTConfig
    from lmlab.models.sources import fused_gelu

    with torch.device("meta"):
        if isinstance(config, GPTConfig):
            return GPT(config)
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.loss_type = "ForCausalLM"
    return fused_gelu(model)


def in_four_bits(model):
    """Puts ``FourBit`` in the place of each linear layer but the output head, as transformers does."""
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not head:
            with torch.device("meta"):
                packed = FourBit(
                    layer.in_features, layer.out_features, layer.bias is not None, dtype=layer.weight.dtype
                )
            model.set_submodule(name, packed)
    return model.requires_grad_(False)


def with_adapter(model, **lora):
    """A PeftModel of a model on meta; lora: what LoraConfig takes. The adapter is in float32."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.bnb import Linear4bit

    config = LoraConfig(task_type="CAUSAL_LM", **lora)
    config._register_custom_module({FourBit: Linear4bit})
    with torch.device("meta"), warnings.catch_warnings(action="ignore", category=FutureWarning):
        return get_peft_model(model, config)  # what would be warned of are names inside peft and transformers


# --- counting --------------------------------------------------------------------------------------


class _Count(TorchDispatchMode):
    """The bytes of all storages made under it that still live, their parts at the fullest moment, and FLOPs.

    padded: how questions about values are answered, of which there are none: is the attention mask all ones?
    keeps_gradients: those of an earlier micro-batch are there already.
    """

    def __init__(self, model, padded: bool, keeps_gradients: bool):
        super().__init__()
        self.padded, self.keeps_gradients = padded, keeps_gradients
        self.flops = self.operations = 0
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter) if keeps_gradients else None
            parameter.register_post_accumulate_grad_hook(self._accumulated)
        gradients = [p.grad for p in trained if keeps_gradients]
        self.known = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers(), *gradients]}
        self.live = self.gradients = sum(t.nbytes for t in gradients)
        self.before_loss: int | None = None
        self.phase = "forward"
        self.fullest = dict.fromkeys(PHASES, (0, 0, 0))  # live, gradients, logits

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation is torch.ops.aten._local_scalar_dense.default:
            return not self.padded
        result = operation(*args, **kwargs)
        self.operations += 1
        if operation._overloadpacket in flop_registry:
            self.flops += flop_registry[operation._overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._born(tensor.untyped_storage())
        return result

    def _born(self, storage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        if self.live > self.fullest[self.phase][0]:
            logits = 0 if self.before_loss is None else self.live - self.before_loss
            self.fullest[self.phase] = (self.live, self.gradients, logits)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def _accumulated(self, parameter) -> None:
        if not self.keeps_gradients:
            self.gradients += parameter.grad.nbytes

    def watch(self, embedding, last_norm) -> None:
        """What is made between the last norm's output and its gradient belongs to the loss."""

        def begins(module, inputs, output):
            self.before_loss = self.live
            if output.requires_grad:
                output.register_hook(ends)

        def ends(gradient):
            self.before_loss, self.phase = None, "blocks"

        def embedded(module, inputs, output):
            if output.requires_grad:
                output.register_hook(lambda gradient: setattr(self, "phase", "embeddings"))

        last_norm.register_forward_hook(begins)
        embedding.register_forward_hook(embedded)


# what CUDA's autocast computes in 16 bits, and what in float32 (torch's documentation, "Op-Specific Behavior")
_HALF = {
    F.linear,
    torch.addmm,
    torch.matmul,
    Tensor.matmul,
    Tensor.__matmul__,
    torch.bmm,
    Tensor.bmm,
    torch.mm,
    torch.baddbmm,
    F.scaled_dot_product_attention,
}
_FULL = {
    torch.pow,
    Tensor.pow,
    Tensor.__pow__,
    torch.rsqrt,
    F.softmax,
    torch.softmax,
    Tensor.softmax,
    F.log_softmax,
    F.layer_norm,
    torch.layer_norm,
    F.cross_entropy,
    torch.exp,
    Tensor.exp,
    torch.sum,
    Tensor.sum,
}


class _Autocast(TorchFunctionMode):
    """CUDA's autocast and CUDA's attention, which meta tensors would not get. dtype None: no autocast.

    flash: whether the GPU has flash attention, which takes grouped heads (8.0 and above). A CPU with short
    windows computes attention whole (``hardware.fast_matmul``).
    """

    def __init__(self, dtype: torch.dtype | None, flash: bool, whole_attention: bool, keeps_copies: bool):
        super().__init__()
        self.dtype, self.flash, self.whole = dtype, flash, whole_attention
        self.copies: dict | None = {} if keeps_copies else None  # of weights, until the forward pass ends

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.dtype is not None and function in _HALF:
            args, kwargs = tree_map(self._half, (args, kwargs))
        elif self.dtype is not None and function in _FULL:
            args, kwargs = tree_map(_full, (args, kwargs))
        if function is F.scaled_dot_product_attention and not self.whole:
            return self._attention(*args, **kwargs)
        return function(*args, **kwargs)

    def _half(self, value):
        if not (isinstance(value, Tensor) and value.dtype == torch.float32):
            return value
        keep = self.copies is not None and value.is_leaf and value.requires_grad
        if not keep:
            return value.to(self.dtype)
        if id(value) not in self.copies:
            self.copies[id(value)] = value.to(self.dtype)
        return self.copies[id(value)]

    def _attention(
        self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        flash = self.flash and attn_mask is None
        if enable_gqa and not flash:
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=True
            )
        if flash:
            return torch.ops.aten._scaled_dot_product_flash_attention(
                q, k, v, dropout_p, is_causal, scale=scale
            )[0]
        if attn_mask is not None:
            attn_mask = torch.empty_like(attn_mask, dtype=q.dtype).expand(-1, q.shape[1], -1, -1)
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            q, k, v, attn_mask, True, dropout_p, is_causal, scale=scale
        )[0]


def _full(value):
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


# --- the step --------------------------------------------------------------------------------------


def estimate_step(
    model,
    batch_size: int,
    length: int,
    *,
    dtype: str = "float32",
    accumulation: int = 1,
    checkpointing: bool = False,
    chunked: bool = False,
    padded: bool = False,
    flash: bool = True,
    cpu: bool = False,
) -> Step:
    """One micro-batch of a model from ``model_on_meta``, as Trainer, SFTTrainer or ``lmlab.training.pretrain`` has it trained.

    dtype: of the products; with "float32" there is no autocast. accumulation: micro-batches in a step; where there
    are several, it is the second that is played, beside the gradients of the first. chunked: TRL's loss, which
    never has all logits. padded: rows have padding, so attention needs a mask. flash: see ``_Autocast``.
    """
    half = None if dtype == "float32" else getattr(torch, dtype)
    ids = torch.zeros(batch_size, length, dtype=torch.long, device=next(model.parameters()).device)

    def autocast(keeps_copies=False):
        return _Autocast(half, flash, cpu and length <= SHORT_WINDOW, keeps_copies)

    again = {
        "use_reentrant": False,
        "context_fn": lambda: (nullcontext(), autocast()),
    }  # modes rest in backward
    model.train()
    if checkpointing:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            model.enable_input_require_grads()
            older = not hasattr(model, "activation_checkpointing_enable")  # transformers before 5.23
            (model.gradient_checkpointing_enable if older else model.activation_checkpointing_enable)(again)
    count = _Count(model, padded, keeps_gradients=accumulation > 1)
    named = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules()}
    count.watch(named.get("wte", named.get("embed_tokens")), named.get("ln_f", named.get("norm")))
    asked = mock.patch.object(torch, "is_autocast_enabled", lambda *device: half is not None)
    pieces = mock.patch("lmlab.models.gpt.checkpoint", partial(checkpoint, context_fn=again["context_fn"]))
    with count, asked, pieces:
        with autocast(keeps_copies=True):
            loss = _loss(model, ids, half, chunked)
        count.phase = "loss"
        loss.backward()
    live, gradients, logits = max(count.fullest.values())
    return Step(
        gradients,
        live - gradients - logits,
        logits,
        _flops(model, count, ids),
        count.operations,
        tuple(count.fullest[phase][0] for phase in PHASES),
    )


def _flops(model, count: _Count, ids: Tensor) -> int:
    """As counted; for ``lmlab.models.gpt`` by its own formula, to which its utilisation refers."""
    from lmlab.models.gpt import GPT

    return ids.numel() * model.flops_per_token(ids.shape[1]) if isinstance(model, GPT) else count.flops


def _loss(model, ids: Tensor, half: torch.dtype | None, chunked: bool) -> Tensor:
    from lmlab.models.gpt import GPT

    if isinstance(model, GPT):
        return model.summed_loss(ids, ids) / ids.numel()
    mask = torch.ones_like(ids)
    if chunked:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        hidden = base.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        head = base.get_output_embeddings().weight
        return _ChunkedLoss.apply(hidden[:, :-1].flatten(0, 1), head, half or hidden.dtype).sum()
    output = model(input_ids=ids, attention_mask=mask, labels=ids, use_cache=False)
    if half is not None:
        output.logits = output.logits.float()  # accelerate hands on float32; nobody reads it, but it is made
    return output.loss


def many_logits(n_tokens: int, n_entries: int) -> bool:
    """Whether the logits of a batch are better made in pieces: from 128 MiB in float32 on.

    Below, whole ones are faster: on a CPU with 1,024 tokens and 1,536 entries a step takes two thirds of the time.
    """
    return 4 * n_tokens * n_entries > 2**27
