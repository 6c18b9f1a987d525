"""One small RL problem trained with each KL term: reward against the exact KL, and what the log says of it.

A tabular policy over a tree of sequences is trained by REINFORCE with a leave-one-out baseline on a reward that
pays for one token, penalised by β times a KL term to a fixed reference. The optimum of E[R] − β KL(q‖p) is known,
q* ∝ p·exp(R/β), and so is the exact KL at every step. All seeds and all β are trained at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from kullback.arrays import Array, Float64
from kullback.documents import Chart, Document, Number, Panel, Series, Table
from kullback.errors import InputError, MissingPackageError
from kullback.estimators import K1, K2, K3, RAO_BLACKWELL, Estimator
from kullback.jobs.progress import Progress
from kullback.lab.cells import Columns, Fixed, table_of
from kullback.lab.outcome import ExperimentOutcome
from kullback.losses import kl_loss, kl_reward
from kullback.oracle import TreeLM
from kullback.oracle.tree import prefix_count
from kullback.surrogates import SURROGATES
from kullback.targets import REVERSE_KL

if TYPE_CHECKING:
    import torch

VOCAB, HORIZON, EOS, PAID = 4, 5, 0, 1
"""364 sequences; the reward is the number of tokens PAID."""

RATE = 0.5
"""Of plain gradient descent."""

TAIL = 0.25
"""Share of the steps, at the end, over which results are averaged."""

EVERY = 20
"""Steps between two points of a curve."""

Penalty = Callable[["SampledRows"], Array]
"""A KL term: one number a row, or their mean."""


@dataclass(frozen=True)
class SampledRows:
    """Sampled rows of all runs together: log-probs (rows, time) and the run of each row."""

    q: torch.Tensor
    p: torch.Tensor
    mask: torch.Tensor
    token_kl: torch.Tensor
    run: torch.Tensor
    samples: int


@dataclass(frozen=True)
class Arm:
    """A KL term: its gradient, and what its trainer logs as the KL."""

    name: str
    penalty: Penalty | None
    logged: Estimator


@dataclass(frozen=True)
class TrainingRun:
    """One KL term at one β, over the last quarter of the steps; means over seeds, with the seeds' standard error.

    Attributes:
        reward, reward_stderr: E[R], exact.
        kl, kl_stderr: KL(q‖p), exact, nats a sequence.
        logged: the mean of the trainer's own estimator on its batches.
        shortfall: (J* − J)/(J* − J(p)), J = E[R] − β KL: 0 is the optimum, 1 is no better than the reference.
        best_reward, best_kl: of the optimum at this β.
        seeds: (reward, kl) of every seed.
        curve: exact KL along the steps, mean over seeds.
    """

    arm: str
    beta: float
    reward: float
    reward_stderr: float
    kl: float
    kl_stderr: float
    logged: float
    shortfall: float
    best_reward: float
    best_kl: float
    seeds: tuple[tuple[float, float], ...]
    curve: tuple[float, ...]


@dataclass(frozen=True)
class Training(ExperimentOutcome):
    """What `training` found.

    Attributes:
        steps, samples, seeds: of every run.
        runs: KL term by KL term.
        frontier: (reward, kl) of the optimum at falling β.

    Example:
        >>> from kullback import lab
        >>> found = lab.training([1.0], steps=80, seeds=1)
        >>> (run,) = found.of("k1 in the reward")
        >>> run.beta, len(run.curve), run.shortfall > 0
        (1.0, 4, True)
    """

    steps: int
    samples: int
    seeds: int
    runs: tuple[TrainingRun, ...]
    frontier: tuple[tuple[float, float], ...]

    def of(self, arm: str) -> list[TrainingRun]:
        """One KL term, by β."""
        return [run for run in self.runs if run.arm == arm]

    @property
    def betas(self) -> tuple[float, ...]:
        """The penalties' weights."""
        return tuple(dict.fromkeys(run.beta for run in self.runs))

    def document(self) -> Document:
        """A table for each β; reward against exact KL, and the exact KL along the steps at the first β."""
        return Document("Training with each KL term", (*(_table(self, beta) for beta in self.betas), _chart(self)))


def _in_loss(name: str) -> Penalty:
    return lambda rows: SURROGATES[name](rows.q, rows.p, rows.mask)


