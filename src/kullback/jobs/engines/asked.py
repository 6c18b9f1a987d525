"""What a user asks of an engine, and what it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from kullback.errors import InputError
from kullback.jobs.engines.apart import apart
from kullback.jobs.engines.crew import Order
from kullback.jobs.engines.pool import Engine
from kullback.jobs.engines.run import Shift
from kullback.jobs.engines.shards import settings_of, shards_in
from kullback.jobs.engines.standins import without_weights
from kullback.jobs.engines.weights import weights_digest
from kullback.jobs.preparation import Prepared, Request, prepared
from kullback.jobs.worker import Models
from kullback.models.pairs import score
from kullback.models.vllm_engine import ENGINE


def asked_engine(
    name: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float,
    address: str | None,
    *,
    resume: bool,
    output: str | Path | None,
) -> Engine | None:
    """The engine, or None where all is to be done in this process.

    Raises:
        InputError: options that would do nothing.
        MissingPackageError: Ray is asked for and not installed.
    """
    if resume and output is None:
        raise InputError("resume came without output: name the folder whose shards are to be gone on from")
    if workers is None and name == "local":
        if resume:
            raise InputError("resume came without workers, and only a run with workers leaves shards: pass --workers 1")
        if gpus_per_worker or address:
            raise InputError("gpus_per_worker or address came without engine='ray', which alone knows them")
        return None
    engine = Engine(name, 1 if workers is None else workers, gpus_per_worker, address)
    if name == "ray":
        from kullback.jobs.engines.cluster import ray

        ray()
    return engine


def check_names(*models: object) -> None:
    """Refuse models that a worker could not load by name.

    Raises:
        InputError: by their type, or vLLM's engine.
    """
    for model in models:
        if model is not None and not isinstance(model, str | Path):
            raise InputError(
                f"a {type(model).__name__} came as a model, but workers load models by name: save it in a folder and "
                "pass that, or leave out workers"
            )
        if model == ENGINE:
            raise InputError(
                "sampler='vllm' came with workers, each of which would start an engine: leave out workers, or name a "
                "server of vLLM as the sampler"
            )


def noted_rows(output: str | Path | None) -> int | None:
    """The batch size of the run that is to be gone on from, where there is one."""
    noted = None if output is None else shards_in(Path(output)).noted()
    return None if noted is None else noted.get("batch_size")


def shift_of(engine: Engine, request: Request) -> tuple[Prepared, Shift]:
    """The plan with models that are known here without their weights, and the order with what its rows depend on.

    A process of its own loads the models to make the plan, and ends with it: here they would take a worker's memory.
    """
    found, fingerprint = apart(engine, surveyed, request)
    plan, names = found.plan, (request.policy, request.reference, request.sampler)
    policy, reference, sampler = (None if name is None else str(name) for name in names)
    order = Order(plan, str(policy), str(reference), sampler, request.device, request.dtype, found.models.bases)
    named = {"policy": policy, "reference": reference, "sampler": sampler}
    weights = {f"{role}'s files": None if name is None else weights_digest(name) for role, name in named.items()}
    settings = settings_of(plan, {**named, **weights, "dtype": request.dtype}, fingerprint)
    return found, Shift(engine, order, settings)


def surveyed(request: Request) -> tuple[Prepared, tuple[float, float]]:
    """What a plan needs of the models, without their weights, and the log-probs that they give to one token."""
    found = prepared(request)
    models, prompt = found.models, found.plan.prompts[0]
    said = score(models.policy, models.reference, [prompt], [prompt[:1]], vocab=found.plan.vocab, drawn=False)[0]
    bases = {role: None if basis is None else basis.to("cpu") for role, basis in models.bases.items()}
    samplers = {role: without_weights(model) for role, model in models.samplers.items()}
    light = Models(without_weights(models.policy), without_weights(models.reference), samplers, bases)
    return replace(found, models=light), (float(said.logprobs[0]), float(said.ref_logprobs[0]))
