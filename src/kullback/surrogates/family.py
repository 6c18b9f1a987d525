"""The family: every loss with its promises and where it is found."""

from __future__ import annotations

from functools import partial

from kullback.estimators import AMINI, SCHULMAN
from kullback.estimators.divergences import k1, k2, k3
from kullback.families import Family
from kullback.surrogates.formulas import (
    absolute,
    clamped_after_ratio,
    clamped_loss,
    exact_token_kl,
    geometric_weighted,
    own_token_reward,
    rpg_forward,
    rpg_reverse,
    rpg_unnormalised_forward,
    rpg_unnormalised_reverse,
    sequence_loss,
    sequence_reward,
    squared_about,
    straight_through,
    token_loss,
    token_reward,
    token_weighted,
    top_renormalised,
    top_rest,
    top_tail_forward,
    top_tail_reverse,
)
from kullback.surrogates.record import NEVER, BySampler, Surrogate
from kullback.targets import (
    FORWARD_KL,
    KL_GAP,
    REVERSE_KL,
    SAMPLED_FORWARD_KL,
    SAMPLED_REVERSE_KL,
    STATEWISE_FORWARD_KL,
    STATEWISE_REVERSE_KL,
    ZERO,
)

COMMON = "TRL, verl, OpenRLHF, NeMo-RL, slime, open-instruct, torchtune"
RPG = "RPG, arXiv 2505.17508, tables 1 and 4"
EMA_PG = "EMA-PG, arXiv 2602.04417, table 1"
XU = "Wei Xu, “Estimating the gradient of KL-divergence”"
REVERSE = BySampler(REVERSE_KL)
STATEWISE = BySampler(STATEWISE_REVERSE_KL)
NOWHERE = BySampler(ZERO)
REVERSE_ANYWHERE = BySampler(REVERSE_KL, SAMPLED_REVERSE_KL, SAMPLED_REVERSE_KL)
STATEWISE_ANYWHERE = BySampler(STATEWISE_REVERSE_KL, SAMPLED_REVERSE_KL, SAMPLED_REVERSE_KL)
STATEWISE_FORWARD_ANYWHERE = BySampler(STATEWISE_FORWARD_KL, SAMPLED_FORWARD_KL, FORWARD_KL)

_token_loss = partial(Surrogate, placement="loss", level="token")
_sequence_loss = partial(Surrogate, placement="loss", level="sequence")
_token_reward = partial(Surrogate, placement="reward", level="token")
_sequence_reward = partial(Surrogate, placement="reward", level="sequence")

