"""GPT-2, whole: the model, its weights in transformers' layout, and generation with a key-value cache.

Sources: Radford et al. 2019 (GPT-2); nanoGPT for names and size; transformers' GPT2LMHeadModel for the layout
of the files.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lmlab.models import IGNORE_INDEX
from lmlab.models.sampling import sample

KV = tuple[Tensor, Tensor]  # keys and values, (B, n_head, T, head_size) each
Cache = list[KV]  # one for each layer
# elements: logits of more than two chunks are never whole in the loss
LOSS_CHUNK = {"cpu": 2**23, "cuda": 2**27}


@dataclass(frozen=True)
class GPTConfig:
    """Shape of a GPT-2. The defaults are GPT-2 small (124M parameters)."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    block_size: int = 1024  # context length in tokens; transformers calls it n_positions
    vocab_size: int = 50257
    dropout: float = 0.0
    eos_token_id: int | None = None  # where generation stops
    vocab_multiple: int = 1  # 64 pads 50,257 rows to 50,304, which GPUs multiply faster; not in saved files

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size, rounded up to a multiple of vocab_multiple."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple


# Radford et al. 2019, table 2; the parameter counts there are too low, the released weights have these
GPT2_SIZES = {
    "gpt2": GPTConfig(n_layer=12, n_head=12, n_embd=768),  # 124M
    "gpt2-medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),  # 355M
    "gpt2-large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),  # 774M
    "gpt2-xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),  # 1.56B
}


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, past: KV | None = None, mask: Tensor | None = None) -> tuple[Tensor, KV]:
        """The output (B, T, C), and the keys and values so far.

        x: (B, T, C), the tokens after ``past``. mask: (B, 1, T, T), added in place of the causal mask.
        """
        B, T, C = x.shape
        q, k, v = self._heads(x)
        if past is not None:
            assert T == 1, f"with a cache one token goes in at a time, got {T}"
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        # a single token after the cache may see everything
        is_causal = past is None and mask is None
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal)
        # heads side by side again
        y = y.transpose(1, 2).reshape(B, T, C)
        return self.resid_dropout(self.c_proj(y)), (k, v)

    def weights(self, x: Tensor) -> Tensor:
        """The attention weights (B, H, T, T) for x: (B, T, C), which the fused function does not return."""
        q, k, _ = self._heads(x)
        # scores of D products have a variance of about D: dividing by its root keeps the softmax soft
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
        later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1)

    def _heads(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, (B, H, T, C/H) each."""
        B, T, C = x.shape
        heads = (B, T, self.n_head, C // self.n_head)
        return [t.view(heads).transpose(1, 2) for t in self.c_attn(x).split(C, dim=2)]


class MLP(nn.Module):
    """Two linear layers with GPT-2's tanh form of GELU between them."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))


class Block(nn.Module):
    """One layer: attention and MLP, each on normalized input, each added to the residual stream."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, past: KV | None = None, mask: Tensor | None = None) -> tuple[Tensor, KV]:
        # the norm comes before each layer (pre-norm), so that gradients reach x unchanged
        attended, present = self.attn(self.ln_1(x), past, mask)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), present


class GPT(nn.Module):
    """GPT-2 with tied input and output embeddings."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.padded_vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "drop": nn.Dropout(config.dropout),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": nn.LayerNorm(config.n_embd),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.padded_vocab_size, bias=False)
        # weight tying: the same tensor embeds tokens and scores them (Press and Wolf 2017)
        self.lm_head.weight = self.transformer.wte.weight
        self.apply(self._init_weights)
        self._scale_residual_init()

    @staticmethod
    def _init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def _scale_residual_init(self) -> None:
        # each layer adds to the residual stream twice: keep the variance of the sum (GPT-2, section 2.3)
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.n_layer))

    # as transformers' models have it, so that both can be asked alike
    @property
    def device(self) -> torch.device:
        return self.lm_head.weight.device

    def num_parameters(self) -> int:
        """How many parameters are learned; the tied embedding counts once, padding rows not at all."""
        padding = (self.config.padded_vocab_size - self.config.vocab_size) * self.config.n_embd
        return sum(p.numel() for p in self.parameters()) - padding

    def flops_per_token(self, length: int | None = None) -> int:
        """FLOPs of one training token, forward and backward, in sequences of ``length`` (block_size).

        6 for each parameter but the positional embeddings, and 12 * n_layer * n_embd * length for attention,
        counted as if it were not causal. Source: Chowdhery et al. 2022 (PaLM), appendix B, as nanoGPT does.
        """
        config = self.config
        in_matrices = self.num_parameters() - config.block_size * config.n_embd
        attention = config.n_layer * config.n_embd * (length or config.block_size)
        return 6 * in_matrices + 12 * attention

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        *,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of every next token, and the mean loss where targets are given.

        Args:
            idx: (B, T) token ids.
            targets: (B, T), the token that follows each, or -100 where no loss is wanted.
            position_ids: (B, T), where a token's position is not its index in the row.
            attention_mask: (B, 1, T, T), added to the attention scores in place of the causal mask.

        Returns:
            Logits (B, T, V), and the cross-entropy in nats per token that has a target, or None.
        """
        logits = self.logits(self.hidden(idx, position=position_ids, mask=attention_mask)[0])
        if targets is None:
            return logits, None
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE_INDEX)
        return logits, loss

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from the last layer's output (..., C); padding rows are left out."""
        return self.lm_head(hidden)[..., : self.config.vocab_size]

    def summed_loss(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy summed over the tokens that have a target, in nats.

        Large logits are never whole: they are computed, and their gradients with them, in chunks, which takes
        less memory and on a CPU less than half the time.
        """
        hidden, targets = self.hidden(idx)[0].flatten(0, 1), targets.flatten()  # (B * T, C), (B * T,)
        device_type = hidden.device.type
        rows = max(1, LOSS_CHUNK.get(device_type, LOSS_CHUNK["cuda"]) // self.config.vocab_size)
        if len(targets) <= 2 * rows:
            return self._chunk_loss(hidden, targets)
        if torch.is_autocast_enabled(device_type) or not hasattr(F, "linear_cross_entropy"):
            # torch's own function (2.13) sums in the dtype of its input: bfloat16 loses tokens, float16
            # overflows
            loss = torch.zeros((), device=hidden.device)
            # checkpoint: the backward pass computes a chunk's logits again, so they are never all kept
            for chunk in zip(hidden.split(rows), targets.split(rows), strict=True):
                loss = loss + checkpoint(self._chunk_loss, *chunk, use_reentrant=False)
            return loss
        weight = self.lm_head.weight[: self.config.vocab_size]
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows, chunking_method=None)
        return F.linear_cross_entropy(
            hidden, weight, targets, reduction="sum", ignore_index=IGNORE_INDEX, options=options
        )

    def _chunk_loss(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(hidden).float()
        return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")

    def hidden(
        self,
        idx: Tensor,
        cache: Cache | None = None,
        position: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Cache]:
        """Output of the last layer after its norm (B, T, C), and the keys and values for what comes next."""
        # with a cache, the tokens come after those whose keys are in it
        if position is None:
            start = cache[0][0].shape[2] if cache else 0
            end = start + idx.shape[1]
            if end > self.config.block_size:
                raise ValueError(f"got {end} tokens, block_size is {self.config.block_size}; cut the text")
            position = torch.arange(start, end, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(position))  # (B, T, C)
        presents = []
        for layer, block in enumerate(self.transformer.h):
            x, present = block(x, cache[layer] if cache else None, mask)
            presents.append(present)
        return self.transformer.ln_f(x), presents

    @torch.no_grad()
    def attention_weights(self, idx: Tensor) -> Tensor:
        """The attention weights in idx (B, T): (n_layer, B, n_head, T, T).

        Row t holds what token t takes from tokens 0 to t, and sums to one. Dropout is off.
        """
        weights, was_training = [], self.training

        def keep(attention: Attention, inputs: tuple) -> None:
            weights.append(attention.weights(inputs[0]))

        hooks = [block.attn.register_forward_pre_hook(keep) for block in self.transformer.h]
        try:
            self.eval()(idx)
        finally:
            for hook in hooks:
                hook.remove()
            self.train(was_training)
        return torch.stack(weights)

    @torch.no_grad()
    def generate(
        self,
        idx: Tensor,
        max_new_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Continues each row of ``idx``, up to the config's EOS.

        Past block_size the oldest tokens are forgotten.

        Args:
            idx: (B, T) token ids, all rows of one length.
            max_new_tokens: At most so many.
            temperature: 0 is greedy.
            top_k: Sample from so many of the most likely tokens; None: from all.
            top_p: Sample from the most likely tokens of this total probability; None: from all.
            generator: Of the random numbers.

        Returns:
            (B, T + up to max_new_tokens); a row that has ended is filled up with EOS.
        """
        eos = self.config.eos_token_id
        ended = torch.zeros(idx.shape[0], dtype=torch.bool, device=idx.device)
        was_training = self.training
        self.eval()
        cache = None
        for _ in range(max_new_tokens):
            logits, cache = self._next_logits(idx, cache)
            token = sample(logits, temperature, top_k, top_p, generator)
            # a row that has ended goes on with EOS, for the others are still written
            if eos is not None:
                token = token.masked_fill(ended, eos)
                ended |= token == eos
            idx = torch.cat([idx, token[:, None]], dim=1)
            if ended.all():
                break
        self.train(was_training)
        return idx

    def _next_logits(self, idx: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        if cache is None or idx.shape[1] > self.config.block_size:
            # positions are absolute: once the window slides, every key changes and the cache is of no use
            hidden, cache = self.hidden(idx[:, -self.config.block_size :])
        else:
            hidden, cache = self.hidden(idx[:, -1:], cache)
        return self.logits(hidden[:, -1]).float(), cache  # of the last position alone: the head is large

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path) -> "GPT":
        """A model from a folder in transformers' GPT-2 layout or from the hub ("gpt2", ...), in eval mode."""
        model = cls(_read_config(_locate(folder_or_hub_id, "config.json")))
        model.load_weights(folder_or_hub_id)
        return model.eval()

    @torch.no_grad()
    def load_weights(self, folder_or_hub_id: str | Path) -> None:
        """Takes over the weights in model.safetensors, of a model of this shape. Padding rows stay."""
        from safetensors.torch import load_file

        state = {}
        for name, tensor in load_file(_locate(folder_or_hub_id, "model.safetensors")).items():
            # the hub's own gpt2 is an old file: it lacks the prefix, and holds buffers of the causal mask
            if not name.startswith(("transformer.", "lm_head.")):
                name = f"transformer.{name}"
            if not name.endswith((".attn.bias", ".attn.masked_bias")):
                state[name] = tensor.T if _is_conv1d(name) else tensor
        embeddings = state["transformer.wte.weight"]
        if not torch.equal(state.get("lm_head.weight", embeddings), embeddings):
            raise ValueError("lm_head.weight differs from transformer.wte.weight; lmlab's GPT ties the two")
        padding = self.lm_head.weight[self.config.vocab_size :]
        embeddings = torch.cat([embeddings.to(padding), padding])
        state["transformer.wte.weight"] = state["lm_head.weight"] = embeddings
        self.load_state_dict(state)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors; ``GPT2LMHeadModel.from_pretrained`` reads them."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.T.contiguous() if _is_conv1d(name) else tensor.contiguous()
            for name, tensor in self.state_dict().items()
            if name != "lm_head.weight"
        }
        weights["transformer.wte.weight"] = self.lm_head.weight[: self.config.vocab_size].clone()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = _transformers_config(self.config, str(self.lm_head.weight.dtype).removeprefix("torch."))
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


