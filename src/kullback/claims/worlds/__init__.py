"""The worlds that claims are decided in: drawn from a seed, small enough for a hand, or of a realistic size.

`pairs` of distributions, `trees` of sequences, `tokens` and `gaussians` in closed form, and the `realistic` world;
`counting` counts what a computation costs.
"""

from kullback.claims.worlds.counting import drawn_k3, operations, token_kl
from kullback.claims.worlds.gaussians import Gaussian
from kullback.claims.worlds.pairs import BY_HAND, BY_HAND_SCORE, CROSSED, EVEN, Pair, close_pair, pair, softmax
from kullback.claims.worlds.realistic import (
    HORIZON,
    VOCAB,
    Descents,
    Texts,
    descents,
    language,
    sampled,
    texts,
    updated,
)
from kullback.claims.worlds.tokens import ENDLESS, UNLUCKY, Memoryless, TwoSteps
from kullback.claims.worlds.trees import (
    chances,
    followed,
    live_pair,
    live_tree,
    off,
    ratios,
    relative,
    tensor,
    token_ratios,
    tree,
)

__all__ = [
    "BY_HAND",
    "BY_HAND_SCORE",
    "CROSSED",
    "ENDLESS",
    "EVEN",
    "HORIZON",
    "UNLUCKY",
    "VOCAB",
    "Descents",
    "Gaussian",
    "Memoryless",
    "Pair",
    "Texts",
    "TwoSteps",
    "chances",
    "close_pair",
    "descents",
    "drawn_k3",
    "followed",
    "language",
    "live_pair",
    "live_tree",
    "off",
    "operations",
    "pair",
    "ratios",
    "relative",
    "sampled",
    "softmax",
    "tensor",
    "texts",
    "token_kl",
    "token_ratios",
    "tree",
    "updated",
]
