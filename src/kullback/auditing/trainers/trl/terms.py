"""TRL: the GRPO trainer's whole loss with advantages of 0, RLOO's penalty, GKD's divergence.

TRL has no function for its KL: the loss method itself is driven, by a stand-in for the trainer that hands it the
log-probs and has a KL coefficient of 1, so that what comes back is the KL term with its own normalisation.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING

from kullback.auditing.subject.functions import Function
from kullback.auditing.trainers.record import Join, Member, Trainer, members
from kullback.auditing.trainers.trl.names import NAMES

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

NASH_MD = "trl/experimental/nash_md/nash_md_trainer.py:NashMDTrainer._compute_losses"
CHUNKED = "trl/trainer/distillation_trainer.py:_chunked_divergence_loss"
GRPO = "trl/trainer/grpo_trainer.py:GRPOTrainer._compute_loss"
WIDTH = 8
"""Completion tokens that the stand-in's configuration allows, a constant as in a run."""


def _trainer(loss_type: str, level: str, corrected: bool, logprobs: Tensor) -> SimpleNamespace:
    """A stand-in for a GRPOTrainer: on one process, no accumulation, nothing switched on but the KL."""
    import torch

    def logps(*_: object, **__: object) -> tuple[Tensor, Tensor, None]:
        return logprobs, torch.zeros_like(logprobs), None

    return SimpleNamespace(
        _get_per_token_logps_and_entropies=logps,
        beta=1.0,
        loss_type=loss_type,
        importance_sampling_level=level,
        args=SimpleNamespace(use_bias_correction_kl=corrected, delta=None, steps_per_generation=1),
        accelerator=SimpleNamespace(
            num_processes=1,
            gather=_gathered,
            gather_for_metrics=_gathered,
            reduce=lambda x, reduction="sum": x,
        ),
        model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        epsilon_low=0.2,
        epsilon_high=0.2,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        vllm_importance_sampling_correction=False,
        max_completion_length=WIDTH,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
    )


def _gathered(x: Tensor) -> Tensor:
    """What one process gathers for its logs.

    Of many batches in one call zeros, as logs branch on what they see; were more than logs to read it, that call would
    differ from one for a single batch and be given up.
    """
    import torch

    return torch.zeros(x.shape, dtype=x.dtype) if torch._C._functorch.is_batchedtensor(x) else x


