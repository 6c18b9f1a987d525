"""Servers as a user of the command line meets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_server import Fake, serving, table
from typer.testing import CliRunner

import kullback as kb
from kullback.cli.app import app
from kullback.errors import ModelError

RUN = CliRunner()


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A server that behaves, until a test says otherwise."""
    one = Fake(law=table(1))
    with serving(one) as url:
        one.url = url
        yield one


def test_doctor_says_what_a_server_gives(fake: Fake) -> None:
    said = json.loads(RUN.invoke(app, ["doctor", "--server", fake.url, "--json"]).output)
    assert (said["gives"], said["vocab"], said["logprobs"]) == ("whole distributions", 128, "raw")
    assert said["end_tokens"] == [0]
    assert said["reread_nats"] == 0
    assert said["redrawn_nats"] < 1e-6
    shown = RUN.invoke(app, ["doctor", "--server", f"{fake.url}#toy"]).output
    assert "exact token KLs" in shown
    assert "4,096 tokens" in shown


def test_doctor_refuses_a_liar(fake: Fake) -> None:
    fake.stale = True
    result = RUN.invoke(app, ["doctor", "--server", fake.url])
    assert isinstance(result.exception, ModelError)
    assert "stale memory" in str(result.exception)


@pytest.mark.parametrize("words", [-1, 5])
def test_score_fills_a_column_from_a_server(fake: Fake, tmp_path: Path, words: int) -> None:
    fake.most_words = words
    row = kb.Rollout(behavior_logprobs=np.array([-0.5, -0.7]), tokens=[30, 40], prompt_tokens=[10, 20], prompt_id=0)
    kb.write_rollouts(tmp_path / "a.parquet", [row])
    options = ["--policy", fake.url, "--output", str(tmp_path / "b.parquet"), "--json"]
    result = RUN.invoke(app, ["score", str(tmp_path / "a.parquet"), *options])
    assert result.exit_code == 0, result.output
    [found] = kb.read_rollouts(tmp_path / "b.parquet")
    assert found.logprobs is not None
    assert list(found.logprobs) == pytest.approx([fake.law[20, 30], fake.law[30, 40]], abs=1e-6)


def test_score_of_two_servers_gives_exact_token_kls(fake: Fake, tmp_path: Path) -> None:
    with serving(Fake(law=table(2))) as url:
        row = kb.Rollout(behavior_logprobs=np.array([-0.5, -0.7]), tokens=[30, 40], prompt_tokens=[10, 20], prompt_id=0)
        kb.write_rollouts(tmp_path / "a.parquet", [row])
        output = str(tmp_path / "b.parquet")
        models = ["--policy", fake.url, "--reference", url, "--output", output]
        result = RUN.invoke(app, ["score", str(tmp_path / "a.parquet"), *models])
    assert result.exit_code == 0, result.output
    [found] = kb.read_rollouts(output)
    p, q = table(2)[20], fake.law[20]
    assert found.token_kl is not None
    assert found.token_kl[0] == pytest.approx(float(np.exp(q) @ (q - p)), abs=1e-5)
