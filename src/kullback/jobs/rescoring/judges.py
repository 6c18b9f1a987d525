"""The models that score rows: one, or two from whose distributions exact token KLs come too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from kullback.errors import InputError, ModelError
from kullback.jobs.plans import batch_rows
from kullback.jobs.rescoring.entries import Entry, Reading
from kullback.jobs.worker import check_mass
from kullback.models.opening import opened, opened_pair
from kullback.models.outside import Outside, outside_of, pair_notes
from kullback.models.pairs import Scores, gives_distributions, score, shared_vocab
from kullback.models.protocols import Scorer
from kullback.models.sampling import Sampling
from kullback.rollouts import Law, Model, law_of

COLUMN = {"policy": "logprobs", "reference": "ref_logprobs"}


@dataclass(frozen=True)
class Judges:
    """Models by the column that they fill.

    Attributes:
        models: one or two, by "logprobs" and "ref_logprobs".
        sampling: the law that is meant, of both.
        vocab: logits that they share; None where a model does not say.
        allow_outside_mass: whether one may give more than rounding to tokens that the other lacks.
        outside: what each gives to tokens that the other lacks, so far.
    """

    models: Mapping[str, Scorer]
    sampling: Sampling
    vocab: int | None
    allow_outside_mass: bool = False
    outside: dict[str, Outside] = field(default_factory=dict)

    @classmethod
    def of(
        cls, policy: Scorer | None, reference: Scorer | None, *, temperature: float, allow_outside_mass: bool
    ) -> Judges:
        """Of the models that were named.

        Raises:
            ModelError: their vocabularies differ.
        """
        named = {"logprobs": policy, "ref_logprobs": reference}
        models = {name: model for name, model in named.items() if model is not None}
        one = next(iter(models.values()))
        if policy is not None and reference is not None:
            vocab = shared_vocab(policy, reference)
        else:
            vocab = one.vocab if gives_distributions(one) else None
        return cls(models, Sampling(temperature), vocab, allow_outside_mass)

    @classmethod
    def named(
        cls, policy: object, reference: object, *, device: str, dtype: str, temperature: float, allow_outside_mass: bool
    ) -> Judges:
        """Of models that are loaded for it, one or two.

        Raises:
            InputError: one of them scores no tokens.
            ModelError: it cannot be loaded, or their vocabularies differ.
        """
        pair: list[Scorer | None]
        if policy is not None and reference is not None:
            pair = [*opened_pair(policy, reference, device=device, dtype=dtype)]
        else:
            both = (policy, reference)
            pair = [None if model is None else opened(model, device=device, dtype=dtype) for model in both]
        for model in pair:
            if model is not None and not isinstance(model, Scorer):
                raise InputError(
                    f"{model.name} draws tokens but scores none: name a model that is a kullback.models.Scorer"
                )
        return cls.of(*pair, temperature=temperature, allow_outside_mass=allow_outside_mass)

    @property
    def first(self) -> Scorer:
        """The model whose tokenizer reads texts."""
        return next(iter(self.models.values()))

    @property
    def exact(self) -> bool:
        """Whether exact token KLs come out."""
        return len(self.models) == 2 and all(gives_distributions(model) for model in self.models.values())

    def described(self) -> dict[str, tuple[Model, Law]]:
        """Each column's model and law, as a file says them."""
        law = law_of(self.sampling.temperature)
        return {name: (self._described(model), law) for name, model in self.models.items()}

    def _described(self, model: Scorer) -> Model:
        widths = [model.vocab for model in self.models.values() if gives_distributions(model)]
        cut = {"vocab": float(min(widths))} if len(widths) == 2 and widths[0] != widths[1] else {}
        return Model(model.name, self.sampling.settings | cut, model.dtype if gives_distributions(model) else None)

    def check(self, entry: Entry) -> None:
        """Refuse a row that a model cannot read.

        Raises:
            InputError: a token that one has no logit for, or more tokens than it reads.
        """
        whole = (*entry.prompt, *entry.completion)
        strange = next((t for t in whole if t < 0 or (self.vocab is not None and t >= self.vocab)), None)
        if strange is not None:
            if strange < 0:
                raise InputError(f"it has the token {strange}, but a token id is 0 or more")
            names = " and ".join(model.name for model in self.models.values())
            raise InputError(
                f"it has the token {strange}, but the vocabulary of {names} ends at {(self.vocab or 0) - 1}: another "
                "model's tokenizer wrote it"
            )
        context = min(model.context for model in self.models.values())
        if len(whole) > context:
            raise InputError(f"it has {len(whole)} tokens with its prompt, but the models read {context} in all")

    def batched(
        self, readings: Sequence[Reading], batch_size: int | Literal["auto"], heard: Callable[[Sequence[Reading]], None]
    ) -> list[dict[str, np.ndarray]]:
        """The columns of rows, in their order; those of like length share a forward pass, which is then heard of."""
        found: dict[int, dict[str, np.ndarray]] = {}
        order = sorted(range(len(readings)), key=lambda i: -len(readings[i]))
        while order:
            rows = batch_rows(batch_size, self.first, self.vocab, len(readings[order[0]]))
            batch, order = order[:rows], order[rows:]
            part = [readings[i] for i in batch]
            found |= zip(batch, self.scores(part), strict=True)
            heard(part)
        return [found[i] for i in range(len(readings))]

    def scores(self, readings: Sequence[Reading]) -> list[dict[str, np.ndarray]]:
        """The columns of some rows, in their order; each batch is one forward pass of each model.

        Raises:
            ModelError: a model gave what is no log-prob.
        """
        found: list[dict[str, np.ndarray]] = [{} for _ in readings]
        for side in ("policy", "reference"):
            at = [i for i, one in enumerate(readings) if one.drew == side]
            scored = [i for i in at if readings[i].completion]
            for i, columns in zip(scored, self._of([readings[i] for i in scored], COLUMN[side]), strict=True):
                found[i] = columns
            for i in set(at) - set(scored):
                found[i] = {name: np.zeros(0) for name in (*COLUMN.values(), "token_kl", "ref_mass")}
        for one, columns in zip(readings, found, strict=True):
            _check_numbers(one.place, columns)
        return found

    def _of(self, readings: Sequence[Reading], drew: str) -> list[dict[str, np.ndarray]]:
        if not readings:
            return []
        prompts, completions = [e.prompt for e in readings], [e.completion for e in readings]
        if len(self.models) == 1:
            ((name, model),) = self.models.items()
            return [{name: row} for row in model.logprobs(prompts, completions, self.sampling, drawn=False)]
        other = "ref_logprobs" if drew == "logprobs" else "logprobs"
        pair = self.models[drew], self.models[other]
        law = self.sampling
        scores = score(*pair, prompts, completions, vocab=self.vocab, sampling=law, ref_sampling=law, drawn=False)
        check_mass(pair, scores, allowed=self.allow_outside_mass)
        for name, columns in ((drew, [s.outside for s in scores]), (other, [s.ref_outside for s in scores])):
            self.outside[name] = self.outside.get(name, Outside()) + outside_of(columns)
        return [_columns(one, drew, other) for one in scores]

    def notes(self) -> Iterator[str]:
        """How the models were loaded, and what they give to tokens that the other lacks."""
        for model in self.models.values():
            yield from getattr(model, "notes", ())
        if len(self.models) < 2:
            return
        q, p = self.models["logprobs"], self.models["ref_logprobs"]
        yield from pair_notes(q, p)
        for name, model, other in (("logprobs", q, p), ("ref_logprobs", p, q)):
            note = self.outside.get(name, Outside()).note(model.name, other.name)
            if note is not None:
                yield f"{note}: its log-probs and token KLs are those given that a token is one that both have"
        if not self.exact:
            names = [model.name for model in (q, p) if not gives_distributions(model)]
            yield f"no exact token KLs, since {' and '.join(names)} gave log-probs only"


def _columns(found: Scores, drew: str, other: str) -> dict[str, np.ndarray]:
    columns = {drew: found.logprobs, other: found.ref_logprobs}
    return columns | {name: found.column(name) for name in ("token_kl", "ref_mass") if found.token_kl is not None}


def _check_numbers(place: str, columns: Mapping[str, np.ndarray]) -> None:
    for name, column in columns.items():
        if np.isnan(column).any():
            raise ModelError(f"{place}: a model gave nan where {name} was to be: its weights or its dtype do not hold")