def _driven(loss_type: str, level: str, corrected: bool, metric: bool) -> Join:
    def join(compute_loss: Function) -> Function:
        def loss(
            logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, behavior_logprobs: Tensor | None = None
        ) -> object:
            import torch

            rows, width = logprobs.shape
            ids = torch.zeros((rows, width), dtype=torch.int64)
            counted = mask.to(logprobs.dtype)
            trainer = _trainer(loss_type, level, corrected, logprobs)
            inputs = {
                "prompt_ids": ids[:, :1],
                "prompt_mask": counted[:, :1],
                "completion_ids": ids,
                "completion_mask": counted,
                "advantages": torch.zeros(rows, dtype=logprobs.dtype),
                "old_per_token_logps": behavior_logprobs,
                "ref_per_token_logps": ref_logprobs,
                "num_items_in_batch": counted.sum(),
            }
            result = compute_loss(trainer, None, inputs)
            return trainer._metrics["train"]["kl"][0] if metric else result

        def on_policy(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
            return loss(logprobs, ref_logprobs, mask)

        # Without the correction the KL term does not read the behaviour's log-probs.
        return loss if corrected else on_policy

    return join


def _grpo(name: str, about: str, loss_type: str, *, level: str = "token", corrected: bool = True) -> Member:
    return Member(name, about, "loss", (GRPO,), join=_driven(loss_type, level, corrected, metric=False))


def _nash_md(element: int) -> Join:
    """Its loss with even odds, which leave the policy gradient out, or the KL that it logs."""

    def join(compute_losses: Function) -> Function:
        def loss(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
            counted = mask.to(logprobs.dtype)
            trainer = SimpleNamespace(beta=1.0)
            return compute_losses(trainer, logprobs * counted, ref_logprobs * counted, 0.5)[element]

        return loss

    return join


def _kto(kl: Function) -> Function:
    """Of log-probs of whole completions."""

    def metric(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> object:
        counted = mask.to(logprobs.dtype)
        return kl((logprobs * counted).sum(-1), (ref_logprobs * counted).sum(-1))

    return metric


def _chunked(beta: float) -> Join:
    """With logits for hidden states and the identity for both heads, tokens summed."""

    def join(chunked: Function) -> Function:
        # Tiles were chunks of a given size once.
        given = {"chunk_size": 4} if "chunk_size" in signature(chunked).parameters else {}

        def loss(log_distributions: Tensor, ref_log_distributions: Tensor, mask: Tensor) -> object:
            import torch

            head = torch.eye(log_distributions.shape[-1], dtype=log_distributions.dtype)
            reference = ref_log_distributions.detach()
            return chunked(log_distributions, reference, head, head, mask, beta, **given, num_items_in_batch=1)[0]

        return loss

    return join


TRL = Trainer(
    name="trl",
    names=NAMES,
    package="trl",
    install="pip install trl",
    members=members(
        replace(
            _grpo("grpo", "GRPOConfig's defaults: loss_type=dapo, use_bias_correction_kl=True", "dapo"), default=True
        ),
        _grpo("grpo-uncorrected", "loss_type=dapo, use_bias_correction_kl=False", "dapo", corrected=False),
        *(
            _grpo(f"grpo-{kind}", f"loss_type={kind}, use_bias_correction_kl=True", kind)
            for kind in ("grpo", "bnpo", "dr_grpo", "luspo")
        ),
        *(
            _grpo(f"grpo-{kind}-uncorrected", f"loss_type={kind}, use_bias_correction_kl=False", kind, corrected=False)
            for kind in ("dr_grpo", "luspo")
        ),
        _grpo(
            "grpo-sequence",
            "loss_type=dr_grpo, importance_sampling_level=sequence",
            "dr_grpo",
            level="sequence",
        ),
        Member(
            "grpo-metric",
            "the logged “kl”, use_bias_correction_kl=True",
            "metric",
            (GRPO,),
            join=_driven("dapo", "token", True, metric=True),
        ),
        Member(
            "rloo",
            "RLOOTrainer's penalty: the statements that assign kl",
            "reward",
            ("trl/trainer/rloo_trainer.py:RLOOTrainer._generate_and_score_completions>per_token_kl>kl",),
            names={
                "old_per_token_logps": "logprobs",
                "ref_per_token_logps": "ref_logprobs",
                "completion_mask": "mask",
            },
        ),
        Member(
            "online-dpo-metric",
            "OnlineDPOTrainer's logged objective/kl: the statements that assign mean_kl",
            "metric",
            ("trl/experimental/online_dpo/online_dpo_trainer.py:OnlineDPOTrainer.training_step>kl>mean_kl",),
        ),
        *(
            Member(
                f"sdpo-{alpha:g}",
                f"SDPO's compute_divergence with alpha={alpha:g}, on the student's samples",
                "loss",
                ("trl/experimental/sdpo/loss_utils.py:compute_divergence",),
                names={"student_log_probs": "log_distributions", "teacher_log_probs": "ref_log_distributions"},
                settings={"alpha": alpha},
            )
            for alpha in (0.0, 0.5, 1.0)
        ),
        Member(
            "nash-md",
            "NashMDTrainer's loss, its preference switched off: the KL by REINFORCE",
            "loss",
            (NASH_MD,),
            role="surrogate",
            join=_nash_md(0),
        ),
        Member("nash-md-metric", "NashMDTrainer's logged loss/kl", "metric", (NASH_MD,), join=_nash_md(2)),
        Member(
            "kto-kl",
            "KTOTrainer's kl before its clamp at 0: on completions of other prompts, which the policy did not draw",
            "metric",
            ("trl/trainer/kto_trainer.py:KTOTrainer._compute_loss>kl",),
            sampler="off_policy",
            join=_kto,
        ),
        *(
            Member(
                f"chunked-{beta:g}",
                f"_chunked_divergence_loss with beta={beta:g}, on the student's samples, tokens summed",
                "loss",
                (CHUNKED,),
                join=_chunked(beta),
            )
            for beta in (0.0, 0.5, 1.0)
        ),
        *(
            Member(
                f"gkd-{beta:g}",
                f"GKDTrainer.generalized_jsd_loss with beta={beta:g}, on the student's samples",
                "loss",
                ("trl/experimental/gkd/gkd_trainer.py:GKDTrainer.generalized_jsd_loss",),
                join=lambda jsd, beta=beta: (
                    lambda log_distributions, ref_log_distributions: jsd(
                        log_distributions, ref_log_distributions, beta=beta, reduction="none"
                    ).sum(-1)
                ),
            )
            for beta in (0.0, 0.5, 1.0)
        ),
    ),
)
