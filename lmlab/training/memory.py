"""The memory and FLOPs of a training step, from a step on torch's device "meta", where tensors have no
memory.

The modules are the real ones, of transformers, peft and ``lmlab.models.gpt``. Each storage that the step
allocates is counted until it is freed, and so is each matrix product. So a model of any size is measured in
seconds, on any machine, and nothing is left out but what a GPU's allocator adds (rounding, gaps, workspaces).
"""

import warnings
import weakref
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple
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
from lmlab.models.gpt import GPT, GPTConfig
from lmlab.models.sources import fused_gelu

# the part of the logits that TRL's chunked loss has at a time (trl.kernels, trl 1.16)
CHUNK_TOKENS, CHUNK_ENTRIES = 4096, 32768
PHASES = ("forward", "loss", "blocks", "embeddings")  # forward, then backward through each


class StepEstimate(NamedTuple):
    """What one training step allocates, in bytes at its peak, and what it computes.

    Attributes:
        gradients: Kept at the peak; all of them where there are several micro-batches.
        activations: What the forward pass saves for the backward pass, and what passes by.
        logits: With their gradients; 0 where the peak is in the backward pass, after they are freed.
        flops: Of one micro-batch.
        operations: Calls of torch in one micro-batch; each has an overhead, however small it is.
        peak_by_phase: Gradients, activations and logits together, at the peak of each of the ``PHASES``.
    """

    gradients: int
    activations: int
    logits: int
    flops: int
    operations: int
    peak_by_phase: tuple[int, ...]


class FourBitLinear(nn.Linear):
    """Stands in for bitsandbytes' Linear4bit: frozen, it saves nothing, and dequantizes in both passes."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n_in) to (..., n_out)."""
        return _Dequantized.apply(x, self.weight, self.bias)


