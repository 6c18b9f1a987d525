"""The KL term of TRL's trainers, exchanged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, options
from kullback.integrations.trl.batches import (
    OLD,
    REFERENCE,
    REFERENCE_HIDDEN,
    Scored,
    baseline_groups,
    behavior,
    counted,
    prompts,
    reference,
)
from kullback.integrations.trl.hidden import Heads, HiddenTap, predicting
from kullback.integrations.trl.recorder import Recorder
from kullback.integrations.units import sequence_coefficient
from kullback.losses import kl_loss, kl_reward
from kullback.monitoring import KLMonitor
from kullback.targets import Target
from kullback.weights import Truncation

logger = logging.getLogger(__name__)

PENALTY = "kl_penalty"
"""The column of rewards that GRPO gets for a KL in the reward."""


class KLMixin:
    """β·KL whose gradient is the objective's, for TRL's `GRPOTrainer`, `RLOOTrainer` or a subclass of either.

    Stands before the trainer; all arguments are the trainer's but these keywords. With β = 0 nothing is changed. Else
    the trainer's own KL term (k3 in GRPO's loss, k1 in RLOO's reward) is off, and

    - "loss": b·`kullback.kl_loss` is added, the mean over the rows that make an optimizer step;
    - "reward": b·Σ_t ℓ_t is subtracted from the reward, before the trainer normalises and clips as ever,

    with b = β, or β/L̄ where β is of nats a token and L̄ the mean length of the batch that was generated. Unbiased
    on-policy and off-policy (`num_iterations`, `steps_per_generation`; vLLM with the engine's log-probs) for the law
    whose log-probs the trainer takes: at its `temperature`, and neither top-k nor top-p. L̄ and a `scale_rewards` are
    taken of the same rows, which costs unit "token" and placement "reward" a bias of order 1/rows.

    Args:
        kl_objective: whose gradient, as for `kullback.kl_loss`. No default where β ≠ 0.
        kl_estimator: K1, K3, ControlVariate(λ), or RAO_BLACKWELL: the exact KL over the vocabulary at every prefix,
            from the hidden states of the forward passes that the trainer makes anyhow; (tokens, vocabulary) is never
            held, and the reference's (tokens, hidden) are, for each batch that is generated.
        kl_placement: "loss" or "reward".
        kl_baseline: None or "leave_one_out", in the loss.
        kl_beta_unit: what `args.beta` multiplies, nats a "token" (as TRL's own) or a "sequence". No default where
            β ≠ 0.
        kl_truncate: how importance weights are capped, as for `kullback.kl_loss`.
        kl_monitor: a `kullback.KLMonitor` with limits of your own; it is `trainer.kl_monitor`.

    Logs, beside the trainer's: `kl`, nats a token, by the estimator; `kl/sequence`, nats a sequence;
    `kl/coefficient`, b; and the monitor's `kullback/policy/…` and `kullback/mismatch/…`.

    Raises:
        InputError: options that nothing can follow, or a path of the trainer that would go around them.

    Reference: docs/trl.md.

    Example:
        >>> import kullback as kb
        >>> from kullback.integrations.trl import KLMixin
        >>> class Trainer(KLMixin, object):  # GRPOTrainer in place of object
        ...     pass
        >>> Trainer(args=type("Config", (), {"beta": 0.04}), kl_objective=kb.REVERSE_KL)
        Traceback (most recent call last):
        kullback.errors.InputError: beta=0.04 came with kl_beta_unit=None: pass 'token' (it multiplies nats a token, \
as the trainer's own does) or 'sequence' (it multiplies nats a sequence, which is the mean length times as strong)
    """

    accelerator: Any
    args: Any
    beta: float
    model: Any
    ref_model: Any
    reward_func_names: list[str]
    reward_weights: Tensor
    state: Any
    temperature: float
    _logs: Any
    _metrics: dict[str, Any]

    def __init__(
        self,
        *args: Any,
        kl_objective: Target | None = None,
        kl_estimator: Estimator | str = K1,
        kl_placement: str = "loss",
        kl_baseline: str | None = None,
        kl_beta_unit: str | None = None,
        kl_truncate: Truncation | float | str | None = None,
        kl_monitor: KLMonitor | None = None,
        **kwargs: Any,
    ) -> None:
        wanted: dict[str, Any] = {
            "objective": kl_objective,
            "estimator": kl_estimator,
            "placement": kl_placement,
            "baseline": kl_baseline,
            "unit": kl_beta_unit,
            "truncate": kl_truncate,
        }
        config = kwargs.get("args", args[2] if len(args) > 2 else None)
        if config is not None and config.beta != 0:
            options(config.beta, **wanted)  # before models are loaded
        self.kl_options: Options | None = None  # a trainer's own __init__ may call methods below
        parent: Any = super()
        parent.__init__(*args, **kwargs)
        self.kl_monitor = KLMonitor() if kl_monitor is None else kl_monitor
        self._kl_recorder = Recorder(self.kl_monitor)
        self._kl_beta = self.beta
        self._kl_length = 0.0
        self._kl_calls: list[Scored] = []
        self._kl_tap: HiddenTap | None = None
        if self.beta != 0:
            self.kl_options = options(self.beta, **wanted)
            self._kl_prepare(self.kl_options)

    def _kl_prepare(self, wanted: Options) -> None:
        """Hold that the trainer's path is one that passes here, and get ready for it."""
        config = self.args
        if getattr(config, "use_liger_kernel", False) and hasattr(self, "compute_liger_loss"):
            raise InputError(
                "use_liger_kernel=True came, but in this version of TRL Liger's loss has a KL of its own: pass False"
            )
        if wanted.placement == "reward":
            if getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum":
                raise InputError(
                    "multi_objective_aggregation='normalize_then_sum' came with kl_placement='reward', but it would "
                    "scale the KL to one standard deviation whatever beta is: use 'sum_then_normalize', or 'loss'"
                )
            if self._kl_is_grpo:
                if any(getattr(self, name, None) for name in ("tools", "environment_factories", "rollout_func")):
                    raise InputError(
                        "kl_placement='reward' came with tools, an environment or a rollout_func, but where rewards "
                        "are made their words cannot be told from the policy's: use kl_placement='loss'"
                    )
                self.reward_weights = torch.cat([self.reward_weights, torch.ones(1)])
                self.reward_func_names = [*self.reward_func_names, PENALTY]
                self._logs["rewards"][PENALTY]  # a column of its own in the table of completions
        if wanted.baseline is not None and config.per_device_train_batch_size < 2:
            raise InputError(
                "kl_baseline='leave_one_out' came with per_device_train_batch_size=1, but it is the mean over the "
                "other rows of a batch: pass 2 or more, or kl_baseline=None"
            )
        if wanted.exact:
            self._kl_prepare_exact()
        if getattr(config, "top_p", 1.0) not in (None, 1.0) or getattr(config, "top_k", 0) not in (None, 0, -1):
            logger.warning(
                "top_p=%s and top_k=%s draw from another law than that whose log-probs the trainer takes: its ratios "
                "and every KL here are off by what they cut off",
                config.top_p,
                config.top_k,
            )

    def _kl_prepare_exact(self) -> None:
        if getattr(self.args, "sync_ref_model", False):
            raise InputError(
                "kl_estimator=rao_blackwell came with sync_ref_model=True, which changes the reference's head between "
                "its hidden states and their use: use kullback.K1, or False"
            )
        if getattr(self, "is_fsdp_enabled", False) or getattr(self, "is_deepspeed_enabled", False):
            raise InputError(
                "kl_estimator=rao_blackwell reads the LM head's weights, which FSDP and DeepSpeed may hold in pieces: "
                "use kullback.K1 there"
            )
        apart = self.ref_model if self.ref_model is not None else self.model
        if getattr(self.args, "torch_compile", False):
            torch.compiler.reset()  # code of an equal model without the hooks below would be taken for this one's
        self._kl_heads = Heads(self.model, apart, self.temperature)
        self._kl_tap = HiddenTap(self.model)
        self._kl_ref_tap = self._kl_tap if apart is self.model else HiddenTap(apart)

    @property
    def _kl_is_grpo(self) -> bool:
        """Whether the trainer has its KL in the loss and rewards without one; else it is RLOO."""
        return hasattr(self, "loss_type")

    @property
    def _kl_rloo_pays(self) -> bool:
        """Whether RLOO's own KL in the reward is what was asked for, with another coefficient."""
        return self.kl_options is not None and self.kl_options.placement == "reward" and not self._kl_is_grpo

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        parent: Any = super()
        score = parent._get_per_token_logps_and_entropies
        if self.kl_options is None:
            return score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
        if self._kl_tap is None:
            self._kl_scoring = (input_ids, attention_mask, logits_to_keep, *args), kwargs
            found = score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
            self._kl_calls.append(Scored(found[0], None))
            return found
        tap = self._kl_ref_tap if model is self.ref_model else self._kl_tap
        with tap.opened() as taken:
            found = score(model, input_ids, attention_mask, logits_to_keep, *args, **kwargs)
            self._kl_calls.append(Scored(found[0], predicting(taken, logits_to_keep)))
        return found

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        parent: Any = super()
        if self.kl_options is None:
            return parent._generate_and_score_completions(inputs)
        self._kl_calls = []
        try:
            batch = parent._generate_and_score_completions(inputs)
        finally:
            self.beta = self._kl_beta
        # The reference is scored last; before it the policy, where the trainer needs that.
        *before, last = self._kl_calls
        self._kl_calls = []
        if "ref_per_token_logps" not in batch:
            batch[REFERENCE] = last.logps
        if before and "old_per_token_logps" not in batch:
            batch[OLD] = before[-1].logps
        if last.hidden is not None:
            batch[REFERENCE_HIDDEN] = last.hidden
        self._kl_measure(counted(batch))
        return batch

    def _kl_measure(self, mask: Tensor) -> None:
        """The mean length of what was generated, on all processes, and what β is by it."""
        totals = torch.tensor([float(mask.sum()), float(len(mask))], device=mask.device)
        tokens, rows = self.accelerator.reduce(totals, reduction="sum").tolist()
        first, self._kl_length = not self._kl_length, tokens / rows
        if first and self.kl_options is not None:
            logger.info(
                "beta=%g of nats a %s is %.4g of nats a sequence, at a mean length of %.1f tokens",
                self._kl_beta,
                self.kl_options.unit,
                self._kl_coefficient,
                self._kl_length,
            )

    @property
    def _kl_coefficient(self) -> float:
        """What nats a sequence are multiplied by."""
        assert self.kl_options is not None
        return sequence_coefficient(self._kl_beta, self.kl_options.unit, self._kl_length)

    def _calculate_rewards(self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any) -> Tensor:
        parent: Any = super()
        wanted = self.kl_options
        if wanted is None or wanted.placement == "loss" or not self._kl_is_grpo:
            found: Tensor = parent._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            if wanted is not None and not self._kl_is_grpo:
                # From here on RLOO subtracts β times Σ ℓ, and the reference has been scored.
                self._kl_measure(_lengths_mask(completion_ids_list, self._kl_calls[-1].logps))
                self.beta = self._kl_coefficient if wanted.placement == "reward" else 0.0
            return found
        names = self.reward_func_names
        self.reward_func_names = names[:-1]
        try:
            found = parent._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        finally:
            self.reward_func_names = names
        return torch.cat([found, self._kl_penalty(found, completion_ids_list)], dim=1)

    def _kl_penalty(self, rewards: Tensor, completion_ids: list[list[int]]) -> Tensor:
        """−b·Σ ℓ of every completion on all processes, (rows, 1); nan where no function rewards it."""
        wanted = self.kl_options
        assert wanted is not None
        *before, reference = self._kl_calls
        if before:
            logps = before[-1].logps
        else:  # on-policy GRPO does not score what it generates: one forward pass more, as RLOO has it
            with torch.no_grad():
                logps = self._get_per_token_logps_and_entropies(
                    self.model, *self._kl_scoring[0], **self._kl_scoring[1]
                )[0]
            self._kl_calls = [Scored(logps, None), reference]
        mask = _lengths_mask(completion_ids, logps)
        self._kl_measure(mask)
        paid: Any = kl_reward(logps.float(), reference.logps.float(), mask, estimator=wanted.estimator)
        total = self.accelerator.gather(-self._kl_coefficient * paid.sum(dim=1, keepdim=True))
        column: Tensor = total.masked_fill(rewards.isnan().all(dim=1, keepdim=True), float("nan"))
        return column

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        parent: Any = super()
        wanted = self.kl_options
        if wanted is None:
            own: Tensor = parent._compute_loss(model, inputs)
            return own
        self._kl_calls = []
        with self._kl_built_in_off():
            own = parent._compute_loss(model, inputs)
        scored = self._kl_calls[-1]
        self._kl_calls = []
        device = scored.logps.device.type
        with torch.autocast(device, enabled=False):
            token_kl = self._kl_exact(scored, inputs) if wanted.exact else None
            logps = scored.logps if wanted.placement == "loss" else scored.logps.detach()
            term = self._kl_term(logps, token_kl, inputs)
        self._kl_log(term, inputs)
        self._kl_recorder.record(self, inputs, scored.logps, token_kl)
        if wanted.placement == "reward":
            return own
        return own + self._kl_coefficient * self._kl_share * term

    @contextmanager
    def _kl_built_in_off(self) -> Iterator[None]:
        self.beta = 0.0
        try:
            yield
        finally:
            self.beta = self._kl_beta

    @property
    def _kl_share(self) -> float:
        """Of a batch in its optimizer step, where the trainer divides and not transformers."""
        trainer: Any = self
        scaled = getattr(trainer, "loss_is_scaled_for_ga", None)  # TRL 1.16 on transformers 5.19; else by a stand-in
        if scaled is None:
            scaled = trainer.compute_loss_func is not None
        return 1.0 / float(trainer.current_gradient_accumulation_steps) if scaled and self.model.training else 1.0

    def _kl_exact(self, scored: Scored, inputs: Mapping[str, Any]) -> Tensor:
        assert scored.hidden is not None
        assert self.kl_options is not None
        return self._kl_heads.token_kl(
            scored.hidden,
            inputs[REFERENCE_HIDDEN],
            inputs["completion_ids"],
            scored.logps,
            self.kl_options.direction,
        )

    def _kl_term(self, logps: Tensor, token_kl: Tensor | None, inputs: Mapping[str, Any]) -> Tensor:
        """The KL in nats a sequence, over the rows of a batch."""
        wanted = self.kl_options
        assert wanted is not None
        training = self.model.training and wanted.baseline is not None
        return kl_loss(
            logps,
            reference(inputs),
            counted(inputs),
            objective=wanted.objective,
            estimator=K1 if token_kl is not None else wanted.estimator,
            behavior_logprobs=behavior(inputs),
            token_kl=token_kl,
            baseline="leave_one_out" if training else None,
            groups=baseline_groups(prompts(inputs)) if training else None,
            truncate=wanted.truncate,
        )

    def _kl_log(self, term: Tensor, inputs: Mapping[str, Any]) -> None:
        """The value a token and a sequence, over all processes."""
        mask = counted(inputs)
        totals = torch.stack([term.detach().float() * len(mask), mask.sum().float(), term.new_tensor(len(mask))])
        nats, tokens, rows = self.accelerator.reduce(totals, reduction="sum").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        if not self._kl_rloo_pays:  # which logs its own
            metrics["kl"].append(nats / max(tokens, 1.0))
        metrics["kl/sequence"].append(nats / rows)
        metrics["kl/coefficient"].append(self._kl_coefficient)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """TRL's, with the monitor's numbers of the newest step."""
        parent: Any = super()
        if self.kl_options is not None and self.model.training:
            for name, value in self._kl_recorder.metrics(self).items():
                self._metrics["train"][name] = [value]
        parent.log(logs, *args, **kwargs)


def _lengths_mask(completion_ids: list[list[int]], like: Tensor) -> Tensor:
    """The tokens of completions padded on the right, in the shape of their log-probs."""
    lengths = torch.tensor([len(ids) for ids in completion_ids], device=like.device)
    return torch.arange(like.shape[1], device=like.device) < lengths[:, None]
