"""A policy, a reference and perhaps a behaviour policy whose every sequence is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from kullback.arrays import Array, namespace, stop_gradient, to_numpy
from kullback.errors import InputError
from kullback.estimators import Estimator
from kullback.oracle.tree import TreeLM
from kullback.targets import Place, Target


class World:
    """The judge of every formula: expectations by summing over all sequences, no sampling.

    Args:
        policy: q, the model that is trained, and what draws the sequences unless `behavior` is given.
        reference: p.
        behavior: μ, what draws the sequences.

    Raises:
        InputError: models over different trees.

    Example:
        (0.8, 0.2) against (0.5, 0.5):

        >>> import kullback as kb, numpy as np
        >>> from kullback.oracle import TreeLM, World
        >>> q, p = (TreeLM(np.log([[a, 1 - a]]), eos=0, horizon=1) for a in (0.8, 0.5))
        >>> world = World(q, p)
        >>> [round(float(x), 6) for x in (world.exact(kb.REVERSE_KL), world.value(kb.K3, "token"))]
        [0.192745, 0.192745]
    """

    def __init__(self, policy: TreeLM, reference: TreeLM, behavior: TreeLM | None = None) -> None:
        self.policy, self.reference = policy, reference
        self.sampler = policy if behavior is None else behavior
        self.on_policy = behavior is None
        trees = {(lm.vocab, lm.eos, lm.horizon) for lm in (policy, reference, self.sampler)}
        if len(trees) != 1:
            raise InputError(
                f"models over different trees came, (vocab, eos, horizon) = {sorted(trees)}: they must share one"
            )

    @cached_property
    def probability(self) -> Array:
        """Probability of every sequence under what draws them; no gradient flows."""
        return namespace(self.policy.logits).exp(stop_gradient(self.sampler.sequence_logprobs))

    @cached_property
    def token_kl(self) -> Array:
        """Exact KL(q_t‖p_t) at every token's prefix, (sequences, horizon), 0 where masked."""
        xp = namespace(self.policy.logits)
        q, p = self.policy.log_distributions, self.reference.log_distributions
        mass = xp.exp(q)
        return self.policy.token_rows(xp.sum(mass * xp.where(mass > 0, q - p, 0.0 * mass), axis=-1))

    def outcomes(self, place: Place) -> tuple[Array, Array, Array]:
        """Weights (n,), policy and reference log-distributions (n, outcomes): whole sequences or next tokens."""
        xp = namespace(self.policy.logits)
        if place == "sequence":
            q, p = self.policy.sequence_logprobs, self.reference.sequence_logprobs
            return 0.0 * stop_gradient(q[:1]) + 1.0, q[None, :], p[None, :]
        walker = self.policy if place == "state" else self.sampler
        weights = xp.exp(stop_gradient(walker.prefix_logprobs))
        return weights, self.policy.log_distributions, self.reference.log_distributions

    def exact(self, target: Target) -> Array:
        """The exact value of a target, in nats; differentiable where the logits are."""
        return target.exact(self)

    def expectation(self, function: Callable[[Array, Array, Array], Array]) -> Array:
        """E[f(logprobs, ref_logprobs, mask)], f's result (sequences,) or (sequences, horizon), summed by the mask.

        Example:
            >>> import numpy as np
            >>> from kullback.oracle import TreeLM, World
            >>> lm = TreeLM(np.zeros((2, 2)), eos=0, horizon=2)
            >>> float(World(lm, lm).expectation(lambda q, p, mask: mask * 1.0))  # mean length
            1.5
        """
        return self._mean(self._by_sequence(function))

    def variance(self, function: Callable[[Array, Array, Array], Array]) -> Array:
        """Var[f(logprobs, ref_logprobs, mask)] of one sequence."""
        values = self._by_sequence(function)
        return self._mean((values - self._mean(values)) ** 2)

    def value(self, estimator: Callable[[Array], Array], level: str) -> Array:
        """Exact expectation of an estimator at a level, on-policy."""
        return self._mean(self.summand(estimator, level))

    def summand(self, estimator: Callable[[Array], Array], level: str) -> Array:
        """What an estimator makes of every sequence, (sequences,)."""
        xp = namespace(self.policy.logits)
        mask = self.policy.constant(self.policy.mask)
        # A fitted estimator has no value of its own: what its controls are added to is taken.
        function = estimator.fn if isinstance(estimator, Estimator) else estimator
        if isinstance(estimator, Estimator) and estimator.reads == "token_kl":
            x = self.token_kl
        else:
            x = self.policy.logprobs - self.reference.logprobs
        if level == "sequence":
            return function(xp.sum(x, axis=-1))
        values = function(x)
        return xp.sum(xp.where(mask, values, 0.0 * values), axis=-1)

    def sample(self, rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        """n sequences as a batch for `kullback.estimate`: logprobs, ref_logprobs, mask, token_kl."""
        rows = self.sampler.sample(rng, n)
        columns = {
            "logprobs": self.policy.logprobs,
            "ref_logprobs": self.reference.logprobs,
            "token_kl": self.token_kl,
        }
        if not self.on_policy:
            columns["behavior_logprobs"] = self.sampler.logprobs
        return {"mask": self.policy.mask[rows], **{name: to_numpy(a)[rows] for name, a in columns.items()}}

    def features(self) -> dict[str, np.ndarray]:
        """What `kullback.estimate` makes token values of, for every sequence, (sequences, horizon, numbers).

        `state` is q of the next tokens, `deviation` each token less its mean under q, the end token's first; on-policy.

        Example:
            >>> import numpy as np
            >>> from kullback.oracle import TreeLM, World
            >>> lm = TreeLM(np.zeros((2, 2)), eos=0, horizon=2)
            >>> World(lm, lm).features()["deviation"][0, 0]  # the end token, drawn with probability a half
            array([0.5])
        """
        policy = self.policy
        q = np.exp(to_numpy(policy.log_distributions))[policy.places]
        order = [policy.eos, *(token for token in range(policy.vocab) if token != policy.eos)]
        deviation = np.eye(policy.vocab)[policy.tokens] - q
        counted = policy.mask[..., None]
        # The last of them is what the others leave.
        return {"state": np.where(counted, q, 0.0), "deviation": np.where(counted, deviation[..., order[:-1]], 0.0)}

    def _by_sequence(self, function: Callable[[Array, Array, Array], Array]) -> Array:
        xp = namespace(self.policy.logits)
        mask = self.policy.constant(self.policy.mask)
        values = function(self.policy.logprobs, self.reference.logprobs, mask)
        if values.ndim == 1:
            return values
        return xp.sum(xp.where(mask, values, 0.0 * values), axis=-1)

    def _mean(self, values: Array) -> Array:
        xp = namespace(values)
        possible = self.probability > 0
        return xp.sum(self.probability * xp.where(possible, values, 0.0 * self.probability))
