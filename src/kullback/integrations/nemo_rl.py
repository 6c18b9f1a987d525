"""NeMo-RL: a loss function of its protocol, around its `ClippedPGLossFn`, with the KL of a named objective."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from kullback.errors import InputError
from kullback.estimators import K1, Estimator
from kullback.integrations.options import Options, of_drawn_tokens, refuse_unit
from kullback.integrations.terms import Shares, nats
from kullback.targets import Target
from kullback.weights import Truncation

if TYPE_CHECKING:
    from torch import Tensor


class KLLoss:
    """NeMo-RL's loss with its KL off and another one beside it; a `LossFunction` of NeMo-RL's protocol.

    Its attributes are those of the loss inside, which NeMo-RL's workers read; it goes to them pickled, as that does.

    Attributes:
        stock: NeMo-RL's loss, whose KL is off.
        reference_policy_kl_penalty: β, as it was configured.
    """

    def __init__(self, stock: Any, wanted: Options) -> None:
        self.stock = copy.copy(stock)
        self.stock.reference_policy_kl_penalty = 0
        self.reference_policy_kl_penalty = stock.reference_policy_kl_penalty
        self._wanted = wanted

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "stock" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.stock, name)

    def __call__(
        self, next_token_logprobs: Tensor, data: Any, global_valid_seqs: Any, global_valid_toks: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        """The loss of a micro-batch, as NeMo-RL calls it, and what it logs."""
        loss, logged = self.stock(next_token_logprobs, data, global_valid_seqs, global_valid_toks)
        total = self._nats(next_token_logprobs, data)
        term = Shares(tokens=global_valid_toks, sequences=global_valid_seqs).of(total, self._wanted.unit)
        loss = loss + self.reference_policy_kl_penalty * term
        return loss, {**logged, "loss": loss.item(), "kl_penalty": term.item()}

    def _nats(self, logprobs: Tensor, data: Any) -> Tensor:
        found: Tensor = nats(
            self._wanted,
            data.get("curr_logprobs_unfiltered", logprobs),
            data["reference_policy_logprobs"][:, 1:],
            (data["token_mask"][:, 1:] * data["sample_mask"].unsqueeze(-1)).bool(),
            behavior_logprobs=self._behavior(data),
        )
        return found

    def _behavior(self, data: Any) -> Tensor | None:
        """What drew the rows: the engine where its mismatch is corrected for, π_old elsewhere."""
        if self.stock.use_importance_sampling_correction or self.stock.use_on_policy_kl_approximation:
            name = "generation_logprobs"
        elif self.stock.force_on_policy_ratio:
            return None
        else:
            name = "prev_logprobs"
        found: Tensor = data[name][:, 1:]
        return found


def with_kl(
    stock: Any,
    *,
    kl_objective: Target,
    kl_beta_unit: str,
    kl_estimator: Estimator | str = K1,
    kl_baseline: str | None = None,
    kl_truncate: Truncation | float | str | None = None,
) -> KLLoss:
    """NeMo-RL's `ClippedPGLossFn`, with a KL whose gradient is the objective's in the place of its own.

    To be put between `setup`, which returns the loss, and `grpo_train`, which takes it. β stays
    `loss_fn.reference_policy_kl_penalty`; `reference_policy_kl_type` and both clamps are not read for it any more.

    Args:
        stock: NeMo-RL's.
        kl_objective: whose gradient, as `kullback.kl_loss` takes it.
        kl_beta_unit: what β multiplies. NeMo-RL rescales by what it divides the loss by, so it is "token" with
            `token_level_loss` and "sequence" without.
        kl_estimator: K1, K3 or ControlVariate(λ).
        kl_baseline: "leave_one_out" over the other rows of a micro-batch, or None; one row has no others, as with
            sequence packing.
        kl_truncate: how the weights π/π_old are capped; None is unbiased.

    Raises:
        InputError: options that fit no term, the unit that NeMo-RL's division does not give, or a loss whose own KL
            is off: NeMo-RL then scores no reference.

    Reference: docs/nemo-rl.md.
    """
    wanted = of_drawn_tokens(
        "NeMo-RL",
        objective=kl_objective,
        estimator=kl_estimator,
        baseline=kl_baseline,
        unit=kl_beta_unit,
        truncate=kl_truncate,
    )
    if not stock.reference_policy_kl_penalty:
        raise InputError(
            "loss_fn.reference_policy_kl_penalty=0 in the loss, or use_kl_in_reward, came, but the KL of the loss is "
            "its multiple: set the penalty above 0 and use_kl_in_reward to false"
        )
    per_token = stock.loss_type.value == "token_level"
    refuse_unit(wanted, "token" if per_token else "sequence", f"token_level_loss={per_token}")
    return KLLoss(stock, wanted)
