"""What a function of whole distributions does with them: the words it sees, the tokens it reads, laws that it mixes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Float64
from kullback.auditing.subject.failures import CallFailed
from kullback.auditing.subject.subject import Subject
from kullback.auditing.subject.tensors import differentiate

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Columns, Tensor

SIZE = 8
LARGE = 300_000
"""Words of a small vocabulary, and of one that is larger than any model's."""

BOTH = ("log_distributions", "ref_log_distributions")
ROW = (1, 2, 2, 1, 2, 1, 1)
"""Sampled tokens, of three words, of which no shift is itself."""

TAIL = 16
"""Words of a distribution of which top-p leaves some out."""


@dataclass(frozen=True)
class Words:
    """Facts of a function of whole distributions.

    Attributes:
        seen, of: words that have an effect, of a small vocabulary.
        bucketed: whether those that have none by themselves count together, as one word.
        seen_of_many, many: the same of a large one; 0 and 0 where it could not be run.
        policy_shift, reference_shift: how many places after its own the token is at which a distribution is read.
        mixed: whether one side leaves out rare words, as top-p does, and the other does not.
        unexamined: what of it could not be run.
    """

    seen: int
    of: int
    seen_of_many: int = 0
    many: int = 0
    policy_shift: int = 0
    reference_shift: int = 0
    mixed: bool = False
    bucketed: bool = False
    unexamined: tuple[str, ...] = ()

    @property
    def part(self) -> tuple[int, int] | None:
        """(words that have an effect, vocabulary) where a small vocabulary is seen whole and a large one in part."""
        return (self.seen_of_many, self.many) if self.seen == self.of and self.seen_of_many < self.many else None


def seen_vocabulary(subject: Subject) -> Words | None:
    """What a function makes of vocabularies; None where it takes no distributions, or has no derivative."""
    if not {*BOTH, "distributions"} & subject.columns:
        return None
    try:
        small = _seen(subject, SIZE)
    except CallFailed:
        return None
    if small is None:
        return None
    large, unexamined = None, []
    try:
        large = _seen(subject, LARGE)
    except CallFailed as failed:
        unexamined.append(f"a vocabulary of {LARGE:,} words, on which {failed.message}")
    return Words(
        small,
        SIZE,
        seen_of_many=large or 0,
        many=0 if large is None else LARGE,
        policy_shift=_read_at(subject, BOTH[0]),
        reference_shift=_read_at(subject, BOTH[1]),
        mixed=_mixed(subject),
        bucketed=small < SIZE and _bucketed(subject),
        unexamined=tuple(unexamined),
    )


def _seen(subject: Subject, size: int) -> int | None:
    """How many words of a vocabulary have an effect."""
    effect = _effect(subject, size)
    return None if effect is None else int(effect.sum())


def _effect(subject: Subject, size: int) -> Tensor | None:
    """Whether each word of a vocabulary has an effect; None where nothing has a derivative."""
    q, p = _two_laws(size)
    q, p = q.requires_grad_(), p.requires_grad_()
    result = _one_token(subject, q, p)
    if not result.requires_grad:
        return None
    by_q, by_p = (slope.reshape(-1) for slope in differentiate(result, (q, p)))
    if "tokens" not in subject.columns:
        by_q, by_p = _beside_the_normaliser(by_q, q), _beside_the_normaliser(by_p, p)
    moved = by_q.abs() + by_p.abs()
    return moved > 1e-12 * size / SIZE * float(moved.max())


def _two_laws(size: int, bend: float = 0.1) -> tuple[Tensor, Tensor]:
    """Logits that span a few nats, whatever the size: no word is much rarer than another."""
    import torch

    index = torch.arange(size, dtype=torch.float64) * (SIZE / size)
    q, p = (-0.55 * index).log_softmax(-1), (-0.4 * index + bend * torch.sin(index)).log_softmax(-1)
    return q.expand(1, 1, size).clone(), p.expand(1, 1, size).clone()


def _one_token(subject: Subject, q: Tensor, p: Tensor) -> Tensor:
    import torch

    return subject(_columns(q, p, torch.zeros((1, 1), dtype=torch.int64))).sum()


def _bucketed(subject: Subject) -> bool:
    """Whether the result is a divergence of two laws in which the words without an effect are one word."""
    effect = _effect(subject, SIZE)
    if effect is None or "tokens" in subject.columns:
        return False
    pairs = [_two_laws(SIZE, bend) for bend in (0.1, 0.05)]
    laws = [[_put_together(law.reshape(-1), effect) for law in pair] for pair in pairs]
    got = np.array([float(_one_token(subject, q, p).detach()) for q, p in pairs])
    exact = np.array([[np.sum(a * np.log(a / b)) for a, b in ((q, p), (p, q))] for q, p in laws])
    times = got[:, None] / exact
    return bool(np.isclose(times[0], times[1], rtol=1e-5).any())


