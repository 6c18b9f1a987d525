"""Who hands out the work has no weights: a process of its own loads the models, and says what a plan needs of them."""

from __future__ import annotations

import os
import pickle
import re
import signal
from typing import Any, NoReturn

import numpy as np
import pytest

from kullback.errors import InputError, ModelError
from kullback.jobs.engines.apart import answered, apart
from kullback.jobs.engines.asked import shift_of, surveyed
from kullback.jobs.engines.pool import Engine
from kullback.jobs.engines.standins import Elsewhere
from kullback.jobs.plans import Laws
from kullback.jobs.preparation import Request, prepared
from kullback.models.pairs import places
from kullback.models.sampling import RAW
from kullback.models.servers.address import address_of
from kullback.models.servers.client import Client

HERE = Engine("local", 1)


def request(**changes: Any) -> Request:
    asked: dict[str, Any] = {"policy": "builtin:tuned", "reference": "builtin:base", "sampler": None, "samples": 2}
    asked |= {"prompts": ["One day", "Grace"], "max_new_tokens": 3, "laws": Laws(RAW, RAW), "both": True}
    asked |= {"valued": True, "batch_size": 2, "seed": 0, "device": "cpu", "dtype": "auto", "allow_outside_mass": False}
    return Request(**(asked | changes))


def test_a_process_of_its_own_plans_as_this_one_and_leaves_no_weights_here() -> None:
    here = prepared(request())
    found, shift = shift_of(HERE, request())
    assert found.plan == here.plan
    assert shift.order.plan == here.plan
    for role, basis in here.models.bases.items():
        other = shift.order.bases[role]
        assert basis is not None
        assert other is not None
        assert np.allclose(basis.words, other.words, atol=1e-4)
    for role in ("policy", "reference"):
        light, whole = getattr(found.models, role), getattr(here.models, role)
        assert isinstance(light.model, Elsewhere)
        for name in (
            "name",
            "notes",
            "context",
            "vocab",
            "dtype",
            "device",
            "end_tokens",
            "mixes_lengths",
            "reads_head",
        ):
            assert getattr(light, name) == getattr(whole, name), name
        assert light.vocabulary == whole.vocabulary
        assert light.encode("One day") == whole.encode("One day")
        assert light.decode([5, 6]) == whole.decode([5, 6])
    assert places(found.models.policy, found.models.reference) == places(here.models.policy, here.models.reference)
    assert len(pickle.dumps(surveyed(request()))) < 200_000


def test_what_goes_wrong_there_is_said_here() -> None:
    with pytest.raises(ModelError, match="builtin:nowhere"):
        apart(HERE, surveyed, request(policy="builtin:nowhere"))


def killed() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit


def test_a_process_that_is_killed_is_said() -> None:
    with pytest.raises(ModelError, match=r"ended without an answer \(signal 9\): there may be too little memory"):
        apart(HERE, killed)


def broken(error: Exception) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("error", "words"),
    [(InputError("it broke"), "it broke"), (KeyError("x"), r"could not go on \(KeyError: 'x'\)")],
)
def test_an_error_has_its_kind_and_its_text(error: Exception, words: str) -> None:
    found, said = pickle.loads(answered(pickle.dumps((broken, (error,), {}))))
    assert found is None
    assert said[0] == ("InputError" if isinstance(error, InputError) else "ModelError")
    assert re.search(words, said[1])


def test_a_client_goes_to_another_process_without_its_connections() -> None:
    client = Client(address_of("http://127.0.0.1:1/v1#small"), timeout=3.0)
    vars(client)["_connections"] = object()
    assert vars(pickle.loads(pickle.dumps(client))) == {k: v for k, v in vars(client).items() if k != "_connections"}
