"""Writes the numbers and pictures that the docs quote from the experiments that compute them: ``make docs-numbers``.

A quoted number stands between two marks that a Markdown reader does not see: ``<!--=gaussian.k3-->0.628<!--/-->``;
a table, between the same marks on lines of their own. The part before the dot is a source, the rest its key.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from io import StringIO
from math import erf, exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import page_numbers

import kullback as kb
from kullback import lab
from kullback.arrays import to_numpy
from kullback.documents import Chart, Document, Table, text_of
from kullback.lab.gradient_bias import unbiased_ways
from kullback.oracle import TreeLM, World, loss_moments
from kullback.report import markdown, terminal
from kullback.report.pictures import draw

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
DOCS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARK = re.compile(r"<!--=(?P<source>\w+)\.(?P<key>[\w-]+)-->(?P<value>.*?)<!--/-->", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """An experiment: its numbers by key, and its picture if the docs show one; slow ones take more than seconds."""

    name: str
    numbers: Callable[[], dict[str, str]]
    chart: Callable[[], Chart] | None = None
    slow: bool = False


@cache
def gaussian() -> lab.Gaussian:
    return lab.gaussian(samples=1_000_000)


@cache
def language() -> lab.Accuracies:
    return lab.language()


@cache
def gradients() -> lab.Gradients:
    return lab.gradients()


@cache
def coefficients() -> lab.Coefficients:
    return lab.coefficients()


@cache
def training() -> lab.Training:
    return lab.training()


def gaussian_numbers() -> dict[str, str]:
    """Schulman's tables, the crossings, and how often a mean of k1 is negative where KL is 0.005."""
    found = gaussian()
    rows = []
    for pair in found.pairs:
        for row in pair.rows:
            printed = "–" if row.published is None else f"{row.published[0]:g} / {row.published[1]:g}"
            rows.append((f"{pair.kl:g}", row.estimator, f"{row.bias:.4f}", f"{row.stdev:.4f}", printed))
    columns = ("KL(q‖p), nats", "estimator", "bias/KL", "stdev/KL", "printed, bias / stdev")
    near, apart = found.pairs
    k1 = near.rows[0].stdev

    def negative(n: int) -> str:
        return f"{50 * (1 + erf(-sqrt(n) / k1 / sqrt(2))):.2g}%"

    return {
        **_both(Table("", "", columns, tuple(rows), right=columns[2:4])),
        "k2-worse": f"{found.crossovers['k2']:.3f}",
        "k3-worse": f"{found.crossovers['k3']:.3f}",
        # χ²(q‖p) − KL(q‖p): the mean of k3's formula at q/p; χ² is the same both ways at one scale.
        "flipped-near": f"{near.chi2 - near.kl:.5f}",
        "flipped-apart": f"{apart.chi2 - apart.kl:.3f}",
        "near": f"{near.kl:g}",
        "apart": f"{apart.kl:g}",
        "negative-near": f"{100 * near.negative:.0f}%",
        "negative-apart": f"{100 * apart.negative:.0f}%",
        "negative-100": negative(100),
        "negative-1000": negative(1000),
        "negative-4000": negative(4000),
        "lambda-apart": f"{apart.coefficient:.3f}",
        "k2-bias": f"{near.rows[1].bias:.4f}",
        "tail-5": f"{100 * exp(-5):.1f}%",
        "tail-10": f"{1e6 * exp(-10):.0f}",
    }


def language_numbers() -> dict[str, str]:
    """Errors at n = 100 by horizon, and how sequence k3 explodes."""
    found = language()
    names = ("k1", "k2, sequence", "k3, sequence", "k3, token", "Rao-Blackwell")
    places = [row.setting.horizon for row in found.of("horizon", "k1")]
    kls = ("KL(q‖p), nats", *(f"{row.kl:.2g}" for row in found.of("horizon", "k1")))
    lines = tuple((name, *(f"{100 * row.rmse:.1f}%" for row in found.of("horizon", name))) for name in names)
    columns = tuple(str(place) for place in places)
    by_distance = {name: found.of("distance", name) for name in ("k1", "k3, sequence", "k3, token")}
    last = {name: rows[-1] for name, rows in by_distance.items()}
    return {
        **_both(Table("", "", ("horizon, tokens", *columns), (kls, *lines), right=columns)),
        "far-kl": f"{last['k1'].kl:.1f}",
        "far-k3-sequence": f"{float(np.format_float_scientific(last['k3, sequence'].stdev, 0)):,.0f}",
        "far-k3-token": f"{last['k3, token'].stdev:.2f}",
        "far-k1": f"{last['k1'].stdev:.2f}",
        "near-kl": f"{by_distance['k1'][0].kl:.3f}",
        "near-k1": f"{by_distance['k1'][0].stdev:.0f}",
        "near-k3-token": f"{by_distance['k3, token'][0].stdev:.2f}",
    }


