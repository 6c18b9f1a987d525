"""Tiny models of many architectures, made here, with random weights from a seed."""

from __future__ import annotations

from typing import Any

import torch
import transformers

WIDTH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**WIDTH, "num_key_value_heads": 1, "head_dim": 16}

CONFIGS: dict[str, dict[str, Any]] = {
    "Llama": {**GROUPED, "tie_word_embeddings": True},
    "Mistral": {**GROUPED, "sliding_window": 6},
    "Mixtral": {**GROUPED, "num_local_experts": 4},
    "Qwen2": {**WIDTH, "num_key_value_heads": 1},
    "Qwen3": GROUPED,
    "Qwen3Moe": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "Gemma": {**GROUPED, "tie_word_embeddings": True},
    "Gemma2": {**GROUPED, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0, "sliding_window": 6},
    "Phi3": {**WIDTH, "num_key_value_heads": 2},
    "Olmo2": {**WIDTH, "num_key_value_heads": 2},
    "Granite": {**WIDTH, "num_key_value_heads": 2, "logits_scaling": 3.0},
    "Cohere": {**WIDTH, "num_key_value_heads": 2, "logit_scale": 0.25},
    "StableLm": {**WIDTH, "num_key_value_heads": 2},
    "Starcoder2": {**WIDTH, "num_key_value_heads": 2},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "GPTNeoX": WIDTH,
    "GPTBigCode": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "OPT": {**WIDTH, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "Falcon": {**WIDTH, "alibi": True, "new_decoder_architecture": False},
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4},
    "FalconMamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4},
    "Mamba2": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "head_dim": 16,
        "num_heads": 4,
        "n_groups": 1,
    },
    "RecurrentGemma": {
        **{**WIDTH, "num_hidden_layers": 3},
        "num_key_value_heads": 1,
        "lru_width": 32,
        "attention_window_size": 8,
    },
    "Rwkv": {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
    "Jamba": {
        **WIDTH,
        "num_key_value_heads": 1,
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "Lfm2": {**WIDTH, "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]},
}
"""Arguments of each architecture's config, by the name of its class in transformers."""


def config_of(name: str, tokens: int) -> Any:
    """A tiny config; token ids are the built-in tokenizer's."""
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return getattr(transformers, f"{name}Config")(vocab_size=tokens, **ids, **CONFIGS[name])


def tiny(name: str, tokens: int, *, seed: int = 0) -> Any:
    """A causal language model whose next-token distributions are far from even.

    Args:
        name: of the architecture, as in CONFIGS.
        tokens: of the vocabulary.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config_of(name, tokens), dtype=torch.float32)
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    with torch.no_grad():
        # Drawn anew: the architectures' own start is so flat for some that two of them are 1e-8 nats apart. A tied
        # head that is drawn wide finds the token just read, with a probability of 1.
        head.normal_(std=0.15 if tied else 0.5)
    return model.eval()