def _put_together(law: Tensor, kept: Tensor) -> Float64:
    """Probabilities of the words that are kept, and of all others together."""
    probability, alone = law.exp().numpy(), kept.numpy()
    return np.append(probability[alone], probability[~alone].sum())


def _beside_the_normaliser(slope: Tensor, log_probs: Tensor) -> Tensor:
    """Slopes without what a word has through the sum that logits are normalised by, c times its probability.

    c is what most of the words share that have nothing but that. Where hardly any two share one, each word has an
    effect of its own, and slopes stay as they are.
    """
    import torch

    share = slope / log_probs.detach().exp().reshape(-1)
    near = 1e-6 * float(share.abs().max())
    candidates = share if len(share) == SIZE else share.median()[None]
    alike = (share - candidates[:, None]).abs() <= near
    most = alike[int(alike.sum(-1).argmax())]
    return torch.where(most, torch.zeros_like(slope), slope) if int(most.sum()) > max(1, len(share) // 100) else slope


def _columns(q: Tensor, p: Tensor, tokens: Tensor) -> Columns:
    """A row of tokens under two distributions each."""
    import torch

    def of(x: Tensor) -> Tensor:
        return x.gather(-1, tokens[..., None])[..., 0]

    return {
        "logprobs": of(q),
        "ref_logprobs": of(p),
        "behavior_logprobs": of(q).detach(),
        "mask": torch.ones(tokens.shape, dtype=torch.bool),
        "tokens": tokens,
        "token_kl": (q.exp() * (q - p)).sum(-1),
        "reverse_token_kl": (p.exp() * (p - q)).sum(-1),
        "log_distributions": q,
        "ref_log_distributions": p,
        "log_ratio": of(q) - of(p),
        "ratio": torch.ones(tokens.shape, dtype=torch.float64),
    }


def _read_at(subject: Subject, which: str) -> int:
    """How many places after a distribution's own the token is at which it is read; 0 also where none is read."""
    import torch

    if not {which, "tokens"} <= subject.columns:
        return 0
    index = torch.arange(len(ROW) * 3, dtype=torch.float64).reshape(1, len(ROW), 3)
    q = torch.sin(1.7 * index).log_softmax(-1).requires_grad_()
    p = torch.sin(2.3 * index + 1.0).log_softmax(-1).requires_grad_()
    given = _columns(q, p, torch.tensor([ROW]))
    # Only through the distributions: the log-probs of the sampled tokens are right by themselves.
    apart = {n: a if n in BOTH else a.detach() for n, a in given.items()}
    leaf = q if which == BOTH[0] else p
    try:
        slope = differentiate(subject(apart).double().sum(), [leaf])[0][0].numpy()
    except CallFailed:
        return 0
    read = [_word(row, prob) for row, prob in zip(slope, leaf.detach().exp()[0].numpy(), strict=True)]
    if sum(word is not None for word in read) < 3:
        return 0
    return next((shift for shift in (0, 1, -1) if _matches(read, shift)), 0)


def _matches(read: Sequence[int | None], shift: int) -> bool:
    pairs = [(word, ROW[t + shift]) for t, word in enumerate(read) if word is not None and 0 <= t + shift < len(ROW)]
    # At the ends of a row a shifted slice may read what pads it.
    agreeing = sum(word == token for word, token in pairs)
    return agreeing >= max(3, len(pairs) - 1)


def _word(slope: Float64, probability: Float64) -> int | None:
    """The word at which a distribution is read, if its slope is that of one log-prob, normalised or not."""
    for word in range(len(slope)):
        others = [i for i in range(len(slope)) if i != word]
        rest = slope[others] / probability[others]
        one = abs(slope[word] + rest[0] * probability[word])
        if np.allclose(rest, rest[0], rtol=1e-6, atol=1e-12) and one > 1e-9:
            return word
    return None


def _mixed(subject: Subject) -> bool:
    """Whether of one model a function is 0 where two words have all the probability, and not where there is a tail."""
    import torch

    if not set(BOTH) <= subject.columns:
        return False
    whole = torch.full((TAIL,), -60.0, dtype=torch.float64)
    whole[:2] = torch.tensor([0.6, 0.4], dtype=torch.float64).log()
    tail = (-0.35 * torch.arange(TAIL, dtype=torch.float64)).log_softmax(-1)
    tokens = torch.tensor([[0, 1, 0]])
    try:
        sizes = []
        for one in (whole, tail):
            same = one.expand(1, 3, TAIL).clone()
            sizes.append(float(subject(_columns(same, same.clone(), tokens)).detach().double().abs().sum()))
    except CallFailed:
        return False
    return sizes[0] < 1e-6 and not sizes[1] < 1e-6