def _in_reward(estimator: Estimator) -> Penalty:
    def penalty(rows: SampledRows) -> Array:
        import torch

        costs = torch.as_tensor(kl_reward(rows.q, rows.p, rows.mask, estimator=estimator, allow_biased=True))
        return _advantage(costs.sum(-1).reshape(-1, rows.samples)).ravel() * _whole(rows.q, rows.mask)

    return penalty


def _with_kl_loss(rows: SampledRows, *, exact: bool) -> Array:
    return kl_loss(
        rows.q,
        rows.p,
        rows.mask,
        objective=REVERSE_KL,
        token_kl=rows.token_kl if exact else None,
        baseline="leave_one_out",
        groups=rows.run,
    )


ARMS: tuple[Arm, ...] = (
    Arm("no KL term", None, K1),
    Arm("k1 in the loss", _in_loss("k1_loss"), K1),
    Arm("k2 in the loss", _in_loss("k2_loss"), K2),
    Arm("k3 in the loss", _in_loss("k3_loss"), K3),
    Arm("k1 in the reward", _in_reward(K1), K1),
    Arm("k3 in the reward", _in_reward(K3), K3),
    Arm("kl_loss REVERSE_KL", partial(_with_kl_loss, exact=False), K1),
    Arm("kl_loss Rao-Blackwell", partial(_with_kl_loss, exact=True), RAO_BLACKWELL),
)


