"""Estimates of a divergence from sampled sequences, in one pass or accumulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from kullback.arrays import Float64, Groups, Numbers, fingerprint, place
from kullback.errors import InputError
from kullback.estimation.conclusion import conclusion, value_of
from kullback.estimation.features import Features
from kullback.estimation.flat import Found, found_in
from kullback.estimation.ragged import Ragged
from kullback.estimation.recipe import CHECK, Recipe, Unit
from kullback.estimation.result import Estimate
from kullback.estimation.rows import Rows
from kullback.estimation.sequences import Sequences, columns_of
from kullback.estimation.summary import Summary
from kullback.estimation.token_values import Held
from kullback.estimation.tokens import LARGEST_LOG_WEIGHT
from kullback.estimation.workings import Workings
from kullback.estimators import Estimator, Level
from kullback.weights import Truncation, truncation

SCHEMA = 3
"""The version of what `Accumulator.state` returns."""


class Accumulator:
    """An estimate that grows with its data in constant memory, and merges with others like it.

    Splitting a batch at any place and merging the parts in their order gives the one-pass result to rounding
    (1e-12 relative): sums are centred moments, coefficients are fitted leaving out one of 1,024 cells that
    rows are dealt to in turn, and a tail is its 4,096 largest ratios.

    Several threads may update one: batches are added one after the other. It can be pickled and copied, and
    `state` and `restore` carry it as plain numbers, with its options and a version that are checked.

    Where `rao_blackwell_controlled` gets `deviation`, sequences are kept until the result is asked for, since what is
    subtracted from each is fitted on the others: memory then grows with their tokens.

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
        truncate: Truncation | float | str | None = None,
    ) -> None:
        self._recipe = Recipe.of(estimator, level, unit, truncation(truncate))
        self._summary = Summary.nothing(CHECK + len(self._recipe.columns))
        self._held = Held()
        self._lock = Lock()

    def update(
        self,
        batch: Sequences | Ragged | Mapping[str, Any] | Numbers,
        ref_logprobs: Numbers | None = None,
        mask: Numbers | None = None,
        *,
        behavior_logprobs: Numbers | None = None,
        token_kl: Numbers | None = None,
        ref_mass: Numbers | None = None,
        groups: Groups | None = None,
        state: Features | None = None,
        deviation: Features | None = None,
    ) -> Accumulator:
        """Add sequences: a mapping from column names to arrays, or the arrays as `kullback.estimate` takes them.

        A mapping (or a table of pandas, polars or pyarrow) has the columns `logprobs` and `ref_logprobs`, and may have
        `mask`, `behavior_logprobs`, `token_kl`, `ref_mass`, `groups`, `state` and `deviation`, or they are handed
        beside it. Of other columns, `tokens`, `prompt_tokens`, `sample`, `step`, `reward` and `finish` are ignored.

        Returns:
            This accumulator. A batch that is refused changes nothing.

        Raises:
            ShapeError, InputError: as `kullback.estimate`; and a column of another name, one that came twice, or
                importance weights beyond e^200.
        """
        beside = {
            "ref_logprobs": ref_logprobs,
            "mask": mask,
            "behavior_logprobs": behavior_logprobs,
            "token_kl": token_kl,
            "ref_mass": ref_mass,
            "groups": groups,
            "state": state,
            "deviation": deviation,
        }
        sequences = _sequences(batch, {name: value for name, value in beside.items() if value is not None})
        self._recipe.check(sequences)
        if self._holds(sequences):
            with self._lock:
                self._held = self._held.with_batch(sequences)
            return self
        if isinstance(sequences, Ragged) and (flat := self._flat(sequences)) is not None:
            with self._lock:
                self._summary += flat.summaries[0]
            return self
        with self._lock:
            summary = self._summary
            before = 0
            for block in sequences.blocks():
                _check_weights(block, self._recipe, before)
                summary += self._recipe.summarise(block)
                before += len(block)
            self._summary = summary
        return self

    def _flat(self, sequences: Ragged) -> Found | None:
        return found_in([self._recipe], sequences, known=[self._summary])

    @staticmethod
    def update_all(accumulators: Sequence[Accumulator], ragged: Ragged, *, singles: bool = False) -> Rows | None:
        """Add sequences that lie end to end to several accumulators, from one pass over the numbers.

        Returns:
            The single sequences of the first accumulator's estimator, where they are asked for and the pass has them.
        """
        for accumulator in accumulators:
            accumulator._recipe.check(ragged)
        summed = [accumulator for accumulator in accumulators if not accumulator._recipe.valued(ragged)]
        found = None
        if summed and (len(summed) == len(accumulators) or not singles):
            recipes = [accumulator._recipe for accumulator in summed]
            known = [accumulator._summary for accumulator in summed]
            found = found_in(recipes, ragged, singles=singles, known=known)
        if found is None:
            for accumulator in accumulators:
                accumulator.update(ragged)
            return None
        for accumulator in accumulators:
            if accumulator not in summed:
                accumulator.update(ragged)
        for accumulator, summary in zip(summed, found.summaries, strict=True):
            with accumulator._lock:
                accumulator._summary += summary
        return found.singles

    @staticmethod
    def update_together(
        accumulators: Sequence[Accumulator], sequences: Sequences, *, beside: Sequence[Estimator] = ()
    ) -> list[Float64]:
        """`update` of several accumulators of one level and truncation, each part of the work done once.

        Args:
            accumulators: what is updated.
            sequences: by what.
            beside: further estimators, of which the summands alone are wanted.

        Returns:
            The summands, of the first accumulator and of each estimator beside, in every sequence that has a counted
            token, (rows,).
        """
        recipes = [accumulator._recipe for accumulator in accumulators]
        asked = [recipes[0], *(replace(recipes[0], estimator=estimator) for estimator in beside)]
        for recipe in [*recipes, *asked]:
            recipe.check(sequences)
        totals: list[list[Float64]] = []
        before = 0
        with ExitStack() as locks:
            for accumulator in accumulators:
                locks.enter_context(accumulator._lock)
            summaries = [accumulator._summary for accumulator in accumulators]
            for block in sequences.blocks():
                _check_weights(block, recipes[0], before)
                workings = Workings.of(block, recipes[0].level, recipes[0].truncation)
                summaries = [s + r.summarise(block, workings) for s, r in zip(summaries, recipes, strict=True)]
                totals.append([recipe.totals(workings) for recipe in asked])
                before += len(block)
            for accumulator, summary in zip(accumulators, summaries, strict=True):
                accumulator._summary = summary
        return [np.concatenate(parts) for parts in zip(*totals, strict=True)]

    def merge(self, other: Accumulator) -> Accumulator:
        """Add what another accumulator saw, as if its sequences had come after these; returns this one.

        Raises:
            InputError: it is of other options, no accumulator, or this one, whose rows would count twice.
        """
        if not isinstance(other, Accumulator):
            raise InputError(
                f"a {type(other).__name__} came, but an accumulator is merged: "
                "read a state with Accumulator(…).restore(state) first"
            )
        if other is self:
            raise InputError(f"{self} came to be merged with itself: its rows would count twice")
        if self._options != other._options:
            raise InputError(
                f"{self} and {other} came: only accumulators of one estimator, level and unit merge, with equal options"
            )
        if (self._held and other._summary.rows) or (self._summary.rows and other._held):
            raise InputError(f"{self} and {other} came, of which only one has deviation: they do not merge")
        with self._lock:
            self._summary += other._summary
            self._held += other._held
        return self

    def state(self) -> dict[str, Any]:
        """Plain numbers and NumPy arrays, for a checkpoint or another process; see `restore`."""
        return {
            "schema": SCHEMA,
            "recipe": self._recipe.name,
            "options": self._options,
            **self._summary.to_state(),
            **({"held": self._held.to_state()} if self._held else {}),
        }

    def restore(self, state: Mapping[str, Any]) -> Accumulator:
        """Continue from what `state` returned on an accumulator with the same options; returns this one.

        Raises:
            InputError: a state of other options, of another version of this package, or no state.
        """
        if not isinstance(state, Mapping):
            raise InputError(f"a {type(state).__name__} came, but what Accumulator.state() returned is needed")
        summary = dict(state)
        schema, recipe, options = (summary.pop(name, None) for name in ("schema", "recipe", "options"))
        if schema != SCHEMA:
            raise InputError(
                f"a state with schema {schema} came, but {SCHEMA} is read here: accumulate again with this version"
            )
        if recipe != self._recipe.name or options != self._options:
            raise InputError(
                f"a state of {recipe} came to an accumulator of {self._recipe.name}: "
                "restore it with the options that it was made with"
            )
        try:
            held = Held.from_state(summary.pop("held", ()))
            restored = Summary.from_state(summary)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a state that is not whole came ({error}): pass what state() returned") from error
        with self._lock:
            self._summary, self._held = restored, held
        return self

    def result(self) -> Estimate:
        """The estimate so far.

        Raises:
            InputError: nothing was added yet.
        """
        if not self._held:
            return conclusion(self._recipe, self._summary)
        recipe = self._recipe.without_controls
        batches, how = self._held.controlled(per_token=recipe.unit == "token")
        summary = Summary.nothing(CHECK + len(recipe.columns))
        for batch in batches:
            summary += recipe.summarise(batch)
        found = replace(conclusion(recipe, summary), coefficients={"token_values": 0.0})
        return found if how is None else how.applied(found, grouped=summary.grouped)

    @property
    def value(self) -> float:
        """The value of the estimate so far, without its error, in a fifth of the time.

        Raises:
            InputError: nothing was added yet.
        """
        return self.result().value if self._held else value_of(self._recipe, self._summary)

    def _holds(self, batch: Sequences | Ragged) -> bool:
        """Whether a batch is kept until the result is asked for.

        Raises:
            InputError: it is, and those before were not, or the other way round.
        """
        holds = self._recipe.valued(batch)
        if self._summary.rows if holds else self._held:
            raise InputError(
                "some batches came with deviation and others without, or with behavior_logprobs: give all of them "
                "deviation, or none"
            )
        return holds

    @property
    def _options(self) -> str:
        """Every option by value, in words."""
        recipe = self._recipe
        tamed = "" if recipe.truncation is None else fingerprint(recipe.truncation.fn)
        return f"{recipe.name}: {fingerprint(recipe.estimator.fn)}; {tamed}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=Lock())

    def __repr__(self) -> str:
        rows = self._summary.rows + sum(map(len, self._held.batches))
        return f"<accumulator of {self._recipe.name}, {rows} sequences>"