class _Dequantized(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A product with the dequantized weight."""
        ctx.weight = weight  # not by save_for_backward: it is there anyway
        return F.linear(x, torch.empty_like(weight, dtype=x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        """The gradient of x alone: the weight is frozen."""
        return gradient @ torch.empty_like(ctx.weight, dtype=gradient.dtype), None, None


class _ChunkedLoss(torch.autograd.Function):
    """The shapes of TRL's loss: (N, C) by (V, C), chunk by chunk, and again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The loss of each of N tokens."""
        ctx.save_for_backward(hidden)
        ctx.weight, ctx.dtype = weight, dtype
        _ChunkedLoss.products(hidden, weight, dtype, backward=False)
        return torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        """The gradient of the hidden states."""
        (hidden,) = ctx.saved_tensors
        summed = torch.empty_like(hidden, dtype=torch.float32)
        _ChunkedLoss.products(hidden, ctx.weight, ctx.dtype, backward=True)
        return summed.to(hidden.dtype), None, None

    @staticmethod
    def products(hidden: Tensor, weight: Tensor, dtype: torch.dtype, backward: bool) -> None:
        """One chunk of logits after the other."""
        tile = hidden.new_empty(min(len(hidden), CHUNK_TOKENS), CHUNK_ENTRIES, dtype=dtype)
        for rows in hidden.split(CHUNK_TOKENS):
            for entries in weight.to(dtype).split(CHUNK_ENTRIES):
                part = torch.mm(rows.to(dtype), entries.t(), out=tile[: len(rows), : len(entries)])
                if backward:  # a GPU adds it to the sum in place; this one is freed at once
                    torch.mm(part, entries)


# --- models without weights ------------------------------------------------------------------------


def model_on_meta(config: Any, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The causal model of a transformers config, or ``lmlab.models.gpt``'s of a GPTConfig, on the device
    meta.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        if isinstance(config, GPTConfig):
            return GPT(config)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.loss_type = "ForCausalLM"
    return fused_gelu(model)


def in_four_bits(model: nn.Module) -> nn.Module:
    """Puts ``FourBitLinear`` in the place of each linear layer but the output head, as transformers does."""
    head = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        # LoRA reads the sizes and the dtype of the layer that it adapts
        if isinstance(layer, nn.Linear) and layer is not head:
            shape = layer.in_features, layer.out_features, layer.bias is not None
            with torch.device("meta"):
                model.set_submodule(name, FourBitLinear(*shape, dtype=layer.weight.dtype))
    return model.requires_grad_(False)


def with_adapter(model: nn.Module, **lora: Any) -> nn.Module:
    """A PeftModel of a model on meta; lora: what LoraConfig takes. The adapter is in float32."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora.bnb import Linear4bit

    config = LoraConfig(task_type="CAUSAL_LM", **lora)
    config._register_custom_module({FourBitLinear: Linear4bit})
    with torch.device("meta"), warnings.catch_warnings(action="ignore", category=FutureWarning):
        return get_peft_model(model, config)  # it would warn of names inside peft and transformers


# --- counting --------------------------------------------------------------------------------------


class _Counter(TorchDispatchMode):
    """Counts the bytes of all storages that are allocated under it and not yet freed, their peak, and FLOPs.

    padded: answers what a meta tensor cannot, whether the attention mask has a 0 in it. keeps_gradients:
    those of an earlier micro-batch are there already.
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
        self.peaks = dict.fromkeys(PHASES, (0, 0, 0))  # phase -> all bytes, gradients, logits

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # transformers asks whether the attention mask is all ones, which a tensor without values cannot say
        if operation is torch.ops.aten._local_scalar_dense.default:
            return not self.padded
        result = operation(*args, **kwargs)
        self.operations += 1
        if operation._overloadpacket in flop_registry:
            self.flops += flop_registry[operation._overloadpacket](*args, **kwargs, out_val=result)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._allocated(tensor.untyped_storage())
        return result

    def _allocated(self, storage) -> None:
        if storage._cdata in self.known:
            return
        self.known.add(storage._cdata)
        self.live += storage.nbytes()
        # Python frees a storage when the last tensor on it goes, as a GPU's allocator does
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        if self.live > self.peaks[self.phase][0]:
            logits = 0 if self.before_loss is None else self.live - self.before_loss
            self.peaks[self.phase] = (self.live, self.gradients, logits)

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size

    def _accumulated(self, parameter) -> None:
        if not self.keeps_gradients:
            self.gradients += parameter.grad.nbytes

    def follow_phases(self, embedding: nn.Module, last_norm: nn.Module) -> None:
        """What is allocated between the last norm's output and its gradient belongs to the loss."""

        def _loss_begins(module, inputs, output):
            self.before_loss = self.live
            if output.requires_grad:
                output.register_hook(_loss_ends)

        def _loss_ends(gradient):
            self.before_loss, self.phase = None, "blocks"

        def _embedded(module, inputs, output):
            if output.requires_grad:
                output.register_hook(_blocks_end)

        def _blocks_end(gradient):
            self.phase = "embeddings"

        last_norm.register_forward_hook(_loss_begins)
        embedding.register_forward_hook(_embedded)


def _functions(names: str) -> set:
    """The functions of these names in torch, in torch.nn.functional, and on tensors."""
    found = set()
    for namespace in (torch, F, Tensor):
        found |= {getattr(namespace, name) for name in names.split() if hasattr(namespace, name)}
    return found


# what CUDA's autocast computes in 16 bits, and what in float32 (torch's documentation, "Op-Specific
# Behavior")
_HALF = _functions("linear addmm matmul __matmul__ bmm mm baddbmm scaled_dot_product_attention")
_FULL = _functions("pow __pow__ rsqrt softmax log_softmax layer_norm cross_entropy exp sum")


class _Autocast(TorchFunctionMode):
    """CUDA's autocast and CUDA's attention, which meta tensors would not get.

    dtype: Of the products; None for no autocast. flash: whether the GPU has flash attention, which takes
    grouped heads (compute capability 8.0 and above). whole_attention: all attention weights at once, as a CPU
    computes them for short windows (``hardware.fast_matmul``). keeps_copies: one copy of a weight serves the
    whole forward pass.
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
        # autocast keeps the 16-bit copy of a weight that trains until the forward pass ends
        keep = self.copies is not None and value.is_leaf and value.requires_grad
        if not keep:
            return value.to(self.dtype)
        if id(value) not in self.copies:
            self.copies[id(value)] = value.to(self.dtype)
        return self.copies[id(value)]

    def _attention(
        self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        # without flash, grouped heads have no fused kernel: all attention weights are computed
        if enable_gqa and not self.flash:
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=True
            )
        # every fused kernel keeps what flash attention keeps: its inputs, its output, a number a query
        outputs = torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, dropout_p, is_causal, scale=scale
        )
        return outputs[0]


def _full(value):
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


# --- the step --------------------------------------------------------------------------------------


def estimate_step(
    model: nn.Module,
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
) -> StepEstimate:
    """One micro-batch of a model, as Trainer, SFTTrainer or ``lmlab.training.pretrain`` trains it.

    Args:
        model: From ``model_on_meta``.
        batch_size: Sequences in the micro-batch.
        length: Tokens in a sequence.
        dtype: Of the products; with "float32" there is no autocast.
        accumulation: Micro-batches in a step. Where there are several, the second one is estimated, beside
            the gradients of the first.
        checkpointing: Whether activations are recomputed in the backward pass.
        chunked: TRL's loss, which never has all logits.
        padded: Whether sequences have padding, so that attention needs a mask.
        flash: See ``_Autocast``.
        cpu: Whether the step is one of a CPU.
    """
    half = None if dtype == "float32" else getattr(torch, dtype)
    ids = torch.zeros(batch_size, length, dtype=torch.long, device=next(model.parameters()).device)

    def autocast(keeps_copies: bool = False) -> _Autocast:
        """For the forward pass, or for what is recomputed in the backward pass."""
        return _Autocast(half, flash, cpu and length <= SHORT_WINDOW, keeps_copies)

    # torch's modes are off in the backward pass, so what is recomputed there needs its own
    recompute = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), autocast())}
    model.train()
    if checkpointing:
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            # else a checkpointed block behind frozen embeddings has no input to differentiate
            model.enable_input_require_grads()
            model.activation_checkpointing_enable(recompute)
    # from the second micro-batch on, the gradients of the first are there
    counter = _Counter(model, padded, keeps_gradients=accumulation > 1)
    modules = {name.rsplit(".", 1)[-1]: module for name, module in model.named_modules()}
    embedding = modules.get("wte", modules.get("embed_tokens"))
    counter.follow_phases(embedding, modules.get("ln_f", modules.get("norm")))
    says_autocast = mock.patch.object(torch, "is_autocast_enabled", lambda *device: half is not None)
    of_gpt = mock.patch(
        "lmlab.models.gpt.checkpoint", partial(checkpoint, context_fn=recompute["context_fn"])
    )
    with counter, says_autocast, of_gpt:
        with autocast(keeps_copies=True):
            loss = _loss(model, ids, half, chunked)
        counter.phase = "loss"
        loss.backward()
    total, gradients, logits = max(counter.peaks.values())
    return StepEstimate(
        gradients=gradients,
        activations=total - gradients - logits,
        logits=logits,
        flops=counter.flops,
        operations=counter.operations,
        peak_by_phase=tuple(counter.peaks[phase][0] for phase in PHASES),
    )


def _loss(model, ids: Tensor, half: torch.dtype | None, chunked: bool) -> Tensor:
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
        output.logits = output.logits.float()  # accelerate makes this copy, though nobody reads it
    return output.loss


def prefer_chunked_loss(n_tokens: int, vocab_size: int) -> bool:
    """Whether the loss of a batch is better computed in chunks: if all logits take over 128 MiB in float32.

    Below, all at once is faster: on a CPU with 1,024 tokens and 1,536 entries a step takes two thirds of the
    time.
    """
    return 4 * n_tokens * vocab_size > 2**27