def iid_numbers() -> dict[str, str]:
    """Tokens drawn alike until the end token: what a mean of per-sequence means is a mean of."""
    q, p = np.array([0.1, 0.45, 0.45]), np.array([0.05, 0.6, 0.35])
    token, end = float(q @ np.log(q / p)), q[0]
    sequence = token / end
    # E[(1/T)Σℓ_t] with T geometric: the end token once, the others T − 1 times.
    others = (token - end * np.log(q[0] / p[0])) / (1 - end)
    inverse = -end * np.log(end) / (1 - end)
    mean_of_means = others * (1 - inverse) + np.log(q[0] / p[0]) * inverse
    return {
        "sequence": f"{sequence:.4f}",
        "token": f"{token:.4f}",
        "mean-of-means": f"{mean_of_means:.4f}",
        "times": f"{mean_of_means / token:.1f}",
    }


def gradients_numbers() -> dict[str, str]:
    """Angles to the gradient of the sequence KL, on- and off-policy."""
    found = gradients()
    names = {
        "k1_loss": "k1 in the loss",
        "k2_loss": "k2 in the loss",
        "k3_loss": "k3 in the loss",
        "k3_token_ratio": "ρ·k3 in the loss",
        "k1_reward": "k1 in the reward",
        "k3_reward": "k3 in the reward",
        "kl_loss, k1": "`kl_loss`, k1",
        "kl_loss, rao_blackwell": "`kl_loss`, Rao-Blackwell",
    }
    places = [1, 3, 4]
    kls = [found.at("k1_loss")[place].kl for place in places]
    columns = (*(f"on, KL {kl:.2g}" for kl in kls), *(f"off, KL {kl:.2g}" for kl in kls), f"noise, KL {kls[1]:.2g}")
    rows = []
    for way, name in names.items():
        on, off = found.at(way), found.at(way, stale=True)
        angles = [_degrees(row.angle) for row in (*(on[i] for i in places), *(off[i] for i in places))]
        rows.append((name, *angles, f"{on[places[1]].variance:.3g}"))
    constant = found.constants[1]
    return {
        **_both(Table("", "", ("KL term", *columns), tuple(rows), right=columns)),
        "constant-best": f"{constant.best:.3f}",
        "constant-one": f"{constant.at_one / constant.at_best:.0f}",
    }


def ways_numbers() -> dict[str, str]:
    """Variance of every unbiased way to the gradient."""
    found = {(way, world): variance for way, world, variance in unbiased_ways()}
    worlds = tuple(dict.fromkeys(world for _, world in found))
    ways = dict.fromkeys(way for way, _ in found)
    rows = tuple((way, *(f"{found[way, world]:.3g}" for world in worlds)) for way in ways)
    return {"table": _block(Table("", "", ("way to ∇KL(q‖p)", *worlds), rows, right=worlds))}


def coefficients_numbers() -> dict[str, str]:
    """The bias of fitting λ on the batch it is used on."""
    found = coefficients()
    by_size = {(choice.way, choice.n): choice for choice in found.choices}
    ratio, fit, left = (
        {n: by_size[way, n] for n in (5, 20)}
        for way in ("J/χ², same batch", "least squares, same batch", "leave-one-out")
    )
    return {
        "kl": f"{found.kl:.4f}",
        "best": f"{found.best:.3f}",
        "ratio-bias": f"{100 * ratio[5].bias:.0f}%".replace("-", "−"),
        "fit-bias": f"{100 * fit[5].bias:+.1f}%",
        "left-gain": f"{left[20].gain:.0f}",
        "k3-gain": f"{by_size['1 (k3)', 20].gain:.0f}",
        "best-gain": f"{by_size['λ* = J/χ²', 20].gain:.0f}",
    }