def _sequences(batch: Any, beside: dict[str, Any]) -> Sequences | Ragged:
    """What `update` was given, checked; nothing handed beside a mapping is dropped."""
    if isinstance(batch, Sequences | Ragged):
        if beside:
            raise InputError(
                f"{', '.join(beside)} came beside a batch that is checked already: put all columns into the batch"
            )
        return batch
    if isinstance(batch, Mapping) or hasattr(batch, "columns"):
        columns = columns_of(batch)
        twice = [name for name in beside if columns.get(name) is not None]
        if twice:
            raise InputError(f"{', '.join(twice)} came in the mapping and beside it: pass each column once")
        return Sequences.of_batch({**columns, **beside})
    if "ref_logprobs" not in beside:
        raise InputError("update got logprobs alone, but ref_logprobs of the same tokens are needed too")
    return Sequences.of(batch, **beside)


def _check_weights(block: Sequences, recipe: Recipe, before: int) -> None:
    """Hold that importance weights which nothing caps stay within what their moments can hold.

    Args:
        block: rows of a batch.
        recipe: what is computed of them.
        before: the batch's rows before these.
    """
    capped = recipe.truncation is not None and not recipe.truncation.self_normalised
    if block.behavior_logprobs is None or capped:
        return
    log_weights = np.cumsum(block.logprobs - block.behavior_logprobs, axis=1)
    if log_weights.max() > LARGEST_LOG_WEIGHT:
        row, token = place(log_weights > LARGEST_LOG_WEIGHT)
        raise InputError(
            f"the importance weight q/μ of row {before + row} reaches e^{log_weights[row].max():.0f}, beyond e^200 "
            f"from position {token} on (logprobs {block.logprobs[row, token]:g}, behavior_logprobs "
            f"{block.behavior_logprobs[row, token]:g}): behavior_logprobs are not those of what drew the tokens; "
            "mend them, or cap the weights with truncate=…"
        )


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
    state: Features | None = None,
    deviation: Features | None = None,
    truncate: Truncation | float | str | None = None,
) -> Estimate:
    """Σ_i k(ℓ_i) / n with its standard error: a divergence of the policy q from the reference p, in nats.

    At level "token", k is applied to every token's ℓ = log q − log p and summed over the sequence; at level
    "sequence" to the summed ℓ. For k1, k3 and the control variates both are unbiased for KL(q‖p) of sequences
    (E[r_t − 1 | prefix] = 0), if every token the sampler drew is counted, the end-of-sequence
    token too, and the log-probs are those of the distribution that was sampled.

    Args:
        logprobs: log q of the sampled tokens, (batch, time): an array of NumPy, torch or JAX, any float dtype, or
            rows as lists or arrays. Rows of lists may differ in length, each as long in every column; a number
            that is not known is `None`, and has to be masked; what `np.ma` masks does not count.
        ref_logprobs: log p of the same tokens; −inf where the reference excludes one.
        mask: True where a token counts, (batch, time): bool, or exactly 0 and 1; everything else may hold anything.
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
        state: numbers of each token's prefix, (batch, time, numbers), that may say what KL is still to come.
        deviation: numbers of each token less their mean under the policy at its prefix, (batch, time, numbers), the
            end token's first; `rao_blackwell_controlled` makes controls of them, on-policy (docs/variance.md).
        truncate: a member of `kullback.weights` or a number, the cap of the weights; biased, and says so.

    Returns:
        An `Estimate`; its `warnings` say in words what makes it doubtful.

    Raises:
        ShapeError: arrays whose shapes differ or are not (batch, time); nothing is broadcast.
        InputError: counted numbers that cannot be right, with row, position and the likely cause: nan, None, positive
            log-probs (logits, probabilities, the rounding of half precision), −9000 and below (what servers write
            for "not known"), −inf where the sampler drew the token; a mask that is none; a column the estimator
            needs and did not get; importance weights beyond e^200.
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
        state=state,
        deviation=deviation,
    )
    return Accumulator(estimator=estimator, level=level, unit=unit, truncate=truncate).update(batch).result()