SURROGATES: Family[Surrogate] = Family(
    (
        _token_loss(
            name="k1_loss", fn=partial(token_loss, kernel=k1), value_of=REVERSE, gradient_of=NOWHERE, source=COMMON
        ),
        _token_loss(
            name="k2_loss",
            fn=partial(token_loss, kernel=k2),
            value_of=NEVER,
            gradient_of=STATEWISE,
            source=COMMON,
            nonnegative=True,
        ),
        _token_loss(
            name="k3_loss",
            fn=partial(token_loss, kernel=k3),
            value_of=REVERSE,
            gradient_of=BySampler(STATEWISE_FORWARD_KL),
            source=COMMON,
            nonnegative=True,
        ),
        _token_loss(
            name="abs_loss",
            fn=partial(token_loss, kernel=absolute),
            value_of=NEVER,
            gradient_of=NEVER,
            source="verl, ROLL",
            nonnegative=True,
        ),
        _sequence_loss(
            name="k1_sequence_loss",
            fn=partial(sequence_loss, kernel=k1),
            value_of=REVERSE,
            gradient_of=NOWHERE,
            source=SCHULMAN,
        ),
        _sequence_loss(
            name="k2_sequence_loss",
            fn=partial(sequence_loss, kernel=k2),
            value_of=NEVER,
            gradient_of=REVERSE,
            source=SCHULMAN,
            nonnegative=True,
        ),
        _sequence_loss(
            name="k3_sequence_loss",
            fn=partial(sequence_loss, kernel=k3),
            value_of=REVERSE,
            gradient_of=BySampler(FORWARD_KL),
            source="DeepSeek-R1, arXiv 2501.12948, eq. (2)",
            nonnegative=True,
        ),
        _sequence_loss(
            name="abs_sequence_loss",
            fn=partial(sequence_loss, kernel=absolute),
            value_of=NEVER,
            gradient_of=NEVER,
            source="verl",
            nonnegative=True,
        ),
        _token_reward(
            name="k1_reward", fn=partial(token_reward, kernel=k1), value_of=REVERSE, gradient_of=REVERSE, source=COMMON
        ),
        _token_reward(
            name="k2_reward",
            fn=partial(token_reward, kernel=k2),
            value_of=NEVER,
            gradient_of=NEVER,
            source=COMMON,
            nonnegative=True,
        ),
        _token_reward(
            name="k3_reward",
            fn=partial(token_reward, kernel=k3),
            value_of=REVERSE,
            gradient_of=NEVER,
            source=COMMON,
            nonnegative=True,
        ),
        _token_reward(
            name="abs_reward",
            fn=partial(token_reward, kernel=absolute),
            value_of=NEVER,
            gradient_of=NEVER,
            source="verl, ROLL",
            nonnegative=True,
        ),
        _sequence_reward(
            name="k1_sequence_reward",
            fn=partial(sequence_reward, kernel=k1),
            value_of=REVERSE,
            gradient_of=REVERSE,
            source="TRL RLOO",
        ),
        _sequence_reward(
            name="k2_sequence_reward",
            fn=partial(sequence_reward, kernel=k2),
            value_of=NEVER,
            gradient_of=NEVER,
            source=SCHULMAN,
            nonnegative=True,
        ),
        _sequence_reward(
            name="k3_sequence_reward",
            fn=partial(sequence_reward, kernel=k3),
            value_of=REVERSE,
            gradient_of=BySampler(KL_GAP),
            source=SCHULMAN,
            nonnegative=True,
        ),
        _sequence_reward(
            name="abs_sequence_reward",
            fn=partial(sequence_reward, kernel=absolute),
            value_of=NEVER,
            gradient_of=NEVER,
            source="verl",
            nonnegative=True,
        ),
        _token_reward(
            name="k1_own_token_reward",
            fn=partial(own_token_reward, kernel=k1),
            value_of=REVERSE,
            gradient_of=STATEWISE,
            source="tinker-cookbook; on-policy distillation with discount 0",
        ),
        _token_loss(
            name="k1_plus",
            fn=partial(straight_through, kernel=k1),
            value_of=REVERSE,
            gradient_of=STATEWISE,
            source="verl kl_penalty k1+",
        ),
        _token_loss(
            name="k3_plus",
            fn=partial(straight_through, kernel=k3),
            value_of=REVERSE,
            gradient_of=STATEWISE,
            source="verl kl_penalty k3+, low_var_kl+",
            nonnegative=True,
        ),
        _token_loss(
            name="abs_plus",
            fn=partial(straight_through, kernel=absolute),
            value_of=NEVER,
            gradient_of=STATEWISE,
            source="verl kl_penalty abs+",
            nonnegative=True,
        ),
        _token_loss(
            name="k1_token_ratio",
            fn=partial(token_weighted, kernel=k1, detached=False),
            value_of=REVERSE_ANYWHERE,
            gradient_of=STATEWISE_ANYWHERE,
            source="slime, NeMo-RL with importance weights",
        ),
        _token_loss(
            name="k2_token_ratio_detached",
            fn=partial(token_weighted, kernel=k2, detached=True),
            value_of=NEVER,
            gradient_of=STATEWISE_ANYWHERE,
            source="slime with detached weights",
            nonnegative=True,
        ),
        _token_loss(
            name="k3_token_ratio",
            fn=partial(token_weighted, kernel=k3, detached=False),
            value_of=REVERSE_ANYWHERE,
            gradient_of=STATEWISE_ANYWHERE,
            source="DeepSeek-V3.2, arXiv 2512.02556, eq. (7); TRL use_bias_correction_kl",
            nonnegative=True,
        ),
        _token_loss(
            name="k3_token_ratio_detached",
            fn=partial(token_weighted, kernel=k3, detached=True),
            value_of=REVERSE_ANYWHERE,
            gradient_of=STATEWISE_FORWARD_ANYWHERE,
            source="verl and slime with detached weights",
            nonnegative=True,
        ),
        _token_loss(
            name="k3_geometric_ratio",
            fn=partial(geometric_weighted, kernel=k3),
            value_of=REVERSE,
            gradient_of=NEVER,
            source="TRL importance_sampling_level=sequence",
            nonnegative=True,
        ),
        _token_loss(
            name="rpg_forward",
            fn=rpg_forward,
            value_of=BySampler(None, None, FORWARD_KL),
            gradient_of=BySampler(ZERO, None, FORWARD_KL),
            source=RPG,
        ),
        _token_loss(
            name="rpg_reverse",
            fn=rpg_reverse,
            value_of=BySampler(None, None, SAMPLED_REVERSE_KL),
            gradient_of=BySampler(None, None, SAMPLED_REVERSE_KL),
            source=RPG,
        ),
        _token_loss(
            name="rpg_unnormalised_forward",
            fn=rpg_unnormalised_forward,
            value_of=BySampler(None, None, FORWARD_KL),
            gradient_of=BySampler(None, None, FORWARD_KL),
            source=RPG,
            nonnegative=True,
        ),
        _token_loss(
            name="rpg_unnormalised_reverse",
            fn=rpg_unnormalised_reverse,
            value_of=BySampler(None, None, SAMPLED_REVERSE_KL),
            gradient_of=BySampler(None, None, SAMPLED_REVERSE_KL),
            source=RPG,
            nonnegative=True,
        ),
        _token_loss(
            name="k3_clamped_verl",
            fn=partial(clamped_loss, kernel=k3, log_ratio=20.0, value=10.0),
            value_of=NEVER,
            gradient_of=NEVER,
            source="verl and NeMo-RL: ±20 in, ±10 out",
            nonnegative=True,
        ),
        _token_loss(
            name="k1_clamped_openrlhf",
            fn=partial(clamped_loss, kernel=k1, value=10.0),
            value_of=NEVER,
            gradient_of=NEVER,
            source="OpenRLHF, AReaL: ±10",
        ),
        _token_loss(
            name="k2_clamped_openrlhf",
            fn=partial(clamped_loss, kernel=k2, value=10.0),
            value_of=NEVER,
            gradient_of=NEVER,
            source="OpenRLHF, AReaL: ±10",
            nonnegative=True,
        ),
        _token_loss(
            name="k3_clamped_openrlhf",
            fn=partial(clamped_loss, kernel=k3, value=10.0),
            value_of=NEVER,
            gradient_of=NEVER,
            source="OpenRLHF, AReaL, ROLL: ±10",
            nonnegative=True,
        ),
        _token_loss(
            name="k3_clamped_slime",
            fn=clamped_after_ratio,
            value_of=NEVER,
            gradient_of=NEVER,
            source="slime low_var_kl: ±10 after the ratio",
            nonnegative=True,
        ),
        _token_loss(
            name="top_rest_reverse",
            fn=partial(top_rest, reverse=True),
            value_of=NEVER,
            gradient_of=NEVER,
            source="DPPO; verl",
            nonnegative=True,
        ),
        _token_loss(
            name="top_rest_forward",
            fn=partial(top_rest, reverse=False),
            value_of=NEVER,
            gradient_of=NEVER,
            source="DPPO; verl",
            nonnegative=True,
        ),
        _token_loss(
            name="top_tail_reverse",
            fn=partial(top_tail_reverse, detached=False),
            value_of=REVERSE_ANYWHERE,
            gradient_of=STATEWISE_ANYWHERE,
            source="EMA-PG, with the gradient of the tail's log-ratio",
        ),
        _token_loss(
            name="top_tail_forward",
            fn=partial(top_tail_forward, extra=False),
            value_of=STATEWISE_FORWARD_ANYWHERE,
            gradient_of=STATEWISE_FORWARD_ANYWHERE,
            source="EMA-PG, without its last term",
        ),
        _token_loss(
            name="top_tail_reverse_ema_pg",
            fn=partial(top_tail_reverse, detached=True),
            value_of=REVERSE_ANYWHERE,
            gradient_of=NEVER,
            source=EMA_PG,
        ),
        _token_loss(
            name="top_tail_forward_ema_pg",
            fn=partial(top_tail_forward, extra=True),
            value_of=STATEWISE_FORWARD_ANYWHERE,
            gradient_of=NEVER,
            source=EMA_PG,
        ),
        _token_loss(
            name="top_renormalised_reverse",
            fn=partial(top_renormalised, reverse=True),
            value_of=NEVER,
            gradient_of=NEVER,
            source="vOPD",
            nonnegative=True,
        ),
        _token_loss(
            name="top_renormalised_forward",
            fn=partial(top_renormalised, reverse=False),
            value_of=NEVER,
            gradient_of=NEVER,
            source="NeMo-RL distillation",
            nonnegative=True,
        ),
        _token_loss(
            name="exact_token_kl_loss",
            fn=exact_token_kl,
            value_of=REVERSE_ANYWHERE,
            gradient_of=STATEWISE_ANYWHERE,
            source=AMINI,
            nonnegative=True,
        ),
        _sequence_loss(
            name="f_N", fn=partial(sequence_loss, kernel=k1), value_of=REVERSE, gradient_of=NOWHERE, source=XU
        ),
        _sequence_loss(
            name="f_X",
            fn=partial(squared_about, constant=1.0),
            value_of=NEVER,
            gradient_of=REVERSE,
            source=XU,
            nonnegative=True,
        ),
        _sequence_loss(
            name="f_S",
            fn=partial(sequence_loss, kernel=k3),
            value_of=REVERSE,
            gradient_of=BySampler(FORWARD_KL),
            source=XU,
            nonnegative=True,
        ),
    )
)
