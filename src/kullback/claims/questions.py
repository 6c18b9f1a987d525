"""The questions that people bring, and the claims that answer each: a claim may stand under several."""

from __future__ import annotations

from dataclasses import dataclass

from kullback.claims.family import CLAIMS
from kullback.claims.record import Claim
from kullback.families import Family


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the claims to read, the most useful first.

    Attributes:
        name: what ``--question`` takes.
        title: the question.
        answer: what the claims come to, in a sentence or two.
        ids: the claims.
    """

    name: str
    title: str
    answer: str
    ids: tuple[str, ...]

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims themselves."""
        return tuple(CLAIMS[name] for name in self.ids)


QUESTIONS: Family[Question] = Family(
    (
        Question(
            name="estimator",
            title="Which estimator for the value?",
            answer="k3 of every token, summed over the sequence; the exact token KLs where the logits of both "
            "models are at hand; k1 where the models are far apart. Whole-sequence k3 never.",
            ids=(
                "001-k3-best",
                "schulman-k3-strictly-better",
                "schulman-k3-quieter",
                "schulman-k2-quieter",
                "schulman-k1-unbiased",
                "schulman-k3-unbiased",
                "schulman-k3-nonnegative",
                "002-k2-nonnegative",
                "003-k2-bias",
                "002-k2-bias-small",
                "001-k2-biased",
                "001-k2-bias-low",
                "000-biased-is-fine",
                "002-positivity-brings-bias",
                "002-unbiased-at-infinity",
                "002-k1-jumps-far-apart",
                "002-steadier-far-apart",
                "000-any-divergence",
                "schulman-any-coefficient",
                "schulman-coefficient-one",
                "schulman-no-closed-form",
                "schulman-k2-second-order",
                "schulman-k2-f-divergence",
                "schulman-f-divergences-agree",
                "schulman-bregman-gap",
                "schulman-forward",
                "002-schulman-trick",
                "schulman-true-values",
                "schulman-printed-truth",
                "schulman-table-k1",
                "schulman-table-k2-bias",
                "schulman-table-k2",
                "schulman-table-k3",
                "tang-error-by-samples",
                "amini-rb-unbiased",
                "amini-rb-nonnegative",
                "amini-table",
                "rpg-k3-unnormalised",
                "trl-abs-safer",
            ),
        ),
        Question(
            name="noise",
            title="Why is it noisy, and what makes it quieter?",
            answer="The spread of the log-ratio, not its sign. A control with a known mean takes noise out of the "
            "value; what is quiet in value need not be quiet in gradient.",
            ids=(
                "000-k1-high-variance",
                "002-sign-flips-are-not-the-cause",
                "schulman-noisy-as-half-negative",
                "schulman-half-negative",
                "002-half-negative-without-structure",
                "002-integrand-changes-sign",
                "002-cancellation-needs-samples",
                "000-always-positive",
                "002-heavy-tails",
                "002-tiny-p-both-signs",
                "002-squaring-smooths",
                "002-f-divergence-explains-variance",
                "002-k3-tighter",
                "002-highly-correlated",
                "schulman-negative-correlation",
                "schulman-only-control",
                "002-value-noise-is-gradient-noise",
                "amini-rb-variance",
                "amini-rb-gradient-variance",
                "amini-rb-gradient-unbiased",
                "amini-string-control",
                "amini-ht-unbiased",
                "amini-ht-no-gain",
                "kool-unordered-set",
                "vilnis-arithmetic",
                "lambda-for-gradients",
                "vopd-baseline",
                "vopd-baseline-quieter",
                "opd-variance-order",
                "xihuai-centring",
                "xihuai-variance-difference",
                "liu-k3-coefficient-variance",
                "liu-spread-of-k3",
                "004-any-constant",
                "004-fN-worst",
            ),
        ),
        Question(
            name="placement",
            title="In the reward or in the loss?",
            answer="k1 in the reward, credited with what follows, gives the gradient of the sequence KL. In the "
            "loss: k2, or ρ·k3, for one token. k1 in the loss follows nothing, k3 in the reward the wrong thing.",
            ids=(
                "folklore-reward-and-loss",
                "trl-mu-one",
                "slime-k1-loss",
                "trl-k3-reward",
                "xihuai-k3-reward",
                "comedy-two-parts",
                "comedy-k1-reward",
                "comedy-k1-loss-adds-noise",
                "comedy-k3-biased",
                "comedy-both-for-any-estimator",
                "comedy-half-each",
                "002-kl-in-the-loss",
                "002-k3-is-the-difference",
                "liu-k1-reward-is-k2-loss",
                "liu-coefficients",
                "liu-k3-taylor",
                "tang-k3-follows-the-other",
                "tang-k2-one-step",
                "004-tempting",
                "004-gradient-of-fN",
                "004-fX-unbiased",
                "004-gradient-of-fS",
                "004-explains-R1",
                "004-R1-equation",
                "verl-plus",
                "lambda-worked-example",
                "lambda-k3-reward-vanishes",
                "deepseek-corrected-k3",
                "deepseek-unbounded-weight",
                "rpg-losses",
                "rpg-reinforce-forms",
                "xihuai-identical",
                "ema-pg-forms",
                "tinker-own-token",
            ),
        ),
        Question(
            name="level",
            title="Token or sequence?",
            answer="Sum tokens for the value: it is unbiased, and its noise does not explode. A loss by tokens "
            "leaves out what a token does to the KLs after it. Means of means are no KL.",
            ids=(
                "000-eq2-biased",
                "000-eq2-is-not-eq1",
                "000-trl-implements-eq2",
                "000-no-steps",
                "000-eq2-nonnegative",
                "000-sequence-k3-quiet",
                "000-stepwise-log-ratio",
                "000-control-mean-zero",
                "trl-token-or-sequence",
                "tang-token-loss-is-partial",
                "tang-sequence-gradient",
                "tinker-own-token",
                "deepseek-length-means",
                "li-mean-of-means",
                "verl-k3-sequence-mean",
                "nemo-overlong",
                "trl-sequence-ratio",
                "gspo-one-sample",
                "opd-variance-order",
                "002-sampling-needed",
            ),
        ),
        Question(
            name="direction",
            title="Which ratio, which direction, which two models?",
            answer="r is the other's probability over the sampler's. The KL term is between the trained policy and the "
            "reference; the old policy only draws the samples.",
            ids=(
                "002-ratio-flipped",
                "trlx-mean-kl",
                "002-flipped-mean-zero",
                "002-two-signs",
                "002-direction",
                "001-kl-from-p",
                "001-mean-of-log-r",
                "001-two-models",
                "001-objective-between-fixed-models",
                "002-old-and-new-in-the-kl",
                "002-old-policy-holds-it",
                "cleanrl-approx-kl",
                "schulman-printed-truth",
                "rlhf-book-kl-full",
                "verl-rollout-k3",
                "tang-k3-follows-the-other",
            ),
        ),
        Question(
            name="mismatch",
            title="The samples are another policy's: an older one, an engine, a mask?",
            answer="Weigh token t by the product of the ratios up to it. A weight that is cut is biased, a long "
            "text loses its weight, and a KL of 1e-4 from a bfloat16 head is mostly rounding.",
            ids=(
                "kullback-bfloat16-head",
                "deepseek-old-samples",
                "xihuai-weighted-k1",
                "xihuai-weighted-k2",
                "xihuai-identical",
                "comedy-off-policy",
                "deepseek-corrected-k3",
                "verl-sequence-unbiased",
                "verl-token-truncation",
                "verl-length-trap",
                "verl-k3-sequence-mean",
                "verl-rollout-k3",
                "verl-chi2",
                "verl-effective-size",
                "gspo-one-sample",
                "trl-sequence-ratio",
                "praxis-collapse",
                "deepseek-sequence-mask",
                "deepseek-keep-sampling-mask",
                "nemo-top-p",
                "li-variance-growth",
                "li-ratio-grows",
                "li-horizons",
                "li-masked-weights",
                "li-self-normalised",
                "trust-variation",
                "trust-pinsker",
            ),
        ),
        Question(
            name="memory",
            title="The whole vocabulary: what does it cost, and what does a top-k keep?",
            answer="One token's exact KL is a small part of the head's work; sequences are what must be sampled. A "
            "top-k sum without its rest is neither a bound nor unbiased.",
            ids=(
                "001-vocabulary-intractable",
                "001-exponential-in-V",
                "002-sampling-needed",
                "002-logprobs-save-memory",
                "003-estimator-cost",
                "002-estimator-cheaper",
                "tike-tracks-exact",
                "opd-top-k-matching",
                "verl-top-k-nonnegative",
                "trust-buckets",
                "ema-pg-top-reverse",
                "ema-pg-top-forward",
                "ema-pg-top-values",
                "rlhf-book-kl-full",
                "amini-rb-unbiased",
                "kullback-bfloat16-head",
            ),
        ),
        Question(
            name="log",
            title="What does the number in my log mean?",
            answer="Ask for its unit, its level, its sampler and its error. A mean of k1 may be negative and mean "
            "nothing; k3 may be clamped, flipped or averaged over answers.",
            ids=(
                "trl-negative-kl",
                "trl-loss-is-beta-kl",
                "trlx-mean-kl",
                "verl-k3-sequence-mean",
                "deepseek-length-means",
                "slime-clamped-k3",
                "trl-abs-safer",
                "cleanrl-approx-kl",
                "rlhf-book-kl-full",
                "kullback-bfloat16-head",
                "schulman-half-negative",
                "llama-token-errors",
                "verl-effective-size",
                "nemo-top-p",
                "nemo-overlong",
                "folklore-best-of-n",
            ),
        ),
        Question(
            name="training",
            title="What does it do to training?",
            answer="The optimum of E[R] − β KL is known; what a term makes of it can be computed. What large models "
            "then do cannot, and is left undecided.",
            ids=(
                "folklore-mode-seeking",
                "ziegler-controller",
                "002-coefficient-unstable",
                "002-variance-unstable-training",
                "002-old-policy-holds-it",
                "slime-k1-loss",
                "future-kl-group-deviation",
                "trl-loss-is-beta-kl",
                "comedy-training",
                "004-explains-R1",
                "folklore-best-of-n",
                "rpg-best-and-last",
            ),
        ),
    )
)
"""All questions, the most frequent first."""


def questions_of(claim: Claim) -> tuple[Question, ...]:
    """The questions that a claim answers."""
    return tuple(question for question in QUESTIONS if claim.id in question.ids)
