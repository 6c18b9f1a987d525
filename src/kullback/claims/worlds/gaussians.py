"""Two Gaussians, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gaussian:
    """q = N(0, 1) against p = N(shift, scale²), in closed form; ℓ = ax² + bx + c."""

    shift: float
    scale: float = 1.0

    @property
    def kl(self) -> float:
        """KL(q‖p)."""
        return math.log(self.scale) + (1 + self.shift**2) / (2 * self.scale**2) - 0.5

    @property
    def forward_kl(self) -> float:
        """KL(p‖q)."""
        return -math.log(self.scale) + (self.scale**2 + self.shift**2) / 2 - 0.5

    @property
    def var_k1(self) -> float:
        """Var[ℓ] = 2a² + b²."""
        return (1 / self.scale**2 - 1) ** 2 / 2 + self.shift**2 / self.scale**4

    @property
    def chi2(self) -> float:
        """χ²(p‖q) = Var[r], infinite from σ² = 2 on."""
        room = 2 - self.scale**2
        if room <= 0:
            return math.inf
        return math.exp(self.shift**2 / room) / (self.scale * math.sqrt(room)) - 1

    @property
    def var_k3(self) -> float:
        """Var[k1] + χ² − 2J."""
        return self.var_k1 + self.chi2 - 2 * (self.kl + self.forward_kl)

    @property
    def mean_k2(self) -> float:
        """½E[ℓ²]."""
        return (self.var_k1 + self.kl**2) / 2

    @property
    def var_k2(self) -> float:
        """Var[½ℓ²] where the scales are equal and ℓ ~ N(μ²/2, μ²)."""
        return self.shift**4 / 2 + self.shift**6 / 4

    @property
    def best_coefficient(self) -> float:
        """λ* = J/χ²."""
        return (self.kl + self.forward_kl) / self.chi2

    @property
    def least_variance(self) -> float:
        """Var[k1] − J²/χ²."""
        return self.var_k1 - (self.kl + self.forward_kl) ** 2 / self.chi2
