"""One small RL problem trained with each KL term: reward against the exact KL, and what the log says of it.

A tabular policy over a tree of sequences is trained by REINFORCE with a leave-one-out baseline on a reward that
pays for one token, penalised by β times a KL term to a fixed reference. The optimum of E[R] − β KL(q‖p) is known,
q* ∝ p·exp(R/β), and so is the exact KL at every step. All seeds and all β are trained at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Chart, Panel, Series, Table, plain
from kullback.errors import InputError, MissingPackageError
from kullback.estimators import K1, K2, K3, RAO_BLACKWELL, Estimator
from kullback.jobs.progress import Progress
from kullback.losses import kl_loss, kl_reward
from kullback.oracle import TreeLM
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

Penalty = Callable[["Batch"], Any]


@dataclass(frozen=True)
class Batch:
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
class Run:
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
class Training:
    """What `training` found.

    Attributes:
        steps, samples, seeds: of every run.
        runs: KL term by KL term.
        frontier: (reward, kl) of the optimum at falling β.
    """

    steps: int
    samples: int
    seeds: int
    runs: tuple[Run, ...]
    frontier: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return dict(plain(asdict(self)))

    def of(self, arm: str) -> list[Run]:
        """One KL term, by β."""
        return [run for run in self.runs if run.arm == arm]

    @property
    def betas(self) -> tuple[float, ...]:
        """The penalties' weights."""
        return tuple(dict.fromkeys(run.beta for run in self.runs))

    def tables(self) -> tuple[Table, ...]:
        """A table for each β."""
        return tuple(self._table(beta) for beta in self.betas)

    def _table(self, beta: float) -> Table:
        rows = [run for run in self.runs if run.beta == beta]
        columns = ("reward", "exact KL", "logged KL", "shortfall")
        return Table(
            title=f"β = {beta:g}: the optimum has reward {rows[0].best_reward:.3f} and KL {rows[0].best_kl:.3f}",
            note=(
                f"{self.steps} steps of {self.samples} samples, {self.seeds} seeds; the last quarter, ± standard error "
                "over seeds; KL(q‖p) in nats a sequence. shortfall: 0% is the optimum of E[R] − β KL, 100% the "
                "reference."
            ),
            columns=("KL term", *columns),
            rows=tuple(
                (
                    run.arm,
                    f"{run.reward:.3f} ± {run.reward_stderr:.3f}",
                    f"{run.kl:.3f} ± {run.kl_stderr:.3f}",
                    f"{run.logged:.3f}",
                    f"{100 * run.shortfall:.1f}%",
                )
                for run in rows
            ),
            right=columns,
        )

    def chart(self) -> Chart:
        """Reward against exact KL, and the exact KL along the steps at the first β."""
        best = Series.of("optimum", ((kl, reward) for reward, kl in self.frontier))
        names = tuple(dict.fromkeys(run.arm for run in self.runs))
        steps = range(EVERY, EVERY * len(self.runs[0].curve) + 1, EVERY)
        target, most = self.runs[0].best_kl, max(run.kl for run in self.runs)
        return Chart(
            name="training",
            text=(
                f"Training with {', '.join(names)}. Reward against exact KL at the end, at β of "
                f"{', '.join(f'{beta:g}' for beta in self.betas)}, with the optimum of every β; exact KL along the "
                f"steps at β = {self.betas[0]:g}, whose optimum has {target:.2f} nats; and the KL that the trainer "
                "logs against the exact one."
            ),
            panels=(
                Panel("at the end", "exact KL(q‖p), nats", "reward", (best, *self._points(names, "kl", "reward"))),
                Panel(
                    f"β = {self.betas[0]:g}",
                    "step",
                    "exact KL(q‖p), nats",
                    (
                        Series.of("optimum", ((step, target) for step in steps)),
                        *(Series.of(name, zip(steps, self.of(name)[0].curve, strict=True)) for name in names),
                    ),
                ),
                Panel(
                    "what the log says",
                    "exact KL(q‖p), nats",
                    "logged KL, nats",
                    (
                        *self._points(names, "kl", "logged"),
                        Series.of("logged = exact", ((0.0, 0.0), (most, most)), "dashed"),
                    ),
                ),
            ),
        )

    def _points(self, names: Sequence[str], x: str, y: str) -> tuple[Series, ...]:
        return tuple(
            Series.of(name, ((getattr(run, x), getattr(run, y)) for run in self.of(name)), "points") for name in names
        )


