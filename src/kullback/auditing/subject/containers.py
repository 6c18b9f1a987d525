"""What stands for a trainer's objects: a batch that is asked for its columns by name, a tiny model, a configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from kullback.auditing.subject.naming import column_of

if TYPE_CHECKING:
    from kullback.auditing.subject.tensors import Tensor

BATCHES = ("inputs", "batch", "batches", "data", "sample", "samples", "micro_batch", "experience", "rollouts")
"""Parameters that take a whole batch."""

MODELS = {
    "model": "policy",
    "policy_model": "policy",
    "actor_model": "policy",
    "student_model": "policy",
    "ref_model": "reference",
    "reference_model": "reference",
    "teacher_model": "reference",
}
"""Parameters that take a model, and whose."""

PADDING_ID = -100
"""What token ids hold in padding for a function that asks for a padding id; 0, the end's, for others."""

SPECIAL = ("input_ids", "attention_mask", "labels", "prompt_ids", "prompt_mask", "num_items_in_batch", "num_tokens")
"""What a batch has of the whole sequence: a prompt of one token, and the completion."""


class Batch(Mapping[str, Any]):
    """A batch whose columns are found by the names that a function asks for, as a dict and as an object."""

    def __init__(self, given: Mapping[str, Any], asked: dict[str, str]) -> None:
        self._given, self._asked = given, asked

    def __getitem__(self, name: str) -> Any:
        special = self._special(name)
        if special is not None:
            return special
        column = self._asked.get(name) or column_of(name)
        if column is None or column not in self._given:
            raise KeyError(name)
        self._asked[name] = column
        return self._given[column]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the batch has no {name!r} here: no rule says which column that is") from None

    def __contains__(self, name: object) -> bool:
        try:
            self[str(name)]
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)

    def get(self, key: str, default: Any = None) -> Any:
        """A column, or what stands for a missing one."""
        try:
            return self[key]
        except KeyError:
            return default

    def pop(self, key: str, default: Any = None) -> Any:
        """The same: nothing is taken out of an exact world."""
        return self.get(key, default)

    def to(self, *_: object, **__: object) -> Batch:
        """The same, on the device that it is on."""
        return self

    def model(self, whose: str) -> Model:
        """A tiny model whose log-probs are the world's."""
        return Model(self._given, whose, self._asked)

    def _special(self, name: str) -> Any:
        """What has a token of the prompt before the completion."""
        import torch

        if name not in SPECIAL:
            return None
        mask = self._given["mask"]
        first = torch.ones_like(mask[:, :1])
        self._asked[name] = "tokens" if name != "attention_mask" else "mask"
        if name == "attention_mask":
            return torch.cat([first, mask], -1).long()
        if name == "prompt_ids":
            return torch.ones_like(mask[:, :1]).long()
        if name == "prompt_mask":
            return first.long()
        tokens = self._given["tokens"]
        if name == "input_ids":
            return torch.cat([torch.ones_like(tokens[:, :1]), tokens], -1)
        if name == "labels":
            return torch.cat([torch.full_like(tokens[:, :1], -100), tokens.masked_fill(~mask.bool(), -100)], -1)
        return mask.sum()


class Model:
    """A model of one world: called on token ids, it gives the logits of the next token at every place."""

    training = True

    def __init__(self, given: Mapping[str, Any], whose: str, asked: dict[str, str]) -> None:
        self._given, self._whose, self._asked = given, whose, asked
        self.config = SimpleNamespace(vocab_size=given["log_distributions"].shape[-1])
        self.device = given["logprobs"].device

    def __call__(self, input_ids: Tensor | None = None, *_: object, **__: object) -> SimpleNamespace:
        """Logits of the places of `input_ids`: with the prompt's token before the completion, or without."""
        import torch

        column = "log_distributions" if self._whose == "policy" else "ref_log_distributions"
        self._asked[f"{self._whose} model"] = column
        logits = self._given[column]
        width = logits.shape[1] + 1 if input_ids is None else input_ids.shape[1]
        if width > logits.shape[1]:
            logits = torch.cat([logits, torch.zeros_like(logits[:, : width - logits.shape[1]])], 1)
        return SimpleNamespace(logits=logits, loss=None)

    def forward(self, input_ids: Tensor | None = None, *_: object, **__: object) -> SimpleNamespace:
        """The same."""
        return self(input_ids)

    def eval(self) -> Model:
        """The same: it has no dropout."""
        return self

    def train(self, mode: bool = True) -> Model:
        """The same."""
        return self


class Config(SimpleNamespace):
    """An object whose attributes were given one by one: ``--set cfg.beta=0.04``."""

    def __getitem__(self, name: str) -> object:
        return getattr(self, name)

    def __contains__(self, name: str) -> bool:
        return name in vars(self)

    def get(self, name: str, default: object = None) -> object:
        """An attribute, or what stands for a missing one."""
        return vars(self).get(name, default)

    def having(self, name: str, value: object) -> Config:
        """A copy with another value, ``algorithm.beta`` in an object of it."""
        first, _, rest = name.partition(".")
        inner = vars(self).get(first)
        return Config(
            **{**vars(self), first: inner.having(rest, value) if rest and isinstance(inner, Config) else value}
        )

    def flat(self) -> Iterator[tuple[str, object]]:
        """Every attribute, those of inner objects by ``inner.name``."""
        for name, value in vars(self).items():
            if isinstance(value, Config):
                yield from ((f"{name}.{inner}", held) for inner, held in value.flat())
            else:
                yield name, value

    def __repr__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.flat())

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"the object has no {name!r} here: give it with --set NAME.{name}=VALUE")


def config(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with those of one object put together: cfg.beta and cfg.kind become cfg."""
    found: dict[str, object] = {}
    inside: dict[str, dict[str, object]] = {}
    for name, value in settings.items():
        first, _, rest = name.partition(".")
        if rest:
            inside.setdefault(first, {})[rest] = value
        else:
            found[name] = value
    return {**found, **{name: Config(**config(values)) for name, values in inside.items()}}
