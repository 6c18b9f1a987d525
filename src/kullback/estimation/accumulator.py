"""Estimates of a divergence from sampled sequences, in one pass or accumulated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kullback.arrays import Groups, Numbers
from kullback.errors import InputError
from kullback.estimation.conclusion import conclusion
from kullback.estimation.recipe import CHECK, Recipe, Unit
from kullback.estimation.result import Estimate
from kullback.estimation.sequences import Sequences
from kullback.estimation.summary import Summary
from kullback.estimators import Estimator, Level
from kullback.weights import Truncation

SCHEMA = 2
"""The version of what `Accumulator.state` returns."""


class Accumulator:
    """An estimate that grows with its data in constant memory, and merges with others like it.

    Splitting a batch at any place and merging the parts in their order gives the one-pass result to rounding
    (1e-12 relative): sums are centred moments, coefficients are fitted leaving out one of 1,024 cells that
    rows are dealt to in turn, and a tail is its 4,096 largest ratios.

    Args:
        estimator, level, unit, truncate: as for `kullback.estimate`.

    Raises:
        InputError: options that do not exist or do not go together.
        NameUnknownError: no estimator has the name.

    Example:
        >>> import kullback as kb, numpy as np
        >>> q, p = -np.random.default_rng(0).exponential(size=(2, 6, 4))
        >>> batch = {"logprobs": q, "ref_logprobs": p}
        >>> whole = kb.Accumulator(estimator=kb.K3).update(batch).result()
        >>> first, rest = ({name: a[part] for name, a in batch.items()} for part in (slice(2), slice(2, 6)))
        >>> parts = kb.Accumulator(estimator=kb.K3).update(first)
        >>> parts = parts.merge(kb.Accumulator(estimator=kb.K3).update(rest)).result()
        >>> bool(abs(parts.value - whole.value) < 1e-12)
        True
    """

    def __init__(
        self,
        *,
        estimator: Estimator | str,
        level: Level = "token",
        unit: Unit = "sequence",
        truncate: Truncation | float | None = None,
    ) -> None:
        self._recipe = Recipe.of(estimator, level, unit, truncate)
        self._summary = Summary.nothing(CHECK + len(self._recipe.columns))

    def update(
        self,
        batch: Sequences | Mapping[str, Any] | Numbers,
        ref_logprobs: Numbers | None = None,
        mask: Numbers | None = None,
        *,
        behavior_logprobs: Numbers | None = None,
        token_kl: Numbers | None = None,
        ref_mass: Numbers | None = None,
        groups: Groups | None = None,
    ) -> Accumulator:
        """Add sequences: a mapping from column names to arrays, or the arrays as `kullback.estimate` takes them.

        Returns:
            This accumulator. A batch that is refused changes nothing.
        """
        if not isinstance(batch, Sequences | Mapping):
            if ref_logprobs is None:
                raise InputError("update got logprobs alone, but ref_logprobs of the same tokens are needed too")
            batch = Sequences.of(
                batch,
                ref_logprobs,
                mask,
                behavior_logprobs=behavior_logprobs,
                token_kl=token_kl,
                ref_mass=ref_mass,
                groups=groups,
            )
        sequences = Sequences.of_batch(batch)
        self._recipe.check(sequences)
        summary = self._summary
        for block in sequences.blocks():
            summary += self._recipe.summarise(block)
        self._summary = summary
        return self

    def merge(self, other: Accumulator) -> Accumulator:
        """Add what another accumulator saw, as if its sequences had come after these; returns this one."""
        if self._recipe.name != other._recipe.name:
            raise InputError(f"{self} and {other} came: only accumulators of one estimator, level and unit merge")
        self._summary += other._summary
        return self

    def state(self) -> dict[str, Any]:
        """Plain numbers and NumPy arrays, for a checkpoint or another process; see `restore`."""
        return {"schema": SCHEMA, "recipe": self._recipe.name, **self._summary.to_state()}

    def restore(self, state: Mapping[str, Any]) -> Accumulator:
        """Continue from what `state` returned on an accumulator with the same options; returns this one.

        Raises:
            InputError: a state of other options, or of another version of this package.
        """
        summary = dict(state)
        schema, recipe = summary.pop("schema", None), summary.pop("recipe", None)
        if schema != SCHEMA:
            raise InputError(
                f"a state with schema {schema} came, but {SCHEMA} is read here: accumulate again with this version"
            )
        if recipe != self._recipe.name:
            raise InputError(
                f"a state of {recipe} came to an accumulator of {self._recipe.name}: "
                "restore it with the options that it was made with"
            )
        self._summary = Summary.from_state(summary)
        return self

    def result(self) -> Estimate:
        """The estimate so far.

        Raises:
            InputError: nothing was added yet.
        """
        return conclusion(self._recipe, self._summary)

    def __repr__(self) -> str:
        return f"<accumulator of {self._recipe.name}, {self._summary.rows} sequences>"


def estimate(
    logprobs: Numbers,
    ref_logprobs: Numbers,
    mask: Numbers | None = None,
    *,
    estimator: Estimator | str,
    level: Level = "token",
    unit: Unit = "sequence",
    behavior_logprobs: Numbers | None = None,
    token_kl: Numbers | None = None,
    ref_mass: Numbers | None = None,
    groups: Groups | None = None,
    truncate: Truncation | float | None = None,
) -> Estimate:
    """Σ_i k(ℓ_i) / n with its standard error: a divergence of the policy q from the reference p, in nats.

    At level "token", k is applied to every token's ℓ = log q − log p and summed over the sequence; at level
    "sequence" to the summed ℓ. For k1, k3 and the control variates both are unbiased for KL(q‖p) of sequences
    (E[r_t − 1 | prefix] = 0), if every token the sampler drew is counted, the end-of-sequence
    token too, and the log-probs are those of the distribution that was sampled.

    Args:
        logprobs: log q of the sampled tokens, (batch, time), NumPy, torch or JAX, any float dtype.
        ref_logprobs: log p of the same tokens; −inf where the reference excludes one.
        mask: True where a token counts, (batch, time); everything else may hold anything.
        estimator: a member of `kullback.ESTIMATORS` or its name. Rao-Blackwell reads `token_kl`.
        level: "token" or "sequence".
        unit: "sequence" for nats a sequence; "token" for the ratio of totals, nats a token, with a
            delta-method error.
        behavior_logprobs: log μ of the same tokens where another policy drew them; then token t is weighted
            by ρ_{1:t} = Π q/μ (token KLs by ρ_{1:t−1}), which keeps the estimate unbiased for q.
        token_kl: exact KL(q_t‖p_t) over the vocabulary at each sampled prefix, (batch, time).
        ref_mass: the reference's probability of the tokens that the policy does not exclude, (batch, time);
            below 1 under top-p and top-k, where it keeps the fitted control variates unbiased.
        groups: the prompt of each row, (batch,). The error is then clustered by prompt.
        truncate: a member of `kullback.weights` or a number, the cap of the weights; biased, and says so.

    Returns:
        An `Estimate`; its `warnings` say in words what makes it doubtful.

    Raises:
        ShapeError: arrays whose shapes differ or are not (batch, time).
        InputError: log-probs that cannot be right, or a column the estimator needs and did not get.
        NameUnknownError: no estimator has the name.

    Reference: Schulman 2020; Vehtari et al. 2024 (k̂); docs/theory.md (when token k3 is unbiased, λ*).

    Example:
        >>> import kullback as kb
        >>> q = [[-0.5, -1.0], [-0.7, -0.2], [-0.1, -2.0]]
        >>> p = [[-0.7, -1.5], [-0.6, -0.9], [-0.3, -1.6]]
        >>> print(kb.estimate(q, p, estimator=kb.K1))
        0.37 ± 0.28 nats/sequence (n=3)
    """
    batch = Sequences.of(
        logprobs,
        ref_logprobs,
        mask,
        behavior_logprobs=behavior_logprobs,
        token_kl=token_kl,
        ref_mass=ref_mass,
        groups=groups,
    )
    return Accumulator(estimator=estimator, level=level, unit=unit, truncate=truncate).update(batch).result()
