"""``formulas`` in Triton: what the kernels compute of a tile that is in registers."""

from __future__ import annotations

import triton
import triton.language as tl

# The functions that triton compiles have as many arguments as they have, and no annotations: a kernel takes pointers
# and numbers, not records, and calls its helpers with what is in registers.


@triton.jit
def read(start, columns, row_stride, row, offsets, temperature):
    """The tile's logits over the temperature, in float32; −inf beyond the columns."""
    z = tl.load(start + row * row_stride + offsets, mask=offsets < columns, other=float("-inf"))
    return z.to(tl.float32) / temperature


@triton.jit
def log_sum(z):
    """The maximum (0 where nothing is finite) and log Σe^z relative to it."""
    largest = tl.max(z, axis=0)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    return shift, tl.log(tl.sum(tl.exp(z - shift), axis=0).to(tl.float64))


@triton.jit
def near_gap(x):
    """e^x − 1 − x for |x| < 0.5, by its series."""
    # Up to x¹⁰, for |x| < 0.5 instead of ``formulas.SERIES_BELOW``: it errs by 1e-10 of the value, and the kernels
    # wait for memory, not for three multiplications more.
    series = 1.0 + x * (1 / 10)
    series = 1.0 + x * (1 / 9) * series
    series = 1.0 + x * (1 / 8) * series
    series = 1.0 + x * (1 / 7) * series
    series = 1.0 + x * (1 / 6) * series
    series = 1.0 + x * (1 / 5) * series
    series = 1.0 + x * (1 / 4) * series
    series = 1.0 + x * (1 / 3) * series
    return 0.5 * x * x * series


@triton.jit
def exp_gap(x):
    """e^x − 1 − x."""
    return tl.where(tl.abs(x) < 0.5, near_gap(x), tl.exp(x) - 1.0 - x)


@triton.jit
def expm1(x):
    """e^x − 1."""
    return tl.where(tl.abs(x) < 0.5, x + exp_gap(x), tl.exp(x) - 1.0)


@triton.jit
def gap(a, b, log_ratio):
    """``formulas.gap``."""
    mass = tl.exp(a)
    near = log_ratio > -1.0
    close = mass * exp_gap(tl.where(near, -log_ratio, 0.0))
    far = tl.exp(b) - mass + tl.where(mass > 0.0, mass * log_ratio, 0.0)
    return tl.where(near, close, far)


@triton.jit
def wide_gap(a, b):
    """``formulas.gap`` of two float64 scalars."""
    mass = tl.exp(a)
    x = b - a
    series = 1.0 + x / 6 * (1.0 + x / 7 * (1.0 + x / 8 * (1.0 + x / 9)))
    series = 0.5 * x * x * (1.0 + x / 3 * (1.0 + x / 4 * (1.0 + x / 5 * series)))
    close = mass * tl.where(tl.abs(x) < 0.1, series, tl.exp(tl.where(x < 1.0, x, 0.0)) - 1.0 - x)
    far = tl.exp(b) - mass - tl.where(mass > 0.0, mass * x, 0.0)
    return tl.where(x < 1.0, close, far)


@triton.jit
def log_add(a, b):
    """log(e^a + e^b)."""
    largest = tl.maximum(a, b)
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    return shift + tl.log(tl.exp(a - shift) + tl.exp(b - shift))


@triton.jit
def finite(total):
    """A normaliser that may be subtracted: 0 where there is no mass."""
    return tl.where(total == float("-inf"), 0.0, total)


@triton.jit
def logprobs_of(z, normaliser):
    """``formulas.logprobs_of``."""
    coarse = normaliser.to(tl.float32)
    return (z - coarse) - (normaliser - coarse).to(tl.float32)


@triton.jit
def log_distributions(q, p, lq, lp):
    """log q, log p and log q/p, the last from the logits' own difference, which rounds less."""
    coarse = (lq - lp).to(tl.float32)
    fine = (lq - lp - coarse).to(tl.float32)
    shifted = tl.where(tl.abs(lq) > tl.abs(lp), (q - coarse) - p, q - (p + coarse))
    log_ratio = tl.where(tl.abs(coarse) < 16.0, (q - p) - coarse, shifted) - fine
    return logprobs_of(q, lq), logprobs_of(p, lp), log_ratio


@triton.jit
def from_difference(z, d, lq, lp):
    """log q, log p and log q/p, the second block holding z_q − z_p."""
    coarse = (lq - lp).to(tl.float32)
    fine = (lq - lp - coarse).to(tl.float32)
    log_ratio = (d - coarse) - fine
    a = logprobs_of(z, lq)
    return a, a - log_ratio, log_ratio


@triton.jit
def mass_times(mass, x):
    """``formulas._mass_times``."""
    return tl.where(mass > 0.0, mass * x, 0.0)


@triton.jit
def log1p(y):
    """log(1 + y): Kahan's quotient takes the rounding of 1 + y out again."""
    w = 1.0 + y
    return tl.where(w == 1.0, y, tl.log(w) * y / tl.where(w == 1.0, 1.0, w - 1.0))


@triton.jit
def mixture(a, b, log_ratio, log_keep, log_skew):
    """``formulas._mixture``."""
    close = tl.abs(log_ratio) < 1.0
    x = tl.where(close, -log_ratio, 0.0)
    m = log_add(a + log_keep, b + log_skew)
    return m, tl.where(close, log1p(tl.exp(log_skew) * expm1(x)), m - a)


@triton.jit
def terms(a, b, log_ratio, log_keep, log_skew, KIND: tl.constexpr):
    """``Divergence.terms`` of ``formulas``."""
    mass = tl.exp(a)
    if KIND == "kl":
        other = tl.exp(b)
        close = tl.abs(log_ratio) < 1.0
        below = tl.where(close, other * expm1(tl.where(close, log_ratio, 0.0)), mass - other)
        return gap(a, b, log_ratio), mass_times(mass, log_ratio), -below
    m, above = mixture(a, b, log_ratio, log_keep, log_skew)
    of_b = tl.where(tl.abs(log_ratio) < 1.0, -log_ratio - above, b - m)
    if KIND == "skewed":
        skew = tl.exp(log_skew)
        share = mass_times(mass, skew * expm1(of_b))
        return gap(a, m, -above), share - mass_times(mass, above), -skew * mass_times(tl.exp(b), expm1(-above))
    d = 0.5 * (gap(a, m, -above) + gap(b, m, of_b))
    return d, -0.5 * mass_times(mass, above), 0.5 * mass_times(tl.exp(b), of_b)


@triton.jit
def around_the_mean(z, d, lq):
    """``formulas.difference_statistics``: the reference's normaliser, and the KL, of a tile; inf where it overflows."""
    a = logprobs_of(z, finite(lq))
    mass = tl.exp(a)
    mean = tl.sum(mass_times(mass, d), axis=0).to(tl.float64) / tl.sum(mass, axis=0).to(tl.float64)
    coarse = mean.to(tl.float32)
    c = (d - coarse) - (mean - coarse).to(tl.float32)
    value = log1p(tl.sum(gap(a, a - c, c), axis=0).to(tl.float64))
    return lq - (mean - value), value
