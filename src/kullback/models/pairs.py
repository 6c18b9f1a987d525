"""Two models on the same tokens: log-probs of both, and exact token KLs where both give whole distributions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from kullback.arrays import Float64
from kullback.errors import ModelError, shown
from kullback.models.listing import TokenBracket, bracket_of, can_bracket, places_beside, places_of
from kullback.models.protocols import DistributionScorer, Reader, Scorer, Tokens
from kullback.models.sampling import RAW, Sampling

if TYPE_CHECKING:
    from kullback.models.bases import Basis
    from kullback.models.hidden import HiddenStates


@dataclass(frozen=True)
class Scores:
    """What two models say of the tokens of one sequence, (tokens,), in nats.

    Attributes:
        logprobs: log q of the tokens under the first model's distribution.
        ref_logprobs: log p of the tokens under the second's.
        token_kl: exact KL(q_t‖p_t) over the vocabulary, at each token's prefix; None, as all that follow, where one of
            the models gives log-probs only.
        reverse_token_kl: exact KL(p_t‖q_t).
        ref_mass: p_t of the tokens that q_t does not exclude; 1 unless q is truncated, or p has tokens that q lacks.
        top, ref_top: each model's most likely token, of those that both have.
        outside, ref_outside: what q_t and p_t give to tokens that the other model lacks; None where there are none.
            `logprobs` are those given that a token is shared; `ref_logprobs` and the right side of each token KL are
            those of the whole law.
        state, deviation: numbers of each prefix, and of each token less their mean under q, (tokens, numbers); None
            without a basis.
        bracket: bounds on each token's KL, where a server lists likely words; None elsewhere.

    Example:
        >>> import numpy as np
        >>> found = Scores(logprobs=np.array([-0.5, -1.0]), ref_logprobs=np.array([-0.75, -1.5]))
        >>> found.logprobs - found.ref_logprobs
        array([0.25, 0.5 ])
    """

    logprobs: Float64
    ref_logprobs: Float64
    token_kl: Float64 | None = None
    reverse_token_kl: Float64 | None = None
    ref_mass: Float64 | None = None
    top: np.ndarray | None = None
    ref_top: np.ndarray | None = None
    outside: Float64 | None = None
    ref_outside: Float64 | None = None
    state: np.ndarray | None = None
    deviation: np.ndarray | None = None
    bracket: TokenBracket | None = None

    def column(self, name: str) -> np.ndarray:
        """A column that has to be there.

        Raises:
            ModelError: it is None.
        """
        found: np.ndarray | None = getattr(self, name)
        if found is None:
            raise ModelError(f"there is no {name}: it needs two models that give whole next-token distributions")
        return found


def score(
    policy: Scorer,
    reference: Scorer,
    prompts: Sequence[Tokens],
    completions: Sequence[Tokens],
    *,
    vocab: int | None = None,
    sampling: Sampling = RAW,
    ref_sampling: Sampling = RAW,
    drawn: bool = True,
    basis: Basis | None = None,
    said: HiddenStates | None = None,
) -> list[Scores]:
    """Score completions, given their prompts, under two models.

    Where both models give whole next-token distributions, the exact token KLs come from the same forward passes as
    the log-probs.

    Args:
        policy, reference: q and p.
        prompts, completions: token ids, row by row; no prompt is empty.
        vocab: logits that both models share, as `check_vocabulary` found them; None to check here.
        sampling, ref_sampling: the distributions that are meant, of q and of p.
        drawn: whether the completions were drawn from q under `sampling`; see `Scorer.logprobs`.
        basis: of q, for `state` and `deviation`, where both give whole distributions.
        said: the states of q at the completions' tokens, where they are known; else q reads them.

    Raises:
        ModelError: the models' vocabularies differ.

    Example:
        >>> from kullback.models import load, score
        >>> tuned, base = load("builtin:tuned"), load("builtin:base")
        >>> found = score(tuned, base, [tuned.encode("One")], [tuned.encode(" day")])[0]
        >>> bool((found.token_kl > 0).all())
        True
    """
    if gives_distributions(policy) and gives_distributions(reference):
        from kullback.models.exact import Law, token_columns

        shared = check_vocabulary(policy, reference) if vocab is None else vocab
        q, p = Law(policy, sampling, drawn, said), Law(reference, ref_sampling)
        columns = token_columns(q, p, prompts, completions, vocab=shared, basis=basis)
        of_rows: list[dict[str, Any]] = [
            {name: rows[i] for name, rows in columns.items()} for i in range(len(completions))
        ]
        return [Scores(**row) for row in of_rows]
    check_same_tokens(policy, reference)
    if can_bracket(policy, reference, sampling, ref_sampling):
        return _bracketed(policy, reference, prompts, completions)
    # Never `drawn` for the second: what it truly excludes has −inf, and the KL is then infinite.
    first = policy.logprobs(prompts, completions, sampling, drawn=drawn)
    second = reference.logprobs(prompts, completions, ref_sampling, drawn=False)
    return [Scores(q, p) for q, p in zip(first, second, strict=True)]


def _bracketed(
    policy: Scorer, reference: Scorer, prompts: Sequence[Tokens], completions: Sequence[Tokens]
) -> list[Scores]:
    """Log-probs of both, and bounds on the token KLs, of one reading by each."""
    first = places_of(policy, prompts, completions)
    second = places_beside(first, reference, prompts, completions)
    return [
        Scores(
            np.asarray([place.logprob for place in a], dtype=np.float64),
            np.asarray([place.logprob for place in b], dtype=np.float64),
            bracket=bracket_of(a, b, tokens),
        )
        for a, b, tokens in zip(first, second, completions, strict=True)
    ]


def gives_distributions(model: object) -> TypeGuard[DistributionScorer]:
    """Whether a model has whole next-token distributions."""
    return isinstance(model, DistributionScorer)


def check_same_tokens(first: Reader, second: Reader) -> None:
    """Refuse two models whose tokens differ; one that does not say what its tokens are is believed.

    Where both give whole distributions, one may have tokens that the other lacks: what it gives to them is measured.

    Raises:
        ModelError: log-probs of the same text would not be of the same tokens.
    """
    mine, theirs = first.vocabulary, second.vocabulary
    if not mine or not theirs or mine == theirs:
        return
    measured = gives_distributions(first) and gives_distributions(second)
    if not measured or _clash(mine, theirs):
        raise ModelError(_difference(first.name, second.name, mine, theirs))


def check_vocabulary(policy: DistributionScorer, reference: DistributionScorer) -> int:
    """The number of logits that two models share.

    Raises:
        ModelError: their tokenizers differ, so that log-probs of the same text are not of the same tokens.

    Example:
        >>> from kullback import models
        >>> check_vocabulary(models.load("builtin:tuned"), models.load("builtin:base"))
        512
    """
    check_same_tokens(policy, reference)
    return min(policy.vocab, reference.vocab)


def only_in(first: Reader, second: Reader) -> dict[str, int]:
    """Tokens that the first model has and the second lacks, where both say what theirs are."""
    if not second.vocabulary or first.vocabulary == second.vocabulary:
        return {}
    return {token: number for token, number in first.vocabulary.items() if token not in second.vocabulary}


def places(policy: Reader, reference: Reader) -> dict[str, str]:
    """Device and dtype of both models, as far as they say; the reference's have a prefix.

    And, where both give distributions, whether these were made of hidden states a block at a time, or came as logits.
    """
    found: dict[str, str] = {}
    for prefix, model in (("", policy), ("reference_", reference)):
        server: Mapping[str, object] | None = getattr(model, "server", None)
        if server is not None:
            found |= {f"{prefix}server_{name}": str(value) for name, value in server.items() if value is not None}
            found |= {f"{prefix}device": "a server", f"{prefix}dtype": str(getattr(model, "dtype", "log-probs"))}
        elif gives_distributions(model):
            found |= {f"{prefix}device": str(model.device), f"{prefix}dtype": model.dtype}
    if gives_distributions(policy) and gives_distributions(reference):
        read = all(getattr(model, "reads_head", False) for model in (policy, reference))
        found["scored_from"] = "hidden states" if read else "logits"
    return found


def _clash(mine: Mapping[str, int], theirs: Mapping[str, int]) -> bool:
    """Whether a token has two ids, or an id two tokens."""
    if any(theirs.get(token, number) != number for token, number in mine.items()):
        return True
    names = {number: token for token, number in theirs.items()}
    return any(names.get(number, token) != token for token, number in mine.items())


def shared_vocab(policy: Scorer, reference: Scorer) -> int | None:
    """The number of logits that two models share, None where one of them gives log-probs only.

    Raises:
        ModelError: as `check_vocabulary`.
    """
    if gives_distributions(policy) and gives_distributions(reference):
        return check_vocabulary(policy, reference)
    check_same_tokens(policy, reference)
    return None


def _difference(name: str, ref_name: str, first: Mapping[str, int], second: Mapping[str, int]) -> str:
    token = min(set(first.items()) ^ set(second.items()))[0]
    return (
        f"{name} and {ref_name} have different vocabularies ({len(first)} and {len(second)} tokens; "
        f"{shown(token)} is {first.get(token)} in one and {second.get(token)} in the other): "
        "a KL needs two models over the same tokens"
    )