def training(
    betas: Sequence[float] = (0.5, 1.0),
    *,
    steps: int = 2000,
    samples: int = 16,
    seeds: int = 8,
    seed: int = 0,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Training:
    """Train the same policy with each KL term, and compare the exact KL with what is logged and with the optimum.

    The policy is a table of logits over the prefixes of four tokens, at most five long, and begins at the
    reference; the reward is the number of times one token is drawn. Every KL term sees the same random numbers.

    Args:
        betas: weights of the penalty, trained side by side.
        steps: gradient steps, a batch each.
        samples: sequences of a batch, which share a leave-one-out baseline.
        seeds: runs of each term.
        seed: of all random numbers.
        on_progress: called as sequences are finished.

    Raises:
        InputError: a β that is not positive, or fewer than two samples, one seed or 80 steps.
        MissingPackageError: torch is not installed.

    Example:
        >>> from kullback import lab
        >>> found = lab.training([1.0], steps=80, seeds=1)
        >>> found.of("no KL term")[0].kl > found.of("kl_loss Rao-Blackwell")[0].kl
        True
    """
    if not betas or min(betas) <= 0 or samples < 2 or seeds < 1 or steps < 4 * EVERY:
        raise InputError(
            f"betas={list(betas)}, samples={samples}, seeds={seeds} and steps={steps} came, but β is positive, and at "
            f"least 2 samples, 1 seed and {4 * EVERY} steps are needed"
        )
    try:
        import torch
    except ImportError:
        raise MissingPackageError("torch", "torch") from None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tables this small are slower on more
    try:
        problem = Problem(betas, samples, seeds)
        runs: list[TrainingRun] = []

        def report(before: int, step: int) -> None:
            on_progress(Progress((before + step) * problem.rows, len(ARMS) * steps * problem.rows, 0))

        for number, arm in enumerate(ARMS):
            runs += problem.trained(arm, steps, seed, partial(report, number * steps))
    finally:
        torch.set_num_threads(threads)
    return Training(steps, samples, seeds, tuple(runs), problem.frontier())


class Problem:
    """The tree, the reference and the reward; every run is one row of the leading axis, seeds within β."""

    def __init__(self, betas: Sequence[float], samples: int, seeds: int) -> None:
        import torch

        logits = np.random.default_rng(0).normal(size=(prefix_count(VOCAB, HORIZON), VOCAB))
        self.tree = TreeLM(logits, EOS, HORIZON)
        self.betas, self.samples, self.seeds = tuple(betas), samples, seeds
        self.runs = len(betas) * seeds
        self.rows = self.runs * samples
        self.beta = torch.tensor(betas, dtype=torch.float64).repeat_interleave(seeds)
        self.tokens, self.mask, self.places = (
            torch.tensor(np.array(x)) for x in (self.tree.tokens, self.tree.mask, self.tree.places)
        )
        self.flat = (self.places * VOCAB + self.tokens).ravel()
        self.reference = torch.tensor(self.tree.log_distributions)
        self.ref_logprobs = self._read(self.reference[None])[0]
        self.reward = ((self.tokens == PAID) & self.mask).sum(-1).double()

    def _read(self, log_distributions: torch.Tensor) -> torch.Tensor:
        """Log-probs of the tokens of every sequence, (runs, sequences, time), 0 where masked."""
        import torch

        values = log_distributions.flatten(1)[:, self.flat].reshape(-1, *self.tokens.shape)
        return torch.where(self.mask, values, 0.0)

    def optimum(self, beta: float) -> tuple[float, float]:
        """Reward and KL of q* ∝ p·exp(R/β)."""
        p = np.exp(self.ref_logprobs.sum(-1).numpy())
        reward = self.reward.numpy()
        tilt = p * np.exp((reward - reward.max()) / beta)
        q = tilt / tilt.sum()
        return float(q @ reward), float(q @ np.log(q / p))

    def frontier(self) -> tuple[tuple[float, float], ...]:
        """Optima from the reference to almost no penalty."""
        return tuple(self.optimum(float(beta)) for beta in np.geomspace(50.0, 0.12, 60))

    def trained(self, arm: Arm, steps: int, seed: int, on_step: Callable[[int], None]) -> list[TrainingRun]:
        """One KL term, every β and seed."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        logits = self.reference.expand(self.runs, -1, -1).clone().requires_grad_()
        kls, rewards, logged = [], [], []
        for step in range(steps):
            table = logits.log_softmax(-1)
            everything = self._read(table)
            whole = everything.detach().sum(-1)
            batch, reward = self._sampled(table, everything, whole, generator)
            gain = _advantage(reward.reshape(self.runs, -1)).ravel() * _whole(batch.q, batch.mask)
            # The mean is over the rows of all runs; each run wants the mean over its own.
            gradient = -self.runs * _gradient(gain, logits)
            if arm.penalty is not None:
                gradient += self.beta[:, None, None] * self.runs * _gradient(arm.penalty(batch), logits)
            with torch.no_grad():
                logits -= RATE * gradient
            logged.append(_logged(arm, batch).reshape(self.runs, -1).mean(-1))
            if (step + 1) % EVERY == 0:
                chance = whole.exp()
                kls.append((chance * (whole - self.ref_logprobs.sum(-1))).sum(-1))
                rewards.append(chance @ self.reward)
                on_step(step + 1)
        return self._runs(arm, *(torch.stack(x).numpy() for x in (rewards, kls, logged)))

    def _sampled(
        self, table: torch.Tensor, everything: torch.Tensor, whole: torch.Tensor, generator: torch.Generator
    ) -> tuple[SampledRows, torch.Tensor]:
        import torch

        uniform = torch.rand(self.runs, self.samples, dtype=torch.float64, generator=generator)
        cumulative = whole.exp().cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp(max=len(self.reward) - 1)
        run = torch.arange(self.runs).repeat_interleave(self.samples)
        rows = drawn.ravel()
        kl = (table.exp() * (table - self.reference)).sum(-1)
        batch = SampledRows(
            q=everything[run, rows],
            p=self.ref_logprobs[rows],
            mask=self.mask[rows],
            token_kl=kl[run[:, None], self.places[rows]] * self.mask[rows],
            run=run,
            samples=self.samples,
        )
        return batch, self.reward[rows]

    def _runs(self, arm: Arm, rewards: Float64, kls: Float64, logged: Float64) -> list[TrainingRun]:
        """From (points, runs) arrays."""
        points, steps = max(1, int(TAIL * len(kls))), max(1, int(TAIL * len(logged)))
        found = []
        for number, beta in enumerate(self.betas):
            part = slice(number * self.seeds, (number + 1) * self.seeds)
            reward, kl = rewards[-points:, part].mean(axis=0), kls[-points:, part].mean(axis=0)
            best_reward, best_kl = self.optimum(beta)
            start = float(np.exp(self.ref_logprobs.sum(-1).numpy()) @ self.reward.numpy())
            best = best_reward - beta * best_kl
            found.append(
                TrainingRun(
                    arm=arm.name,
                    beta=beta,
                    reward=float(reward.mean()),
                    reward_stderr=_stderr(reward),
                    kl=float(kl.mean()),
                    kl_stderr=_stderr(kl),
                    logged=float(logged[-steps:, part].mean()),
                    shortfall=float((best - (reward - beta * kl).mean()) / (best - start)),
                    best_reward=best_reward,
                    best_kl=best_kl,
                    seeds=tuple((float(r), float(k)) for r, k in zip(reward, kl, strict=True)),
                    curve=tuple(float(x) for x in kls[:, part].mean(axis=1)),
                )
            )
        return found


def _whole(q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (q * mask).sum(-1)


def _advantage(returns: torch.Tensor) -> torch.Tensor:
    """Returns (runs, samples) minus the mean of the run's other samples."""
    n = returns.shape[-1]
    return (returns - returns.mean(-1, keepdim=True)) * (n / (n - 1))


def _gradient(value: Array, logits: torch.Tensor) -> torch.Tensor:
    """Of a mean over rows."""
    import torch

    return torch.autograd.grad(torch.as_tensor(value).mean(), logits, retain_graph=True)[0]


def _logged(arm: Arm, batch: SampledRows) -> torch.Tensor:
    x = batch.token_kl if arm.logged.reads == "token_kl" else batch.q - batch.p
    return _whole(arm.logged.fn(x.detach()), batch.mask)


def _stderr(values: Float64) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _table(found: Training, beta: float) -> Table:
    runs = [run for run in found.runs if run.beta == beta]
    return table_of(
        runs,
        COLUMNS,
        title=f"β = {beta:g}: the optimum has reward {runs[0].best_reward:.3f} and KL {runs[0].best_kl:.3f}",
        note=(
            f"{found.steps} steps of {found.samples} samples, {found.seeds} seeds; the last quarter, ± standard error "
            "over seeds; KL(q‖p) in nats a sequence. shortfall: 0% is the optimum of E[R] − β KL, 100% the reference."
        ),
        words=1,
    )


COLUMNS: Columns[TrainingRun] = {
    "KL term": lambda run: run.arm,
    "reward": lambda run: Fixed(run.reward, run.reward_stderr),
    "exact KL": lambda run: Fixed(run.kl, run.kl_stderr),
    "logged KL": lambda run: Number(run.logged, ".3f"),
    "shortfall": lambda run: Number(run.shortfall, ".1%"),
}


def _chart(found: Training) -> Chart:
    names = tuple(dict.fromkeys(run.arm for run in found.runs))
    target, beta = found.runs[0].best_kl, found.betas[0]
    return Chart(
        name="training",
        text=(
            f"Training with {', '.join(names)}. Reward against exact KL at the end, at β of "
            f"{', '.join(f'{beta:g}' for beta in found.betas)}, with the optimum of every β; exact KL along the "
            f"steps at β = {beta:g}, whose optimum has {target:.2f} nats; and the KL that the trainer logs against "
            "the exact one."
        ),
        panels=(_at_the_end(found, names), _along_the_steps(found, names), _logs(found, names)),
    )


def _at_the_end(found: Training, names: Sequence[str]) -> Panel:
    best = Series.of("optimum", ((kl, reward) for reward, kl in found.frontier))
    return Panel("at the end", "exact KL(q‖p), nats", "reward", (best, *_points(found, names, "kl", "reward")))


def _along_the_steps(found: Training, names: Sequence[str]) -> Panel:
    steps = range(EVERY, EVERY * len(found.runs[0].curve) + 1, EVERY)
    optimum = Series.of("optimum", ((step, found.runs[0].best_kl) for step in steps))
    curves = (Series.of(name, zip(steps, found.of(name)[0].curve, strict=True)) for name in names)
    return Panel(f"β = {found.betas[0]:g}", "step", "exact KL(q‖p), nats", (optimum, *curves))


def _logs(found: Training, names: Sequence[str]) -> Panel:
    most = max(run.kl for run in found.runs)
    same = Series.of("logged = exact", ((0.0, 0.0), (most, most)), "dashed")
    points = _points(found, names, "kl", "logged")
    return Panel("what the log says", "exact KL(q‖p), nats", "logged KL, nats", (*points, same))


def _points(found: Training, names: Sequence[str], x: str, y: str) -> tuple[Series, ...]:
    return tuple(
        Series.of(name, ((getattr(run, x), getattr(run, y)) for run in found.of(name)), "points") for name in names
    )
