"""001: what the draft “Approximating KL Divergence (and its applications in RL)” says, in its order.

D2 is left out: “(x)/q(x)” for r lacks its numerator, a slip of the pen.
"""

from __future__ import annotations

from kullback.claims.sources import APPLICATIONS
from kullback.claims.statements.record import Statement


def _says(number: str, says: str, quote: str, *claims: str) -> Statement:
    return Statement(number=number, says=says, quotes=((APPLICATIONS, quote),), claims=claims)


STATEMENTS = (
    _says(
        "D1",
        "KL(q‖p) = Σ q log(q/p)",
        "The KL divergence between distributions $q$ and $p$ is defined as",
        "schulman-k1-unbiased",
    ),
    _says(
        "D3",
        "KL is the mean of log r under q",
        "we can view the above as the mean of random variable $\\log (r)$",
        "001-mean-of-log-r",
    ),
    _says(
        "D4",
        "KL(q‖p) = E_q[−log r]",
        "\\mathbb{E}_{x \\sim q} \\left[ -\\log (r) \\right]",
        "schulman-k1-unbiased",
    ),
    _says("D5", "KL(q‖p) = E_p[−r log r]", "Additionally, we can also sample $x \\sim p$", "001-kl-from-p"),
    _says(
        "D6",
        "The sum over the support is intractable",
        "the summation over the full support of $x$ is intractable",
        "001-vocabulary-intractable",
        "002-sampling-needed",
    ),
    _says(
        "D7",
        "GRPO maintains two policy models, the reference and the old one",
        "we maintain two policy models: the reference policy",
        "001-two-models",
    ),
    _says(
        "D8",
        "The objective includes KL(π_ref‖π_old)",
        "The RL objective includes the KL term",
        "001-objective-between-fixed-models",
    ),
    _says(
        "D9",
        "For one token, a sum over V, quickly intractable",
        "this quickly becomes intractable since $V$ is large",
        "001-vocabulary-intractable",
    ),
    _says("D10", "Sequences: exponential in V", "our space becomes exponential in $V$", "001-exponential-in-V"),
    _says(
        "D11",
        "−(1/N)Σ log r is unbiased",
        "Notice that this is an unbiased estimator since each $x_i \\sim q$",
        "schulman-k1-unbiased",
    ),
    _says("D12", "k1 is of high variance", "However, it is high variance", "000-k1-high-variance"),
    _says("D13", "k2 is biased", "Notice that this is no longer unbiased", "001-k2-biased"),
    _says("D14", "k2 has the lower variance", "and has lower variance", "schulman-k2-quieter"),
    _says("D15", "k2 has a surprisingly low bias", "a suprisingly low bias and variance", "001-k2-bias-low"),
    _says(
        "D16",
        "That k2's variance is low follows from the Fisher information",
        "Showing $k_2$ has low variance We need to delve deeper into the Fisher Information Matrix",
        "002-f-divergence-explains-variance",
    ),
    _says("D17", "E_q[r] = 1", "Lemma 1: $\\mathbb{E}[r] = 1$", "000-control-mean-zero"),
    _says(
        "D18",
        "k3 is the best estimator",
        "The best estimator for KLD ($k_3$)",
        "001-k3-best",
        "schulman-k3-strictly-better",
    ),
    _says(
        "D19",
        "It adds something of mean zero and negatively correlated",
        "zero mean and negatively correlated with $k_1$",
        "schulman-negative-correlation",
    ),
    _says(
        "D20",
        "r − 1 has mean zero",
        "Notice from Lemma 1, we have that it is zero mean",
        "000-control-mean-zero",
    ),
    _says("D21", "−log r + λ(r − 1), for some λ", "Thus, we have, for some $ \\lambda$", "schulman-any-coefficient"),
    _says("D22", "The hard part is choosing λ", "The hard part is choosing the $\\lambda$", "schulman-no-closed-form"),
)
