"""002 and 003: what “Re-understanding KL Approximation” says of estimators and of their place in RL, in its order.

One article in English and in Chinese. R5 and R33 are left out: they define a good estimator and the variance.
"""

from __future__ import annotations

from kullback.claims.sources import RETHINK, RETHINK_ZH
from kullback.claims.statements.record import Statement


def said(number: str, says: str, english: str, chinese: str, *claims: str) -> Statement:
    """A statement of both versions, or of the one that is not empty."""
    quotes = ((RETHINK, english), (RETHINK_ZH, chinese))
    return Statement(number=number, says=says, quotes=tuple(q for q in quotes if q[1]), claims=claims)


STATEMENTS = (
    said("R1", "KL = Σ q log(q/p) = E_q[log q/p]", "As the formula shows", "如上式所示", "schulman-k1-unbiased"),
    said(
        "R2",
        "The trick is the sample mean of log(q/p) in place of the expectation",
        "there’s a coding trick people often use: approximate KL by the sample mean of",
        "代码中常用的一个技巧是",
        "002-schulman-trick",
    ),
    said(
        "R3",
        "½(log r)² is good though biased",
        "why this expression can be a good (albeit biased) estimator for KL",
        "为什么这个表达式是一个不错（尽管有偏）的 KL 估计器",
        "schulman-k2-second-order",
    ),
    said(
        "R4",
        "It can be made unbiased and stay of low variance",
        "how to make it unbiased while keeping its low variance",
        "如何在保持其低方差的同时使它无偏",
        "schulman-k3-unbiased",
        "schulman-k3-quieter",
    ),
    said("R6", "k1 is unbiased", "We know one unbiased estimator", "我们知道一个无偏估计器", "schulman-k1-unbiased"),
    said(
        "R7",
        "Half the values of k1 are negative if nothing is assumed of p and q, hence its variance is high",
        "roughly “half” the sample values can be negative (if we assume no prior structure on $p$ and $q$) … hence "
        "high variance",
        "它的一半的样本是负的（假设我们在没有任何对 $p$ 和 $q$ 的先验知识下），所以他的方差很高",
        "002-half-negative-without-structure",
        "schulman-half-negative",
        "schulman-noisy-as-half-negative",
        "000-k1-high-variance",
    ),
    said(
        "R8",
        "KL = E_q[log r], r = q/p",
        "Then the original KL can be written as",
        "那么原始的 KL 散度的估计可以写为",
        "002-two-signs",
    ),
    said("R9", "k2 has the lower variance", "It has lower variance, but", "它的方差低", "schulman-k2-quieter"),
    said("R10", "and is biased", "but it’s biased", "但有偏", "001-k2-biased"),
    said(
        "R11",
        "k2 is a non-negative distance at every sample",
        "each sample gives a nonnegative “distance” between $p$ and $q$",
        "每个样本都给出了 $p$ 和 $q$ 之间的“距离”，因而它总是正的",
        "002-k2-nonnegative",
    ),
    said(
        "R12",
        "In practice its variance is much lower than k1's",
        "Empirically, $k_2$ really does have much lower variance than $k_1$",
        "$k_2$ 的方差确实远低于 $k_1$",
        "schulman-k2-quieter",
    ),
    said(
        "R13",
        "Its bias can be quite small; in the Chinese, much smaller too",
        "and the bias can be quite small",
        "而且偏差也小了很多很多",
        "002-k2-bias-small",
        "003-k2-bias",
    ),
    said(
        "R14",
        "The f-divergence view explains the drop of the variance",
        "As for why $k_2$ enjoys such a variance drop … the original post uses an $f$-divergence view",
        "至于为什么 $k_2$ 比 $k_1$ 的方差要低很多，原文中，利用f-散度给出了一个分析性的解释",
        "002-f-divergence-explains-variance",
    ),
    said(
        "R15",
        "A control variate of mean zero, negatively correlated, lowers the variance",
        "add something whose expectation is zero and is negatively correlated with it to reduce variance",
        "加上一个期望为零、且与其负相关的项，这样就能减小方差",
        "schulman-negative-correlation",
    ),
    said(
        "R16",
        "r − 1 has mean zero, r = q/p",
        "A very convenient zero-mean quantity here is $r-1$",
        "我们能够轻而易举得到的一个期望为0的量是 $r-1$",
        "002-flipped-mean-zero",
    ),
    said(
        "R17",
        "−log r + λ(r − 1) is unbiased for every λ",
        "is still an unbiased KL estimator",
        "都是无偏的 KL 估计器",
        "002-ratio-flipped",
    ),
    said(
        "R18",
        "The best λ is not easy to get",
        "but the closed-form depends on $p$ and $q$ and isn’t easy to get",
        "但结果依赖于 $p, q$，难以解析求出",
        "schulman-no-closed-form",
    ),
    said(
        "R19",
        "λ = 1 makes it non-negative",
        "if we pick $\\lambda=1$, the expression is guaranteed nonnegative",
        "若取 $\\lambda = 1$，上式总为正",
        "schulman-coefficient-one",
    ),
    said(
        "R20",
        "It is the gap between log and its tangent",
        "the vertical gap between $\\log(x)$ and its tangent",
        "我们其实是在测量 $\\log(x)$ 与其切线的垂直距离",
        "schulman-k3-nonnegative",
    ),
    said("R21", "k3 is never negative", "which is always nonnegative", "所以它总是正的", "schulman-k3-nonnegative"),
    said(
        "R22",
        "k3 is where GRPO differs from PPO",
        "GRPO differs from PPO in how KL is estimated (PPO uses $k_1$)",
        "$k_3$ 正是 GRPO 在 KL 散度估计上区别于 PPO 的一大特点 （PPO 使用的是 $k_1$）",
        "002-k3-is-the-difference",
    ),
    said(
        "R23",
        "In PPO and GRPO the KL is added to the loss",
        "we often tack a KL divergence term onto the loss",
        "我们经常会在 loss 里加一个 KL 散度",
        "002-kl-in-the-loss",
    ),
    said(
        "R24",
        "The KL is between the old and the new policy and keeps the new one near",
        "to keep the new policy from drifting too far from the old one",
        "用来约束新策略（policy）不要偏离旧策略太多",
        "002-old-policy-holds-it",
        "002-old-and-new-in-the-kl",
    ),
    said(
        "R25",
        "KL[p, q] from samples of q",
        "draw $x$ from some distribution (usually $q$, the old policy), and use those samples to approximate KL",
        "从某个分布（通常是 $ q $，即旧策略）采样一些 $ x $，用这些样本来近似 KL",
        "002-direction",
    ),
    said(
        "R26",
        "One token is a sum over 50,000 terms, which is impractical",
        "even computing the KL for a single token means summing over 50,000 actions",
        "即便只计算一个 token 的 KL，都要对这 50,000 个动作求和",
        "001-vocabulary-intractable",
    ),
    said(
        "R27",
        "Sequences: exponential",
        "so the space blows up exponentially, which is completely impractical",
        "这个空间就会是指数级的，因而根本不可行",
        "002-sampling-needed",
    ),
    said(
        "R28",
        "Only log-probs are kept, to save memory and transfer",
        "we only keep the log-probs of the tokens actually generated along the trajectory, to save GPU memory and I/O",
        "只保存了生成路径上选中的 token 的 log-prob。这是为了节省显存和 I/O 开销",
        "002-logprobs-save-memory",
    ),
    said(
        "R29",
        "So one has to sample",
        "So we have to use **Monte Carlo sampling**",
        "因此我们只能用",
        "002-sampling-needed",
    ),
    said("R30", "k1 = −log r, r = q/p", "$k_1(x) = -\\log r$", "$k_1(x) = -\\log r$", "002-two-signs"),
    said(
        "R31",
        "The recipe: r = q/p, average k3",
        "That’s the approximate KL value, standing in for the true KL",
        "这就是 KL 的近似值，用它替代真实 KL",
        "002-ratio-flipped",
    ),
    said(
        "R32a",
        "With an estimator the amount of computation is huge",
        "",
        "使用 estimator 后计算量其实是巨大的",
        "003-estimator-cost",
    ),
    said(
        "R32b",
        "With an estimator the amount of computation is much smaller",
        "with an estimator, the computational load is much smaller than doing the full sum",
        "",
        "002-estimator-cheaper",
    ),
)
