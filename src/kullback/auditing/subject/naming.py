"""Which column a parameter's name stands for: a table of whole names, and one of the words that names are made of."""

from __future__ import annotations

import re

from kullback.auditing.subject.columns import COLUMNS

WHOLE = {
    "q": "logprobs",
    "p": "ref_logprobs",
    "m": "mask",
    "mu": "behavior_logprobs",
    "logq": "logprobs",
    "log_q": "logprobs",
    "logp": "logprobs",
    "log_p": "ref_logprobs",
    "ref": "ref_logprobs",
    "log_mu": "behavior_logprobs",
    "log_ratios": "log_ratio",
    "logratio": "log_ratio",
    "importance_ratio": "ratio",
    "importance_weights": "ratio",
    "importance_sampling_weights": "ratio",
    "is_weights": "ratio",
    "is_ratio": "ratio",
    "rho": "ratio",
    "input_ids": "tokens",
    "token_ids": "tokens",
    "completion_ids": "tokens",
    "response_ids": "tokens",
    "responses": "tokens",
    "output_ids": "tokens",
    "target_ids": "tokens",
    "target_tokens": "tokens",
    "actions": "tokens",
    "action_ids": "tokens",
    "sampled_tokens": "tokens",
    "labels": "tokens",
    "ids": "tokens",
    "advantage": "advantages",
    "adv": "advantages",
    "advs": "advantages",
    "token_level_advantages": "advantages",
    "reward": "rewards",
    "scores": "rewards",
    "score": "rewards",
    "token_level_scores": "rewards",
    "token_level_rewards": "rewards",
    "group": "groups",
    "group_ids": "groups",
    "group_id": "groups",
    "group_index": "groups",
    "prompt_index": "groups",
    "prompt_groups": "groups",
    "uids": "groups",
    "attention_mask": "mask",
    "exact_kl": "token_kl",
    "kl_per_token_exact": "token_kl",
}
"""Names that stand for a column as they are, beside the columns' own."""

COEFFICIENTS = frozenset(
    {
        "beta",
        "kl_coef",
        "kl_coeff",
        "kl_coefficient",
        "kl_beta",
        "kl_weight",
        "kl_lambda",
        "kl_loss_coef",
        "kl_loss_coeff",
        "kl_loss_weight",
        "kl_penalty_coef",
        "kl_penalty_coefficient",
        "kl_ctl",
        "init_kl_coef",
        "init_kl_coeff",
        "lam_kl",
        "lambda_kl",
        "beta_kl",
        "kl_tau",
        "coef_kl",
    }
)
"""Names of the KL's own coefficient, which is 1 where nobody says otherwise."""


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


POLICY = _words_of(
    "policy new current curr cur student actor pi trainer train training trained learner theta online live pol"
)
REFERENCE = _words_of(
    "ref reference refs base teacher sft anchor frozen init initial original orig prior target pretrained"
)
BEHAVIOR = _words_of(
    "old behavior behaviour beh rollout sampler sampling inference vllm sglang generator generation prev "
    "previous engine mu"
)
PROCESSED = _words_of("processed postprocessed filtered truncated warped renormalised renormalized nucleus topp topk")
LOGPROBS = _words_of("logprobs logprob logps logp logpi logpis lps lp logprobabilities loglikelihoods logpdf")
LOGITS = _words_of("logits logit logdistributions logsoftmax logdists logprobsfull")
PROBABILITIES = _words_of("probs probabilities distributions distribution dist dists")
MASKS = _words_of("mask masks keep valid")
MASKED = _words_of("response responses completion completions action actions loss token tokens answer")
FILLER = _words_of(
    "per token tokens sampled selected gathered chosen all batch model seq sequence policy pi the t "
    "action actions response responses completion completions answer generated output full vocab raw "
    "vocabulary"
)
ALONE = _words_of("new current curr cur student policy actor old behavior behaviour rollout ref reference teacher")
"""Words that stand for log-probs when they are the whole name."""

JOINED = {
    "top": frozenset(["p", "k"]),
    "log": frozenset(
        ["prob", "probs", "probabilities", "p", "ps", "pi", "pis", "softmax", "likelihoods", "distributions", "dists"]
    ),
}


def column_of(name: str) -> str | None:
    """The column that a parameter of this name takes, or None where no rule decides.

    Example:
        >>> [column_of(name) for name in ("new", "logprobs_ref", "teacherLogits", "loss_mask", "a")]
        ['logprobs', 'ref_logprobs', 'ref_log_distributions', 'mask', None]
    """
    if name in COLUMNS:
        return name
    if (plain := _plain(name)) in WHOLE:
        return WHOLE[plain]
    if plain in COLUMNS:
        return plain
    words = _words(plain)
    if len(words) == 1 and words[0] in ALONE:
        return _of_logprobs(words)
    if set(words) & MASKS:
        rest = set(words) - MASKS
        return "mask" if rest <= MASKED else None
    for kind, column in ((LOGITS, _of_logits), (LOGPROBS, _of_logprobs), (PROBABILITIES, _of_probabilities)):
        if set(words) & kind:
            return column([word for word in words if word not in kind])
    return None


def is_coefficient(name: str) -> bool:
    """Whether a name is that of the KL's coefficient."""
    return _plain(name).rpartition(".")[2] in COEFFICIENTS


def says_logits(name: str) -> bool:
    """Whether a name says that its numbers need not be normalised.

    Example:
        >>> [says_logits(name) for name in ("studentLogits", "policy model", "log_distributions")]
        [True, True, False]
    """
    return bool({"logits", "logit", "model"} & set(_plain(name).replace(" ", "_").split("_")))


def _plain(name: str) -> str:
    """snake_case without leading underscores."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")


def _words(name: str) -> list[str]:
    """``log_probs_ref`` as logprobs, ref."""
    found: list[str] = []
    for word in name.split("_"):
        if not word:
            continue
        if found and word in JOINED.get(found[-1], ()):
            found[-1] += word
        else:
            found.append(word)
    return found


def _owner(words: list[str]) -> str | None:
    """ "policy", "reference" or "behavior"; None where words contradict one another or are not known."""
    of = {"policy": POLICY, "reference": REFERENCE, "behavior": BEHAVIOR}
    owners = {owner for owner, known in of.items() if set(words) & known}
    if not set(words) <= POLICY | REFERENCE | BEHAVIOR | FILLER:
        return None
    if len(owners) > 1 and {"policy", "pi"} & set(words) and "target" not in words:
        # “ref_policy_logps” is the reference policy's.
        owners -= {"policy"}
    return "policy" if not owners else owners.pop() if len(owners) == 1 else None


def _column(words: list[str], columns: dict[str, str]) -> str | None:
    owner = _owner(words)
    return None if owner is None else columns.get(owner)


def _of_logprobs(words: list[str]) -> str | None:
    if set(words) & PROCESSED:
        rest = [word for word in words if word not in PROCESSED]
        reference = _owner(rest) == "reference"
        return None if _owner(rest) is None else "processed_ref_logprobs" if reference else "processed_logprobs"
    return _column(words, {"policy": "logprobs", "reference": "ref_logprobs", "behavior": "behavior_logprobs"})


def _of_logits(words: list[str]) -> str | None:
    return _column(
        words,
        {
            "policy": "log_distributions",
            "reference": "ref_log_distributions",
            "behavior": "behavior_log_distributions",
        },
    )


def _of_probabilities(words: list[str]) -> str | None:
    return _column(words, {"policy": "distributions", "reference": "ref_distributions"})