def _in_loss(name: str) -> Penalty:
    return lambda b: SURROGATES[name].fn(b.q, b.p, b.mask).mean()


def _in_reward(estimator: Estimator) -> Penalty:
    def penalty(b: Batch) -> Any:
        cost = kl_reward(b.q, b.p, b.mask, estimator=estimator, allow_biased=True).sum(-1)
        return (_advantage(cost.reshape(-1, b.samples)).ravel() * _whole(b.q, b.mask)).mean()

    return penalty


def _with_kl_loss(b: Batch, exact: bool) -> Any:
    return kl_loss(
        b.q,
        b.p,
        b.mask,
        objective=REVERSE_KL,
        token_kl=b.token_kl if exact else None,
        baseline="leave_one_out",
        groups=b.run,
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
        problem = _Problem(betas, samples, seeds)
        runs: list[Run] = []
        for number, arm in enumerate(ARMS):
            runs += problem.trained(arm, steps, seed, partial(_report, on_progress, number, steps, problem.rows))
    finally:
        torch.set_num_threads(threads)
    return Training(steps, samples, seeds, tuple(runs), problem.frontier())


def _report(on_progress: Callable[[Progress], None], arm: int, steps: int, rows: int, step: int, tokens: int) -> None:
    on_progress(Progress((arm * steps + step) * rows, len(ARMS) * steps * rows, 0))


class _Problem:
    """The tree, the reference and the reward; every run is one row of the leading axis, seeds within β."""

    def __init__(self, betas: Sequence[float], samples: int, seeds: int) -> None:
        import torch

        prefixes = sum((VOCAB - 1) ** t for t in range(HORIZON))
        logits = np.random.default_rng(0).normal(size=(prefixes, VOCAB))
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

    def trained(self, arm: Arm, steps: int, seed: int, on_step: Callable[[int, int], None]) -> list[Run]:
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
            gain = (_advantage(reward.reshape(self.runs, -1)).ravel() * _whole(batch.q, batch.mask)).mean()
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
                on_step(step + 1, 0)
        return self._runs(arm, *(torch.stack(x).numpy() for x in (rewards, kls, logged)))

    def _sampled(
        self, table: torch.Tensor, everything: torch.Tensor, whole: torch.Tensor, generator: torch.Generator
    ) -> tuple[Batch, torch.Tensor]:
        import torch

        uniform = torch.rand(self.runs, self.samples, dtype=torch.float64, generator=generator)
        cumulative = whole.exp().cumsum(-1)
        drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:]).clamp(max=len(self.reward) - 1)
        run = torch.arange(self.runs).repeat_interleave(self.samples)
        rows = drawn.ravel()
        kl = (table.exp() * (table - self.reference)).sum(-1)
        batch = Batch(
            q=everything[run, rows],
            p=self.ref_logprobs[rows],
            mask=self.mask[rows],
            token_kl=kl[run[:, None], self.places[rows]] * self.mask[rows],
            run=run,
            samples=self.samples,
        )
        return batch, self.reward[rows]

    def _runs(self, arm: Arm, rewards: Float64, kls: Float64, logged: Float64) -> list[Run]:
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
                Run(
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


def _gradient(value: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.autograd.grad(value, logits, retain_graph=True)[0]


def _logged(arm: Arm, batch: Batch) -> torch.Tensor:
    x = batch.token_kl if arm.logged.reads == "token_kl" else batch.q - batch.p
    return _whole(arm.logged.fn(x.detach()), batch.mask)


def _stderr(values: Float64) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
