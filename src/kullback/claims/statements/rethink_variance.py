"""002 and 003: what “Re-understanding KL Approximation” says of the variance of estimators, in its order.

R35 is left out: it says what a high variance means.
"""

from __future__ import annotations

from kullback.claims.statements.rethink import said

STATEMENTS = (
    said(
        "R34",
        "Unbiased: right with infinitely many samples",
        "with infinitely many samples, its mean equals the true KL",
        "一个无偏的估计器，是指在无限多样本下，它的均值等于真实 KL",
        "002-unbiased-at-infinity",
    ),
    said(
        "R36",
        "A noisy KL makes the loss and so the gradients noisy",
        "it makes the loss noisy, which in turn makes gradients noisy",
        "就会导致 loss 抖动，进而导致梯度抖动",
        "002-value-noise-is-gradient-noise",
    ),
    said("R37", "and training unstable", "and training unstable", "训练不稳定", "002-variance-unstable-training"),
    said(
        "R38",
        "Without prior constraints half of k1 is positive, half negative",
        "without prior constraints on $p$ and $q$, half the samples will have one bigger than the other",
        "由于 $p$ 和 $q$ 在无先验知识的条件下，采样出来的样本值总是一半比对方大，一半比对方小",
        "002-half-negative-without-structure",
        "schulman-half-negative",
    ),
    said(
        "R39",
        "The change of sign is not the only cause of the variance",
        "sign-flipping alone is not the sole reason for high variance",
        "正负跳变本身并不是导致方差大的唯一原因",
        "002-sign-flips-are-not-the-cause",
    ),
    said(
        "R40",
        "p log(p/q) changes sign too",
        "is also sometimes positive and sometimes negative",
        "也是一半是正一半是负",
        "002-integrand-changes-sign",
    ),
    said(
        "R41",
        "The expectation is never negative while the integrand changes sign",
        "The expectation is **guaranteed nonnegative**, but the integrand",
        "这个期望是**必然非负**",
        "002-integrand-changes-sign",
        "000-always-positive",
    ),
    said(
        "R42",
        "The cause is a heavy tail",
        "The real reason is that $k_1$’s value distribution is often wide (heavy-tailed)",
        "而是因为 $k_1$ 的取值分布通常很宽（heavy-tailed）",
        "002-heavy-tails",
    ),
    said(
        "R43",
        "Where p is tiny, the log-ratio is huge, positive or negative",
        "if $p(x)$ is tiny for some sample, then $\\log\\frac{q}{p}$ can be huge (positive or negative)",
        "可以变得非常大（正或负）",
        "002-tiny-p-both-signs",
    ),
    said(
        "R44",
        "Cancellation means that more samples are needed",
        "cancellation means you need more samples to converge to the true mean",
        "正负抵消让你需要更多样本才能收敛到真实均值",
        "002-cancellation-needs-samples",
    ),
    said(
        "R45",
        "k2 has no cancellation, but this introduces bias",
        "is always positive, so there’s no cancellation, but this introduces bias",
        "永远为正，去掉了正负抵消的可能，因为带来了偏差",
        "002-positivity-brings-bias",
    ),
    said(
        "R46",
        "Squaring smooths and so reduces the variance",
        "squaring also smooths the magnitude, reducing variance",
        "但是引入了平方，使得数值变得更平滑，使方差下降",
        "002-squaring-smooths",
    ),
    said(
        "R47",
        "k3's control lowers the variance and keeps it unbiased",
        "lowering variance while keeping unbiasedness",
        "在保留无偏性的同时降低了方差",
        "schulman-k3-quieter",
        "schulman-k3-unbiased",
    ),
    said(
        "R48",
        "k1 jumps when the batch is small or the models are far apart",
        "the batch is small or the distributions are far apart, the KL estimate will jump around",
        "当 batch 小、分布差距大时，KL 估计值会很抖动",
        "002-k1-jumps-far-apart",
    ),
    said(
        "R49",
        "The coefficient of the penalty becomes unstable",
        "That makes the KL-penalty coefficient unstable",
        "同时会使 KL-penalty 系数调节不稳",
        "002-coefficient-unstable",
    ),
    said(
        "R50",
        "k2 and k3 are steadier then, not ruled by a few extremes",
        "makes each sample’s KL contribution steadier, less likely to be dominated by a handful of extreme samples",
        "batch 中的每个样本对 KL 的贡献更稳定，不容易被少数极端样本主导",
        "002-steadier-far-apart",
    ),
    said(
        "R51",
        "E_q[p/q − 1] = 0",
        "where $h(x) = r - 1$, and under $x\\sim q$ its expectation is",
        "其中 $h(x) = r - 1$，在 $x\\sim q$ 下的期望是",
        "000-control-mean-zero",
    ),
    said(
        "R52",
        "So k3 has k1's expectation, the KL",
        "This explains why $k_3$’s expectation equals $k_1$’s expectation, and equals the KL",
        "这就解释了为什么 $k_3$ 的期望等于 $k_1$ 的期望，也等于 KL",
        "schulman-k3-unbiased",
    ),
    said(
        "R53",
        "r − 1 and −log r are highly, negatively correlated",
        "are numerically highly correlated",
        "在数值上高度相关",
        "002-highly-correlated",
        "schulman-negative-correlation",
    ),
    said(
        "R54",
        "k3 is tighter in range and therefore of lower variance",
        "what’s left in $k_3$ is tighter in range, always positive, and therefore lower in sample variance",
        "抵消之后剩下的 $k_3$，取值范围收紧，且全为正值，最终会导致样本方差下降",
        "002-k3-tighter",
    ),
)
