"""A plan and the models that it is for, out of what was asked: nothing is drawn yet, and what cannot be is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from kullback.errors import InputError
from kullback.jobs.plans import Laws, Plan, Role, batch_rows, batches
from kullback.jobs.prompts import Told, fitted
from kullback.jobs.worker import Models, check_mass, check_tokens
from kullback.models.opening import opened, opened_pair
from kullback.models.pairs import check_same_tokens, gives_distributions, score, shared_vocab
from kullback.models.protocols import Prompt, Sampler, Scorer
from kullback.models.servers.address import is_address
from kullback.models.vllm_engine import ENGINE, VLLMEngine

if TYPE_CHECKING:
    from kullback.models.bases import Basis

PROBED = 4
"""Prompts on which it is seen, before anything is sampled, what a model gives to tokens that the other lacks."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for; the names are those of `kullback.compare`.

    Attributes:
        prompts: texts or messages.
        laws: the distributions that are meant.
        valued: whether an estimator reads the columns of token values.
    """

    policy: str | Scorer
    reference: str | Scorer
    sampler: str | Sampler | None
    prompts: Sequence[Prompt]
    samples: int
    max_new_tokens: int
    laws: Laws
    both: bool
    valued: bool
    batch_size: int | Literal["auto"]
    seed: int
    device: str
    dtype: str
    allow_outside_mass: bool


@dataclass(frozen=True)
class Prepared:
    """A plan, who does it, and what was assumed of its prompts."""

    plan: Plan
    models: Models
    told: Told


def prepared(request: Request) -> Prepared:
    """Load the models, and plan.

    Raises:
        InputError, ModelError: what cannot be compared.
    """
    at = {"device": request.device, "dtype": request.dtype}
    q, p = opened_pair(request.policy, request.reference, **at)
    drawing = q if request.sampler is None else _sampler(request.sampler, request.policy, q, **at)
    models = Models(q, p, _samplers(drawing, p if request.both else None))
    vocab = shared_vocab(q, p)
    check_same_tokens(q, models.samplers["policy"])
    asked, turned = fitted(request.prompts, models.samplers["policy"])
    new = request.max_new_tokens
    encoded = tuple(_encode(models, prompt, number, new) for number, prompt in enumerate(asked))
    cut = vocab is not None and any(model.vocab > vocab for model in (q, p, drawing) if gives_distributions(model))
    _probe(models, encoded, vocab, allowed=request.allow_outside_mass)
    if vocab is not None and request.valued:
        models = replace(models, bases=_bases(models, encoded, vocab))
    rows = batch_rows(request.batch_size, q, vocab, max(map(len, encoded)) + new, other=p)
    plan = Plan(
        prompts=encoded,
        samples=request.samples,
        max_new_tokens=new,
        laws=request.laws.within(vocab) if cut else request.laws,
        batches=batches(encoded, request.samples, rows, models.mixes_lengths),
        batch_rows=rows,
        seed=request.seed,
        vocab=vocab,
        allow_outside_mass=request.allow_outside_mass,
    )
    return Prepared(plan, models, turned)


def _samplers(policy: Scorer | Sampler, reference: Scorer | None) -> Mapping[Role, Sampler]:
    """What draws for each model that is to be sampled."""
    drawing: dict[Role, Sampler] = {"policy": _drawing(policy, "pass sampler=…")}
    if reference is not None:
        drawing["reference"] = _drawing(reference, "leave out both=True")
    return drawing


def _sampler(sampler: str | Sampler, policy: object, scorer: Scorer, *, device: str, dtype: str) -> Any:
    """What draws in the policy's place."""
    if sampler != ENGINE:
        return opened(sampler, device=device, dtype=dtype, tokenizer_from=scorer)
    if not isinstance(policy, str) or is_address(policy):
        raise InputError(
            "sampler='vllm' came with a policy that is not named: vLLM loads the weights itself, by a folder or an id"
        )
    return VLLMEngine(policy, scorer, dtype if dtype != "auto" else getattr(scorer, "dtype", "auto"))


def _drawing(model: Scorer | Sampler, advice: str) -> Sampler:
    if not isinstance(model, Sampler):
        raise InputError(f"{model.name} scores tokens but draws none, and it was to be sampled: {advice}")
    return model


def _encode(models: Models, prompt: Prompt, number: int, new: int) -> tuple[int, ...]:
    tokens = models.samplers["policy"].encode(prompt)
    if not tokens:
        raise InputError(f"prompt {number + 1} has no token: a model needs at least one to go on from")
    context = min(model.context for model in (models.policy, models.reference, *models.samplers.values()))
    if len(tokens) + new > context:
        raise InputError(
            f"prompt {number + 1} has {len(tokens)} tokens and {new} new ones are asked for, but the models read "
            f"{context} in all: shorten the prompt or lower --max-new-tokens"
        )
    return tuple(tokens)


def _probe(models: Models, prompts: Sequence[Sequence[int]], vocab: int | None, *, allowed: bool) -> None:
    """Refuse what cannot be compared before anything is sampled: by the tokens of all prompts, and after a few."""
    for number, prompt in enumerate(prompts, 1):
        check_tokens(vocab, f"prompt {number}", [prompt])
    if vocab is not None:
        few = prompts[:PROBED]
        scores = score(*models.pair("policy"), few, [[0]] * len(few), vocab=vocab, drawn=False)
        check_mass(models.pair("policy"), scores, allowed=allowed)


def _bases(models: Models, prompts: Sequence[Sequence[int]], vocab: int) -> Mapping[Role, Basis | None]:
    """Directions of each model that is sampled, chosen before anything is."""
    from kullback.models.bases import basis_of

    pairs = ((role, models.pair(role)[0]) for role in models.samplers)
    return {role: basis_of(model, prompts, vocab) for role, model in pairs if gives_distributions(model)}
