"""Policies of four words for TRL's trainers: small enough that every completion can be written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kullback as kb
from kullback.oracle import TreeLM, World

WORDS = ("<eos>", "a", "b", "c")
PROMPT = [1]
HORIZON = 3


def make_folder(path: Path, *, hidden: int = 8, seed: int = 0) -> Path:
    """A reference model with its tokenizer, as a folder that `from_pretrained` reads."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        tie_word_embeddings=False,
        initializer_range=0.6,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 0
    model.save_pretrained(path)
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<eos>"))
    core.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", pad_token="<eos>").save_pretrained(path)
    return path


def policy_of(folder: Path, *, apart: float = 0.3, seed: int = 1, trained: Callable[[str], bool] | None = None) -> Any:
    """The reference with noise on what is trained."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained is None or trained(name))
            if parameter.requires_grad:
                parameter += apart * torch.randn(parameter.shape, generator=generator)
    return model


def world_of(policy: Any, reference: Any) -> World:
    """What both models say after every prefix of a completion; differentiable in the policy's parameters."""
    return World(TreeLM(_table(policy), 0, HORIZON), TreeLM(_table(reference).detach(), 0, HORIZON))


def _table(model: Any) -> Tensor:
    places = TreeLM(np.zeros((13, len(WORDS))), 0, HORIZON).prefixes
    rows = [model(input_ids=torch.tensor([[*PROMPT, *prefix]])).logits[0, -1] for prefix in places]
    return torch.stack(rows).double()


def exact_gradient(policy: Any, reference: Any, target: kb.Target = kb.REVERSE_KL) -> Tensor:
    """∇ of a target in what is trained of the policy, flat."""
    live = [x for x in policy.parameters() if x.requires_grad]
    value: Any = world_of(policy, reference).exact(target)
    found = torch.autograd.grad(value, live, allow_unused=True)
    return torch.cat([(torch.zeros_like(x) if g is None else g).reshape(-1) for x, g in zip(live, found, strict=True)])


def exact_value(policy: Any, reference: Any, target: kb.Target = kb.REVERSE_KL) -> float:
    """A target's value."""
    with torch.no_grad():
        return float(world_of(policy, reference).exact(target))


def constant(completions: list[Any], **_: Any) -> list[float]:
    """A reward that is the same for all, so that the KL alone has a gradient."""
    return [0.0] * len(completions)


def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward for every word b."""
    return [float(sum(token == 2 for token in ids)) for ids in completion_ids]


def config(kind: str, folder: Path, **changed: Any) -> Any:
    """GRPOConfig or RLOOConfig for a step of 64 rows on the CPU."""
    import trl

    options: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 64,
        "num_generations": 8,
        "max_completion_length": HORIZON,
        "beta": 1.0,
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": 0.0,
        "max_grad_norm": 0.0,
        "lr_scheduler_type": "constant",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "temperature": 1.0,
        "dataloader_pin_memory": False,
    }
    return getattr(trl, f"{kind}Config")(**{**options, **changed})


def dataset(rows: int = 64) -> Any:
    """The one prompt, many times."""
    from datasets import Dataset

    return Dataset.from_dict({"prompt": [WORDS[PROMPT[0]]] * rows})


@dataclass
class Gradients:
    """Flat gradients of optimizer steps, before anything is done with them."""

    rows: list[Tensor] = field(default_factory=list)

    def callback(self, parameters: list[Any], after: Callable[[int], None] | None = None) -> Any:
        """What to hand to a trainer; `after` is called with the number of steps that are done."""
        from transformers import TrainerCallback

        store = self.rows

        class Keep(TrainerCallback):
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in parameters]
                store.append(torch.cat([g.detach().reshape(-1).double() for g in grads]))

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if after is not None:
                    after(state.global_step)

        return Keep()

    def against(self, exact: Tensor, every: slice = slice(None)) -> Agreement:
        """How far their mean is from a gradient: along it, and along twelve other directions."""
        rows = torch.stack(self.rows)[every]
        generator = torch.Generator().manual_seed(0)
        exact = exact.double()
        others = torch.randn((12, len(exact)), generator=generator, dtype=torch.float64)
        others *= rows.std(0)  # most of a random direction would be where no batch has a gradient
        seen = (rows - exact) @ torch.cat([exact[None], others]).T
        error = seen.std(0) / len(rows) ** 0.5
        size = float(exact @ exact)
        return Agreement(
            worst=float((seen.mean(0).abs() / error).max()),
            apart=float((rows.mean(0) - exact).norm() / exact.norm()),
            share=1 + float(seen[:, 0].mean()) / size,
            share_error=float(error[0]) / size,
        )


@dataclass(frozen=True)
class Agreement:
    """A mean of gradients beside the exact one.

    Attributes:
        worst: the largest difference along any of the directions, in standard errors.
        apart: ‖mean − exact‖/‖exact‖.
        share: of the exact gradient in the mean, along the exact one; 1 is right.
        share_error: its standard error.
    """

    worst: float
    apart: float
    share: float
    share_error: float


def trainer_of(
    kind: str,
    folder: Path,
    policy: Any,
    *,
    mixed: bool = True,
    reward: Any = constant,
    callbacks: Any = (),
    **options: Any,
) -> Any:
    """A GRPOTrainer or RLOOTrainer, with the mixin or as it is; options that begin with kl_ are the mixin's."""
    import trl

    from kullback.integrations.trl import KLMixin

    base = getattr(trl, f"{kind}Trainer")
    made = type(f"KL{kind}Trainer", (KLMixin, base), {}) if mixed else base
    own = {name: options.pop(name) for name in list(options) if name.startswith("kl_")}
    if mixed:
        own = {"kl_objective": kb.REVERSE_KL, "kl_beta_unit": "sequence", **own}
    extra = {name: options.pop(name) for name in ("peft_config", "rollout_func", "processing_class") if name in options}
    return made(
        model=policy,
        reward_funcs=reward,
        args=config(kind, folder, **options),
        train_dataset=dataset(),
        callbacks=list(callbacks),
        **extra,
        **own,
    )