def training_numbers() -> dict[str, str]:
    """What each KL term does to the KL that it is to control."""
    found = training()
    runs = [run for run in found.runs if run.beta == found.betas[0]]
    columns = ("reward", "exact KL, nats", "logged KL, nats", "shortfall")
    rows = tuple(
        (
            run.arm,
            f"{run.reward:.2f} ± {run.reward_stderr:.2f}",
            f"{run.kl:.2f} ± {run.kl_stderr:.2f}",
            f"{run.logged:.2f}",
            f"{100 * run.shortfall:.0f}%",
        )
        for run in runs
    )
    by_arm = {run.arm: run for run in runs}
    return {
        **_both(Table("", "", ("KL term", *columns), rows, right=columns)),
        "beta": f"{runs[0].beta:g}",
        "best-reward": f"{runs[0].best_reward:.2f}",
        "best-kl": f"{runs[0].best_kl:.2f}",
        "k3-reward-exact": f"{by_arm['k3 in the reward'].kl:.1f}",
        "k3-reward-logged": f"{by_arm['k3 in the reward'].logged:.1f}",
        "k2-loss-kl": f"{by_arm['k2 in the loss'].kl:.1f}",
    }


def theory_numbers() -> dict[str, str]:
    """Rao-Blackwell's two counterexamples: of the value and of the gradient."""
    value = _binary((0.5, 0.5, 0.99), (0.75, 0.5, 0.01))
    gradient = _binary((0.993, 0.0006, 0.0001), (0.02, 0.99, 0.03))
    reward, exact = (loss_moments(gradient, loss).variance for loss in (kb.SURROGATES["k1_reward"].fn, _rao_blackwell))
    return {
        "value-k1": f"{_variance(value, kb.K1):.3f}",
        "value-rb": f"{_variance(value, kb.RAO_BLACKWELL):.3f}",
        # Of one logit a prefix; a pair of softmax logits carries the same gradient twice.
        "gradient-k1": f"{reward / 2:.5f}",
        "gradient-rb": f"{exact / 2:.3f}",
    }


def compare_numbers() -> dict[str, str]:
    """What ``kullback compare`` prints first of the built-in pair."""
    from rich.console import Console

    console = Console(width=124, file=StringIO(), record=True)
    terminal.show(Document("", kb.compare().document().tables[:1]), console)
    lines = [line.rstrip() for line in console.export_text().strip().splitlines()]
    return {"table": "\n\n```\n" + "\n".join(lines) + "\n```\n\n"}


def _binary(policy: Iterable[float], reference: Iterable[float]) -> World:
    """Two tokens, twice: chances of token 1 at first, after token 0 and after token 1; eos never comes."""
    import torch

    q, p = (
        torch.tensor([[1 - c, c, 1e-300] for c in chances], dtype=torch.float64).log()
        for chances in (policy, reference)
    )
    return World(TreeLM(q.requires_grad_(), eos=2, horizon=2), TreeLM(p, eos=2, horizon=2))


def _variance(world: World, estimator: kb.Estimator) -> float:
    k, chance = to_numpy(world.summand(estimator, "token")), to_numpy(world.probability)
    return float(chance @ (k - chance @ k) ** 2)


def _rao_blackwell(q: Any, p: Any, mask: Any, token_kl: Any) -> Any:
    return kb.kl_loss(q, p, mask, objective=kb.REVERSE_KL, estimator=kb.RAO_BLACKWELL, token_kl=token_kl)


def beta_numbers() -> dict[str, str]:
    """What β weighs in each trainer's average, in both languages."""
    numbers, table = page_numbers.beta()
    return {**numbers, **_both(table)}


def floor_numbers() -> dict[str, str]:
    """What a bfloat16 head adds to a KL."""
    numbers, table = page_numbers.floors()
    return {**numbers, "table": _block(table)}


def mismatch_numbers() -> dict[str, str]:
    """The KLs of some mismatches, and what importance weights then do."""
    numbers, table = page_numbers.mismatch()
    return {**numbers, "table": _block(table)}