# files in transformers' layout: what a config.json may leave open and this GPT does not
_FIXED = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "n_inner": None,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
}


def _is_conv1d(name: str) -> bool:
    """GPT-2's files hold these matrices as (in, out), the transpose of nn.Linear's."""
    return ".h." in name and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


def _locate(folder_or_hub_id: str | Path, file: str) -> Path:
    folder = Path(folder_or_hub_id)
    if folder.is_dir() or folder.is_absolute():
        return folder / file
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(folder_or_hub_id), file))


def _read_config(path: Path) -> GPTConfig:
    saved = json.loads(path.read_text(encoding="utf-8"))
    for key, value in _FIXED.items():
        if saved.get(key, value) != value:
            raise ValueError(f"{path}: {key} got {saved[key]!r}; lmlab's GPT knows {value!r} only")
    return GPTConfig(
        n_layer=saved["n_layer"],
        n_head=saved["n_head"],
        n_embd=saved["n_embd"],
        block_size=saved["n_positions"],
        vocab_size=saved["vocab_size"],
        dropout=saved.get("resid_pdrop", 0.1),
        eos_token_id=saved.get("eos_token_id"),
    )


def _transformers_config(config: GPTConfig, dtype: str) -> dict:
    return {
        "architectures": ["GPT2LMHeadModel"],
        **_FIXED,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.block_size,
        "n_ctx": config.block_size,
        "vocab_size": config.vocab_size,
        "initializer_range": 0.02,
        "dtype": dtype,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), config.eos_token_id),
    }
