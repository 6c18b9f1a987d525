"""KL terms whose gradient is the one their user meant: in the loss, and in the reward.

A loss differentiates its estimate with the samples held fixed, so that a plain mean of k1, k2 or k3 follows
another divergence than the one it estimates, or none. Here value and gradient are written down apart: the
value from detached numbers, and the gradient as Σ_t c_t ∇log q_t with the coefficient that makes its mean
the objective's gradient, which is also cheaper than differentiating through the weights.
"""

from kullback.losses.loss import Baseline, kl_loss
from kullback.losses.objectives import OBJECTIVES, Objective
from kullback.losses.reward import kl_reward
from kullback.losses.token_critic import TokenCritic
from kullback.losses.token_value import TokenValue

__all__ = ["OBJECTIVES", "Baseline", "Objective", "TokenCritic", "TokenValue", "kl_loss", "kl_reward"]
