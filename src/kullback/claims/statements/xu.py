"""004: what Xu's post on the gradient of the KL says, in its order, with p for the policy and q for the reference.

X5 is left out: that one has to start from the definition is advice.
"""

from __future__ import annotations

from kullback.claims.sources import XU
from kullback.claims.statements.record import Statement


def _says(number: str, says: str, quote: str, *claims: str) -> Statement:
    return Statement(number=number, says=says, quotes=((XU, quote),), claims=claims)


STATEMENTS = (
    _says(
        "X1",
        "KL(p‖q) = E_p log(p/q)",
        "For discrete distribution $$p$$ and $$q$$, the KL-divergence is",
        "schulman-k1-unbiased",
    ),
    _says(
        "X2",
        "f_N = log(p/q) is unbiased",
        "is an unbiased estimator of $$KL(p \\Vert q)$$ if $$x\\sim p$$",
        "schulman-k1-unbiased",
    ),
    _says(
        "X3",
        "f_S is unbiased and of lower variance",
        "there are other estimators with lower variance, for example",
        "schulman-k3-quieter",
        "schulman-k3-unbiased",
    ),
    _says(
        "X4",
        "The derivative of an unbiased estimator is not an unbiased estimator of the derivative",
        "However, it is not an unbiased estimator",
        "004-tempting",
    ),
    _says("X6", "∂KL = ½ E_p ∂(log p/q)²", "we need to start from its definition", "004-fX-unbiased"),
    _says("X7", "E_p ∂log p = 0", "We used the fact that", "004-gradient-of-fN"),
    _says("X8", "f_X = ½∂(log p/q)² is unbiased", "is an unbiased estimator of", "004-fX-unbiased"),
    _says("X9", "So it is with any constant c", "In fact, for any constant $$c$$", "004-any-constant"),
    _says("X10", "E ∂f_N = 0", "For estimator $f_N$", "004-gradient-of-fN"),
    _says("X11", "So f_N is the worst possible", "So it is the worst possible estimator", "004-fN-worst"),
    _says("X12", "∂f_S = (1 − q/p)∂log(p/q)", "For $$f_S$$, we have", "liu-coefficients"),
    _says(
        "X13",
        "Near p = q, ∂f_S approximates f_X",
        "So when $$p(x)$$ is close to $$q(x)$$ … is a good approximation to the unbiased estimator",
        "004-gradient-of-fS",
    ),
    _says(
        "X14",
        "This may explain why f_S is useful",
        "This may explain why $$f_S$$ can still be useful in LLM RL finetuning",
        "004-explains-R1",
    ),
    _says("X15", "R1's equation (2) is f_S", "e.g. [DeepSeek R1 eq (2)]", "004-R1-equation"),
)