CHINESE = {
    "KL(q‖p), nats": "KL(q‖p)，nat",
    "estimator": "估计量",
    "bias/KL": "偏差/KL",
    "stdev/KL": "标准差/KL",
    "printed, bias / stdev": "原文，偏差 / 标准差",
    "horizon, tokens": "序列长度上限（token 数）",
    "k2, sequence": "k2，整条序列",
    "k3, sequence": "k3，整条序列",
    "k3, token": "k3，逐 token",
    "KL term": "KL 项",
    "no KL term": "没有 KL 项",
    "k1 in the loss": "损失里的 k1",
    "k2 in the loss": "损失里的 k2",
    "k3 in the loss": "损失里的 k3",
    "ρ·k3 in the loss": "损失里的 ρ·k3",
    "k1 in the reward": "奖励里的 k1",
    "k3 in the reward": "奖励里的 k3",
    "reward": "奖励",
    "exact KL, nats": "精确 KL，nat",
    "logged KL, nats": "日志里的 KL，nat",
    "shortfall": "差距",
    "how the KL term is averaged": "KL 项如何平均",
    "where": "哪里这样做",
    "KL term, nats": "KL 项，nat",
    "as strong in `kl_loss`": "`kl_loss` 中同样强的系数",
    "sum of a sequence, mean over sequences": "每条序列求和，再对序列平均",
    "mean over all tokens": "对所有 token 平均",
    "mean of each sequence, then over sequences": "先对每条序列平均，再对序列平均",
    "sum over the length limit": "求和后除以长度上限",
    "`kl_loss`; KL in the reward; `seq-mean-token-sum`": "`kl_loss`；奖励里的 KL；`seq-mean-token-sum`",
    "TRL `dapo`, `bnpo`; verl `token-mean`": "TRL `dapo`、`bnpo`；verl `token-mean`",
    "TRL `grpo`; verl `seq-mean-token-mean`": "TRL `grpo`；verl `seq-mean-token-mean`",
    "TRL `dr_grpo`; verl `seq-mean-token-sum-norm`": "TRL `dr_grpo`；verl `seq-mean-token-sum-norm`",
}
"""Words of the guide's tables."""

SETTINGS = {"on": "on-policy", "off": "off-policy", "noise": "噪声"}
"""What stands before a KL in the head of the table of gradients."""


def _block(table: Table) -> str:
    return f"\n\n{markdown.grid(table)}\n\n"


def _both(table: Table) -> dict[str, str]:
    """A table for the English and for the Chinese page."""
    rows = tuple(tuple(_chinese(text_of(cell)) for cell in row) for row in table.rows)
    columns, right = (tuple(map(_chinese, names)) for names in (table.columns, table.right))
    return {"table": _block(table), "table-zh": _block(Table("", "", columns, rows, right=right))}


def _chinese(text: str) -> str:
    """A cell of the guide's tables: known words, or a setting and its number (“on, KL 0.39”)."""
    setting, comma, number = text.partition(", KL ")
    known = SETTINGS.get(setting) if comma else None
    return f"{known}，KL {number}" if known else CHINESE.get(text, text)


def _degrees(angle: float) -> str:
    return "–" if np.isnan(angle) else "0°" if angle < 1e-4 else f"{angle:.0f}°" if angle >= 9.5 else f"{angle:.1f}°"


SOURCES = {
    source.name: source
    for source in (
        Source("gaussian", gaussian_numbers, lambda: gaussian().chart()),
        Source("language", language_numbers, lambda: language().chart()),
        Source("iid", iid_numbers),
        Source("lambda", coefficients_numbers, lambda: coefficients().chart()),
        Source("theory", theory_numbers),
        Source("beta", beta_numbers),
        Source("rounding", page_numbers.rounding),
        Source("floor", floor_numbers),
        Source("mismatch", mismatch_numbers),
        Source("zero", page_numbers.zero),
        Source("quantised", page_numbers.quantised),
        Source("compare", compare_numbers, slow=True),
        Source("ways", ways_numbers, slow=True),
        Source("gradients", gradients_numbers, lambda: gradients().chart(), slow=True),
        Source("training", training_numbers, lambda: training().chart(), slow=True),
    )
}


def refreshed(text: str, numbers: dict[str, dict[str, str]]) -> str:
    """A page with the marked numbers of some sources replaced.

    Raises:
        KeyError: a mark that no source knows.
    """

    def new(mark: re.Match[str]) -> str:
        known = numbers.get(mark["source"])
        if known is None:
            SOURCES[mark["source"]]
            return mark[0]
        return f"<!--={mark['source']}.{mark['key']}-->{known[mark['key']]}<!--/-->"

    return MARK.sub(new, text)


def main(names: list[str]) -> None:
    chosen = [SOURCES[name] for name in names or SOURCES]
    numbers = {}
    PICTURES.mkdir(exist_ok=True)
    for source in chosen:
        print(f"computing {source.name}", flush=True)
        numbers[source.name] = source.numbers()
        if source.chart is not None:
            draw(source.chart(), [PICTURES / f"{source.name}.svg"])
    for page in DOCS:
        text = page.read_text(encoding="utf-8")
        page.write_text(refreshed(text, numbers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
