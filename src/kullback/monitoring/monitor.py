"""The monitor of a run: batches in, metrics and alarms out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kullback.arrays import Groups, Numbers
from kullback.errors import InputError, shown
from kullback.estimation import Estimate, Sequences
from kullback.estimation.sequences import NoTokenError
from kullback.monitoring.reading import WORDS, Alarm, Name, Reading, Step

SCHEMA = 1
"""The version of what `KLMonitor.state` returns."""


class KLMonitor:
    """Watches KL(policy‖reference) and KL(sampler‖policy) from step to step, with alarms that hold at every look.

    The unit is the prompt: the mean of its rows' summands, or a row by itself without `groups`. Three alarms:
    *band*, the KL is above `limit` (bets against it have lost; finite samples, any tails); *change*, the mean is no
    longer what it was (confidence sequences of different starts exclude one another; asymptotic, from 32 units on);
    *ess*, few sequences carry the weight. Without anything to find, the first two run `run_length` steps or more on
    average before they are raised, each.

    Args:
        limit: nats a sequence that KL(policy‖reference) may have; None for no band.
        mismatch_limit: the same of KL(sampler‖policy).
        run_length: average run length of each alarm, in steps.
        least_ess: share of effective sequences below which a step is named.

    Raises:
        InputError: a limit or run length that is not positive.

    Example:
        >>> import kullback as kb, numpy as np
        >>> rng, monitor = np.random.default_rng(0), kb.KLMonitor(limit=1.0)
        >>> for step in range(6):
        ...     p = -rng.exponential(size=(64, 8))
        ...     q = np.minimum(p + 0.05 * (1 if step < 3 else 12) * rng.normal(size=p.shape), 0)
        ...     monitor.update(q, p, step=step)
        >>> round(monitor.metrics()["kullback/policy/k3"], 1)
        1.4
        >>> [(alarm.step, alarm.kind) for alarm in monitor.alarms]
        [(3, 'change'), (5, 'band')]
    """

    def __init__(
        self,
        *,
        limit: float | None = None,
        mismatch_limit: float | None = None,
        run_length: float = 10_000,
        least_ess: float = 0.1,
    ) -> None:
        for name, value in (("limit", limit), ("mismatch_limit", mismatch_limit), ("run_length", run_length)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name}={shown(value)} came, but it has to be a positive number")
        if not 0 <= least_ess <= 1:
            raise InputError(f"least_ess={shown(least_ess)} came, but it is a share between 0 and 1")
        self._options = {
            "limit": limit,
            "mismatch_limit": mismatch_limit,
            "run_length": run_length,
            "least_ess": least_ess,
        }
        limits: Mapping[Name, float | None] = {"policy": limit, "mismatch": mismatch_limit}
        self._readings = {name: Reading(name, run_length, limits[name], least_ess) for name in WORDS}
        self._steps: dict[Name, Step] = {}
        self._step: int | None = None
        self.alarms: list[Alarm] = []

    def update(
        self,
        logprobs: Numbers,
        ref_logprobs: Numbers | None = None,
        mask: Numbers | None = None,
        *,
        step: int,
        behavior_logprobs: Numbers | None = None,
        token_kl: Numbers | None = None,
        groups: Groups | None = None,
    ) -> None:
        """Add sequences of a step; those of a later one close the step before.

        Args:
            logprobs, ref_logprobs, mask, behavior_logprobs, token_kl, groups: as `kullback.estimate` takes them.
                Without the reference only the mismatch is read, without behaviour log-probs only the policy's KL.
            step: of the run; not before one that was closed. One in which no token counts has nan for numbers, and
                tells the alarms nothing.

        Raises:
            ShapeError, InputError: as `kullback.estimate` (a nan that counts is refused by its place); neither a
                reference nor behaviour log-probs, or a step that was closed. A batch that is refused changes nothing.
        """
        columns = {
            "logprobs": logprobs,
            "ref_logprobs": ref_logprobs,
            "mask": mask,
            "behavior_logprobs": behavior_logprobs,
            "token_kl": token_kl,
            "groups": groups,
        }
        batches = _batches(columns)
        if self._step is not None and (step < self._step or (step == self._step and not self._steps)):
            raise InputError(f"step {step} came after step {self._step} was closed: hand the steps over in their order")
        before = self._steps if step == self._step else {}
        steps = {name: before.get(name, Step(estimators)).plus(batch) for name, (estimators, batch) in batches.items()}
        if step != self._step:
            self.close()
            self._step = step
        self._steps = {**self._steps, **steps}

    def merge(self, other: KLMonitor) -> KLMonitor:
        """Add what another process saw of the same step, as under data parallel; returns this one.

        One that saw nothing of it (it had no rows, or no token of them counts) adds nothing.

        Raises:
            InputError: it has other options, or is at another step.
        """
        early = not self._steps and (self._step is None or self._step < (other._step or 0))
        at = other._step if early and other._steps else self._step
        if other._options != self._options or (other._steps and other._step != at):
            raise InputError(
                f"a monitor at step {other._step} came to one at step {self._step}: only monitors with equal options "
                "merge, before either has closed the step"
            )
        merged = {name: self._steps[name].merged(step) for name, step in other._steps.items() if name in self._steps}
        self._step, self._steps = at, {**other._steps, **self._steps, **merged}
        return self

    def close(self) -> list[Alarm]:
        """Judge the step whose sequences have come, if any; its alarms."""
        if self._step is None:
            return []
        found: list[Alarm] = []
        for name, step in self._steps.items():
            found += self._readings[name].close(self._step, step)
        self._steps = {}
        self.alarms += found
        return found

    def metrics(self) -> dict[str, float]:
        """Close the step and give its numbers by stable names, `kullback/<reading>/<what>`, nats a sequence.

        `k1`, `k3`, `rao_blackwell`: values; `stderr`, `low`, `high`: of the first of `rao_blackwell` and `k3` that is
        there, with its value a token in `token`; `statewise`, where token KLs are known: Σ_t KL(q_t‖p_t) at the
        prefixes as they were drawn (on-policy the sequence KL; off-policy, what weights change of it);
        `anytime_low`, `anytime_high`: 95% bounds of the mean since the last change, valid at every step;
        `lower_bound`: of the mean since the last alarm, in finite samples; `ess`: share of effective sequences;
        `khat`; `alarms`: how many the step raised.
        """
        self.close()
        return {name: value for reading in self._readings.values() for name, value in reading.metrics.items()}

    def estimate(self, unit: str = "sequence", *, reading: Name = "policy") -> Estimate:
        """Close the step and give its KL with its error, as `kullback.controllers` take it.

        Args:
            unit: "sequence" or "token".
            reading: "policy" for KL(policy‖reference), "mismatch" for KL(sampler‖policy).

        Raises:
            InputError: no step has been read, or a unit or a reading that there is not.

        Example:
            >>> import kullback as kb
            >>> monitor = kb.KLMonitor()
            >>> monitor.update([[-0.5, -1.0], [-0.2, -0.1]], [[-0.7, -1.5], [-0.3, -0.2]], step=0)
            >>> print(monitor.estimate())
            0.067 ± 0.058 nats/sequence (n=2)
        """
        self.close()
        if reading not in self._readings or unit not in ("sequence", "token"):
            raise InputError(
                f"reading={shown(reading)} and unit={shown(unit)} came, but readings are 'policy' and 'mismatch', and "
                "units 'sequence' and 'token'"
            )
        found = self._readings[reading].estimate(unit)
        if found is None:
            raise InputError(f"no step with {WORDS[reading]} was read yet: call update first")
        return found

    def compare_scores(
        self,
        first: Numbers,
        again: Numbers,
        mask: Numbers | None = None,
        *,
        step: int = 0,
        of: str = "the reference",
        tolerance: float = 1e-3,
    ) -> list[Alarm]:
        """Hold two scorings of the same tokens by one model against each other; an alarm where they differ.

        A model that was left in training mode drops other units each time: its KL from the policy is then that noise.
        Score the first batch twice before training begins.

        Args:
            first, again: log-probs of the same tokens, (batch, time).
            mask: as in `update`.
            step: that the alarm names.
            of: whose they are, for its words.
            tolerance: nats by which a token's log-probs may differ by the order of sums.

        Raises:
            ShapeError, InputError: as `kullback.estimate`.

        Example:
            >>> import kullback as kb
            >>> [alarm] = kb.KLMonitor().compare_scores([[-0.5, -1.0]], [[-0.5, -1.5]])
            >>> print(alarm.message)
            the reference gave two answers to the same tokens, up to 0.5 nats apart: call eval() on it
        """
        pair = Sequences.of(first, again, mask)
        apart = float(np.abs(np.where(pair.mask, pair.log_ratio(), 0.0)).max())
        if apart <= tolerance:
            return []
        said = f"{of} gave two answers to the same tokens, up to {apart:.2g} nats apart: call eval() on it"
        found = [Alarm(step, "policy", "repeat", apart, said)]
        self.alarms += found
        return found

    def state(self) -> dict[str, Any]:
        """Close the step and give plain numbers, for a checkpoint or JSON; see `restore`."""
        self.close()
        readings = {name: reading.state() for name, reading in self._readings.items()}
        return {"schema": SCHEMA, "options": self._options, "step": self._step, "readings": readings}

    def restore(self, state: Mapping[str, Any]) -> KLMonitor:
        """Go on from what `state` returned on a monitor with the same options; returns this one.

        Raises:
            InputError: a state of other options or of another version, or none.
        """
        if not isinstance(state, Mapping) or state.get("schema") != SCHEMA:
            raise InputError("what came is no state of a KLMonitor of this version: pass what state() returned")
        if dict(state["options"]) != self._options:
            raise InputError(f"a state of {state['options']} came to a monitor of {self._options}: use equal options")
        for name, reading in self._readings.items():
            reading.restore(state["readings"][name])
        self._step = state["step"]
        return self


def _batches(columns: Mapping[str, Any]) -> dict[Name, tuple[tuple[str, ...], Sequences | None]]:
    """What is read of a batch: the estimators, first the one that alarms go by, and the checked sequences, if any."""
    logprobs, behavior = columns["logprobs"], columns["behavior_logprobs"]
    found: dict[Name, tuple[tuple[str, ...], Sequences | None]] = {}
    if columns["ref_logprobs"] is not None:
        estimators = ("k3", "k1") if columns["token_kl"] is None else ("rao_blackwell", "k3", "k1")
        found["policy"] = estimators, _checked(columns)
    if behavior is not None:
        mismatch = {
            "logprobs": behavior,
            "ref_logprobs": logprobs,
            "mask": columns["mask"],
            "groups": columns["groups"],
        }
        found["mismatch"] = ("k3", "k1"), _checked(mismatch)
    if not found:
        raise InputError("update got logprobs alone: ref_logprobs or behavior_logprobs of the same tokens are needed")
    return found


def _checked(columns: Mapping[str, Any]) -> Sequences | None:
    try:
        return Sequences.of_batch(columns)
    except NoTokenError:
        return None
