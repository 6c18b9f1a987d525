"""The forward pass of the built-in pair, a Llama, in torch alone: transformers takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu


@dataclass
class Cache:
    """Keys and values of the tokens that were read, (rows, heads, tokens, head_dim), a pair a layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    def batch_select_indices(self, rows: Tensor) -> None:
        """Keep these rows, in this order; named as transformers names it."""
        self.layers = tuple((keys[rows], values[rows]) for keys, values in self.layers)


@dataclass(frozen=True)
class Output:
    """What a forward pass returns, named as transformers names it.

    Attributes:
        logits: (rows, tokens, vocab).
        past_key_values: what is kept of the tokens.
    """

    logits: Tensor
    past_key_values: Cache | None


class Llama(torch.nn.Module):
    """A Llama with tied embeddings, as many keys as queries and rotary embeddings that are not rescaled.

    Its logits are those of transformers' LlamaForCausalLM up to the rounding of float32.
    """

    def __init__(self, config: Mapping[str, object], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        self.generation_config = self.config
        self.weights = weights
        rows, width = self.embedding.shape
        self.lm_head = torch.nn.Linear(width, rows, bias=False, device="meta")
        self.lm_head.weight = torch.nn.Parameter(self.embedding, requires_grad=False)

    def get_output_embeddings(self) -> torch.nn.Linear:
        """What makes the logits, as transformers gives it."""
        return self.lm_head

    @property
    def embedding(self) -> Tensor:
        """(vocab, hidden), which makes the logits too."""
        return self.weights["model.embed_tokens.weight"]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.embedding.dtype

    def forward(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Output:
        """Logits of the next tokens; arguments as those of transformers."""
        read = 0 if past_key_values is None else past_key_values.layers[0][0].shape[2]
        places = torch.arange(read, read + input_ids.shape[1], device=self.device)
        turn = self._turn(places[None] if position_ids is None else position_ids)
        seen = _seen(places, attention_mask)
        x = self.embedding[input_ids]
        kept = []
        for layer in range(self.config.num_hidden_layers):
            before = None if past_key_values is None else past_key_values.layers[layer]
            y, both = self._attention(f"model.layers.{layer}", x, turn, seen=seen, before=before)
            x = x + y
            x = x + self._mlp(f"model.layers.{layer}", x)
            kept.append(both)
        x = self._norm("model.norm", x[:, -logits_to_keep:])
        return Output(self.lm_head(x), Cache(tuple(kept)) if use_cache else None)

    def _attention(
        self,
        layer: str,
        x: Tensor,
        turn: tuple[Tensor, Tensor],
        *,
        seen: Tensor,
        before: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What a layer's attention adds, and the keys and values of all tokens so far."""
        x = self._norm(f"{layer}.input_layernorm", x)
        heads = (*x.shape[:2], -1, self.config.head_dim)
        q, k, v = (self._linear(f"{layer}.self_attn.{name}_proj", x).view(heads).transpose(1, 2) for name in "qkv")
        q, k = _turned(q, turn), _turned(k, turn)
        if before is not None:
            k, v = (torch.cat(pair, dim=2) for pair in zip(before, (k, v), strict=True))
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).flatten(2)
        return self._linear(f"{layer}.self_attn.o_proj", mixed), (k, v)

    def _mlp(self, layer: str, x: Tensor) -> Tensor:
        x = self._norm(f"{layer}.post_attention_layernorm", x)
        gate, up = (self._linear(f"{layer}.mlp.{name}_proj", x) for name in ("gate", "up"))
        return self._linear(f"{layer}.mlp.down_proj", silu(gate) * up)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps)
        return self.weights[f"{name}.weight"] * (wide * scale).to(x.dtype)

    def _turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of each position's angles, (rows, 1, tokens, head_dim)."""
        # In transformers' order and in float32: an angle of 255 is rounded by 3e-5 otherwise.
        half = torch.arange(0, self.config.head_dim, 2, device=self.device).float() / self.config.head_dim
        angles = positions[:, None, :, None].float() * (1 / self.config.rope_parameters["rope_theta"] ** half)
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(self.dtype), angles.sin().to(self.dtype)


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding: each pair of numbers, half a head apart, turned by its angle."""
    first, second = x.chunk(2, dim=-1)
    return x * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]


def _seen(places: Tensor, mask: Tensor | None) -> Tensor:
    """Which tokens each of the new ones attends to, (rows or 1, 1, new tokens, tokens)."""
    tokens = torch.arange(int(places[-1]) + 1, device=places.device)
    seen = (tokens <= places[:, None])[None, None]
    if mask is None:
        return seen
    # Padding sees itself: softmax over nothing is nan, and nan times a weight of 0 would reach the tokens.
    return seen & mask[:, None, None].bool() | (tokens == places[:, None])
