"""Models behind servers: what is found out of them, what comes of it, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_server import END, VOCAB, Fake, Local, serving, table

import kullback as kb
from kullback.errors import InputError, ModelError
from kullback.models import Randomness, Sampling, connect, score
from kullback.models.servers.address import KEY, address_of, headers
from kullback.models.servers.model import ServerDistribution, ServerModel

PROMPTS = ["hello", "bye now"]


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A server that behaves, until a test says otherwise."""
    one = Fake()
    with serving(one) as url:
        one.url = url
        yield one


def connected(fake: Fake, **options: Any) -> ServerModel:
    return connect(fake.url, **{"pause": 0.01, **options})


def rows(count: int = 4) -> tuple[list[list[int]], list[list[int]]]:
    rng = np.random.default_rng(0)
    return [list(map(int, rng.integers(1, VOCAB, 3))) for _ in range(count)], [
        [*map(int, rng.integers(1, VOCAB, 2 + i)), END] for i in range(count)
    ]


def test_whole_distributions_give_the_exact_kl_of_the_same_law_here(fake: Fake) -> None:
    model, other = connected(fake), Local(table(2))
    assert isinstance(model, ServerDistribution)
    assert model.capabilities.kind == "whole distributions"
    prompts, completions = rows()
    far = score(model, other, prompts, completions)
    near = score(Local(fake.law), other, prompts, completions)
    for a, b in zip(far, near, strict=True):
        for name in ("logprobs", "ref_logprobs", "token_kl", "reverse_token_kl"):
            assert np.allclose(a.column(name), b.column(name), atol=1e-6), name


def test_lists_that_are_cut_off_are_no_whole_distributions(fake: Fake) -> None:
    """Every place without its least likely word: all the probability to rounding, and a KL that would be infinite."""
    fake.law = table(1)
    fake.law[np.arange(VOCAB), (np.arange(VOCAB) + 1) % VOCAB] = -40.0
    fake.law -= np.log(np.exp(fake.law).sum(axis=1, keepdims=True))
    fake.cut_off = VOCAB - 1
    found = connected(fake).capabilities
    assert found.kind != "whole distributions"
    assert any("list different words where all were asked for" in note for note in found.notes)


@pytest.mark.parametrize("sampling", [Sampling(0.7), Sampling(top_k=5), Sampling(1.3, top_p=0.8)])
def test_whole_distributions_are_scored_under_any_law(fake: Fake, sampling: Sampling) -> None:
    prompts, completions = rows()
    found = score(connected(fake), Local(table(2)), prompts, completions, sampling=sampling)
    here = score(Local(fake.law), Local(table(2)), prompts, completions, sampling=sampling)
    assert all(
        np.allclose(a.column("token_kl"), b.column("token_kl"), atol=1e-5) for a, b in zip(found, here, strict=True)
    )


def test_what_is_drawn_has_the_log_probs_that_it_is_scored_with(fake: Fake) -> None:
    model = connected(fake)
    prompts = [list(b"ab"), list(b"cde")] * 3
    for sampling in (Sampling(), Sampling(0.8), Sampling(top_k=3)):
        drawn = model.sample(prompts, sampling, max_new_tokens=6, randomness=Randomness(1))
        scored = model.logprobs(prompts, [one.tokens for one in drawn], sampling, drawn=True)
        for one, logprobs in zip(drawn, scored, strict=True):
            assert np.allclose(one.logprobs, logprobs, atol=1e-5)
            assert (one.finish == "end") == (one.tokens[-1] == END)
    again = model.sample(prompts, Sampling(), max_new_tokens=6, randomness=Randomness(1))
    first = model.sample(prompts, Sampling(), max_new_tokens=6, randomness=Randomness(1))
    assert [one.tokens for one in again] == [one.tokens for one in first]


def test_few_words_give_log_probs_and_say_so(fake: Fake) -> None:
    fake.most_words = 5
    model = connected(fake)
    assert type(model) is ServerModel
    assert model.capabilities.kind == "likely words"
    assert model.capabilities.words == 5
    prompts, completions = rows()
    found = model.logprobs(prompts, completions)
    here = Local(fake.law).logprobs(prompts, completions, Sampling(), drawn=False)
    assert all(np.allclose(a, b) for a, b in zip(found, here, strict=True))
    with pytest.raises(ModelError, match="score with temperature 1"):
        model.logprobs(prompts, completions, Sampling(0.5))
    with pytest.raises(ModelError, match="processed_logprobs"):
        model.sample(prompts, Sampling(0.5), max_new_tokens=2, randomness=Randomness(0))


@pytest.mark.parametrize("processed", [True, False])
def test_the_law_of_its_log_probs_is_seen(fake: Fake, processed: bool) -> None:
    fake.processed, fake.most_words = processed, 20
    model = connected(fake)
    assert model.capabilities.law == ("processed" if processed else "raw")
    if processed:
        drawn = model.sample([list(b"ab")], Sampling(0.5), max_new_tokens=1, randomness=Randomness(0))[0]
        law = fake.law[ord("b")] / 0.5
        assert drawn.logprobs[0] == pytest.approx((law - np.log(np.exp(law).sum()))[drawn.tokens[0]])


def test_compare_writes_down_where_the_numbers_come_from(fake: Fake, tmp_path: Path) -> None:
    found = kb.compare(fake.url, Local(table(2)), PROMPTS, samples=2, max_new_tokens=6, output=tmp_path)
    assert "exact token KLs" in found.notes[0]
    said = json.loads((tmp_path / "estimate.json").read_text())["settings"]
    assert said["server_url"] == fake.url
    assert said["server_gives"] == "whole distributions"
    assert said["server_logprobs"] == "raw"


LIES = [
    ({"stale": True}, "stale memory"),
    ({"positive": True}, "is at most 0"),
    ({"shifted": True}, "the first place has log-probs"),
    ({"shifted": True, "most_words": 5}, "the first place has log-probs"),
    ({"generated": True}, "places"),
    ({"elsewhere": True}, "under another law than it draws from"),
]


@pytest.mark.parametrize(("lie", "said"), LIES, ids=lambda value: "-".join(value) if isinstance(value, dict) else "")
def test_a_server_that_lies_is_refused_when_it_is_first_asked(fake: Fake, lie: dict[str, Any], said: str) -> None:
    for name, value in lie.items():
        setattr(fake, name, value)
    with pytest.raises(ModelError, match=said):
        connected(fake)


def test_a_grid_is_said(fake: Fake) -> None:
    fake.gridded, fake.most_words = True, 20
    assert any("lie on a grid" in note for note in connected(fake).notes)


def test_a_missing_end_token_is_said_and_nothing_is_drawn(fake: Fake) -> None:
    fake.endless = True
    model = connected(fake)
    assert any("the end token's is left out" in note for note in model.notes)
    with pytest.raises(ModelError, match="pass another sampler"):
        model.sample([[1]], Sampling(), max_new_tokens=2, randomness=Randomness(0))
    with pytest.raises(ModelError, match="pass another sampler"):
        kb.compare(fake.url, Local(table(2)), PROMPTS, samples=1, max_new_tokens=2)


def test_a_server_that_only_draws_scores_nothing(fake: Fake) -> None:
    fake.scores = False
    model = connected(fake)
    assert model.capabilities.kind == "drawn tokens"
    with pytest.raises(ModelError, match="it can draw"):
        model.logprobs(*rows())


def test_texts_that_are_read_differently_are_refused(fake: Fake) -> None:
    fake.other_tokens = True
    with pytest.raises(ModelError, match="as different tokens"):
        kb.compare(Local(table(2)), fake.url, PROMPTS, samples=1, sampler=fake.url, max_new_tokens=2)


def test_templates_that_differ_are_refused(fake: Fake) -> None:
    fake.other_template = True
    with pytest.raises(ModelError, match="chat templates differ"):
        kb.compare(fake.url, Local(table(2)), PROMPTS, samples=1, max_new_tokens=2)


def test_a_server_samples_for_a_local_pair(fake: Fake) -> None:
    fake.law = table(1, 1.0)
    pair = Local(fake.law, "policy"), Local(table(2, 1.0), "reference")
    found = kb.compare(*pair, PROMPTS, samples=6, max_new_tokens=4, sampler=fake.url)
    assert found.rollouts[0].behavior_logprobs is not None
    apart = [np.subtract(one.behavior_logprobs, one.logprobs) for one in found.rollouts]  # type: ignore[arg-type]
    assert max(np.abs(one).max() for one in apart) < 1e-5
    assert found.mismatch is not None
    assert found.mismatch.kl.value == pytest.approx(0, abs=1e-9)
    assert found.mismatch.ess == pytest.approx(12)


def test_the_mismatch_of_what_sampled_is_found_and_its_error_covers(fake: Fake) -> None:
    # One token of one prompt: KL(sampler‖policy) is known, and the interval holds it.
    fake.law, policy = table(1, 1.0), table(3, 1.0)
    options: dict[str, Any] = {"samples": 300, "max_new_tokens": 1, "sampler": fake.url}
    found = kb.compare(Local(policy, "policy"), Local(table(2, 1.0)), ["a"], **options).mismatch
    assert found is not None
    exact = float(np.exp(fake.law[ord("a")]) @ (fake.law[ord("a")] - policy[ord("a")]))
    error = found.kl.stderr if found.kl.given_prompts is None else found.kl.given_prompts.stderr
    assert abs(found.kl.value - exact) < 4 * error < 0.6 * exact
    ratio = np.exp(policy[ord("a")] - fake.law[ord("a")])
    assert found.ess / 300 == pytest.approx(1 / float(np.exp(fake.law[ord("a")]) @ ratio**2), rel=0.5)


@pytest.mark.parametrize(
    ("dialect", "kind", "draws"),
    [
        ("SGLang", "likely words", True),
        ("echo", "log-probs of given tokens", False),
        ("llama.cpp", "whole distributions", True),
    ],
)
def test_other_kinds_of_servers_give_the_same_log_probs(fake: Fake, dialect: str, kind: str, draws: bool) -> None:
    fake.dialect = dialect
    model = connected(fake)
    assert model.capabilities.kind == kind
    assert model.capabilities.draws is draws
    prompts, completions = rows()
    here = Local(fake.law).logprobs(prompts, completions, Sampling(), drawn=False)
    assert all(np.allclose(a, b) for a, b in zip(model.logprobs(prompts, completions), here, strict=True))
    if draws:
        drawn = model.sample(prompts, Sampling(), max_new_tokens=4, randomness=Randomness(0))
        scored = model.logprobs(prompts, [one.tokens for one in drawn])
        assert all(np.allclose(one.logprobs, again) for one, again in zip(drawn, scored, strict=True))


def test_llama_cpp_is_asked_alone_for_tokens_that_its_words_lack(fake: Fake) -> None:
    """A token outside the likely words is drawn under a bias, before which its log-prob is."""
    fake.dialect, fake.most_words = "llama.cpp", 3
    model = connected(fake)
    assert (model.capabilities.kind, model.capabilities.law, model.capabilities.context) == ("likely words", "raw", 300)
    prompts, completions = rows()
    before = len(fake.asked)
    here = Local(fake.law).logprobs(prompts, completions, Sampling(), drawn=False)
    assert all(np.allclose(a, b) for a, b in zip(model.logprobs(prompts, completions), here, strict=True))
    assert any("logit_bias" in body for body in fake.asked[before:])
    listed = model.listed(prompts, completions)
    assert all(len(one.top) == 3 for row in listed for one in row)
    assert model.encode([{"role": "user", "content": "ab"}]) == [ord(letter) for letter in "<u>ab"]


def test_a_server_of_texts_alone_is_told_from_a_busy_one(fake: Fake) -> None:
    fake.dialect = "llama-cpp-python"
    with pytest.raises(ModelError, match=r"takes prompts as texts alone.*llama-server\) takes ids"):
        connected(fake)
    assert len(fake.keys) < 40  # each is asked once: a refusal is not asked again


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ({"stale": True}, "stale memory"),
        ({"shifted": True}, "cut to the server's context"),
        ({"elsewhere": True}, "nats from those it drew them with"),
        ({"generated": True, "most_words": 3}, "does not follow logit_bias"),
    ],
)
def test_what_llama_cpp_could_get_wrong_is_refused(fake: Fake, lie: dict[str, Any], said: str) -> None:
    fake.dialect = "llama.cpp"
    for name, value in lie.items():
        setattr(fake, name, value)
    with pytest.raises(ModelError, match=said):
        connected(fake)


def test_drawn_tokens_in_place_of_echoed_ones_are_said(fake: Fake) -> None:
    fake.dialect, fake.generated = "echo", True
    with pytest.raises(
        ModelError, match=r"neither scores given tokens nor draws.*drawn tokens in place of echoed ones"
    ):
        connected(fake)


def test_vllm_as_an_engine_needs_a_name_and_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="a policy that is not named"):
        kb.compare(Local(table(1)), Local(table(2)), PROMPTS, samples=1, max_new_tokens=2, sampler="vllm")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModelError, match="pip install vllm"):
        kb.compare(samples=1, max_new_tokens=2, sampler="vllm")


# What goes wrong on the way.


@pytest.mark.parametrize(
    "fault", [{"statuses": [429, 500, 503]}, {"cut": 2}, {"slow": 1}], ids=lambda one: next(iter(one))
)
def test_what_passes_is_asked_again(fake: Fake, fault: dict[str, Any]) -> None:
    model = connected(fake, timeout=0.25)
    clean = model.logprobs(*rows())
    for name, value in fault.items():
        setattr(fake, name, value)
    assert all(np.array_equal(a, b) for a, b in zip(clean, model.logprobs(*rows()), strict=True))


@pytest.mark.parametrize(
    ("fault", "said"),
    [({"statuses": [500] * 9}, "answered 500"), ({"cut": 99}, "hung up"), ({"slow": 99}, "no answer in 0.1 s")],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_what_does_not_pass_is_one_sentence(fake: Fake, fault: dict[str, Any], said: str) -> None:
    model = connected(fake)
    model = replace(model, client=replace(model.client, timeout=0.1 if "slow" in fault else 5.0, attempts=3))
    for name, value in fault.items():
        setattr(fake, name, value)
    with pytest.raises(ModelError, match=said) as raised:
        model.logprobs([[1, 2]], [[3]])
    assert "\n" not in str(raised.value)


def test_no_server_is_one_sentence() -> None:
    with pytest.raises(ModelError, match="cannot be reached"):
        connect("http://127.0.0.1:9/v1", attempts=1)


def test_a_model_that_the_server_lacks_is_named(fake: Fake) -> None:
    with pytest.raises(ModelError, match=r"has no model other \(it has toy\)"):
        connect(f"{fake.url}#other")


def test_requests_are_bounded(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    model = connected(fake, concurrency=3)
    prompts, completions = rows(12)
    model.logprobs(prompts, completions)
    assert 1 <= fake.most_at_once <= 3
    monkeypatch.setattr("kullback.models.servers.model.AT_ONCE", VOCAB * 20)
    fake.most_at_once = 0
    score(model, Local(table(2)), prompts, completions)
    assert fake.most_at_once == 1
    monkeypatch.setattr("kullback.models.servers.model.MOST_NUMBERS", VOCAB * 4)
    with pytest.raises(ModelError, match="have ended servers"):
        score(model, Local(table(2)), prompts, completions)


# Keys.


def test_the_key_comes_from_the_environment_and_goes_nowhere(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "sk-very-secret-0123456789"
    monkeypatch.setenv(KEY, secret)
    found = kb.compare(fake.url, Local(table(2)), PROMPTS, samples=1, max_new_tokens=3, output=tmp_path)
    assert set(fake.keys) == {f"Bearer {secret}"}
    fake.statuses, fake.echoes_key = [400], True
    model = connect(f"{fake.url}", attempts=1)
    fake.statuses = [400]
    with pytest.raises(ModelError) as raised:
        model.logprobs([[1]], [[2]])
    screen = capsys.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for said in (str(raised.value), repr(model), repr(found), str(found.to_dict()), screen.out, screen.err):
        assert secret not in said
    assert secret.encode() not in written


def test_without_a_key_none_is_sent(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)
    connected(fake)
    assert set(fake.keys) == {None}
    assert headers() == {}


@pytest.mark.parametrize("url", ["http://me:sk-1@host/v1", "http://host/v1?key=sk-1", "http://[x/v1", "http:///v1"])
def test_a_url_with_a_key_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ModelError) as raised:
        address_of(url)
    assert "sk-1" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "base", "model"),
    [
        ("http://a:8000/v1#m", "http://a:8000/v1", "m"),
        ("http://a:8000", "http://a:8000/v1", ""),
        ("https://[::1]:8/x/v1/#org/m", "https://[::1]:8/x/v1", "org/m"),
    ],
)
def test_addresses(url: str, base: str, model: str) -> None:
    found = address_of(url)
    assert (found.base, found.model) == (base, model)


# Between bounds.


@pytest.mark.parametrize("who", ["policy", "reference", "both"])
def test_a_bracket_contains_the_kl(fake: Fake, who: str) -> None:
    other = Fake(law=table(2), most_words=20)
    fake.most_words = 20
    with serving(other) as url:
        other.url = url
        first = Local(fake.law) if who == "reference" else connected(fake)
        second = Local(other.law) if who == "policy" else connected(other)
        prompts, completions = rows(6)
        found = score(first, second, prompts, completions)
        exact = score(Local(fake.law), Local(other.law), prompts, completions)
    for one, here in zip(found, exact, strict=True):
        assert one.bracket is not None
        assert np.allclose(one.logprobs, here.logprobs)
        kl = here.column("token_kl")
        assert (one.bracket.lower <= kl + 1e-6).all()
        assert (kl <= one.bracket.upper + 1e-6).all()
        assert (one.bracket.lower > 0).any()
        assert np.isfinite(one.bracket.upper).all() == (who == "policy")


@pytest.mark.parametrize("policy", ["here", "behind a server"])
def test_a_reference_is_asked_for_the_words_that_the_policy_finds_likely(fake: Fake, policy: str) -> None:
    """Its own list of three words says little of a law that is far away; the policy's, almost all."""
    other = Fake(law=table(2, 2.0), most_words=3)
    fake.most_words = 60
    prompts, completions = rows(6)
    exact = score(Local(fake.law), Local(other.law), prompts, completions)
    lower = {}
    with serving(other) as url:
        other.url = url
        first = Local(fake.law) if policy == "here" else connected(fake)
        for other.chooses in (False, True):
            second = connected(other)
            assert second.capabilities.chooses is other.chooses
            found = score(first, second, prompts, completions)
            lower[other.chooses] = np.concatenate([one.bracket.lower for one in found if one.bracket is not None])
            assert all(np.allclose(a.ref_logprobs, b.ref_logprobs) for a, b in zip(found, exact, strict=True))
    kl = np.concatenate([one.column("token_kl") for one in exact])
    assert (lower[True] <= kl + 1e-6).all()
    assert lower[True].sum() > 0.5 * kl.sum() > lower[False].sum()
    assert any("sampling_params" in body for body in other.asked)


@pytest.mark.parametrize("seed", range(3))
def test_the_estimate_of_chosen_words_is_unbiased(seed: int) -> None:
    other = Fake(law=table(seed + 10, 2.0), most_words=3, chooses=True)
    prompts, every = [[5]] * VOCAB, [[token] for token in range(VOCAB)]
    policy = Local(table(seed, 0.3))
    with serving(other) as url:
        other.url = url
        found = score(policy, connected(other), prompts, every)
    exact = score(policy, Local(other.law), [[5]], [[0]])[0].column("token_kl")[0]
    sampled = [one.bracket.estimate[0] for one in found if one.bracket is not None]
    assert np.exp(policy.law[5]) @ sampled == pytest.approx(exact, abs=1e-6)


def test_chosen_words_of_other_places_are_refused(fake: Fake) -> None:
    fake.chooses, fake.most_words = True, 20
    assert connected(fake).capabilities.chooses
    fake.law, fake.elsewhere = table(1, 3.0), True
    with pytest.raises(ModelError, match=r"chosen words log-probs .* nats from those of a prompt's tokens"):
        connected(fake)


def test_the_estimate_of_likely_words_is_unbiased(fake: Fake) -> None:
    fake.most_words = 20
    prompts, every = [[5]] * VOCAB, [[token] for token in range(VOCAB)]
    found = score(connected(fake), Local(table(2)), prompts, every)
    exact = score(Local(fake.law), Local(table(2)), [[5]], [[0]])[0].column("token_kl")[0]
    sampled = [one.bracket.estimate[0] for one in found if one.bracket is not None]
    mean = np.exp(fake.law[5]) @ sampled
    assert mean == pytest.approx(exact, abs=1e-6)


def test_compare_prints_the_bracket(fake: Fake, tmp_path: Path) -> None:
    fake.most_words = 20
    found = kb.compare(fake.url, Local(table(2)), PROMPTS, samples=3, max_new_tokens=4, output=tmp_path)
    bracket = found.brackets["policy"]
    assert bracket.upper is not None
    assert bracket.lower.value < bracket.estimate.value < bracket.upper.value
    exact = score(
        Local(fake.law), Local(table(2)), *zip(*((r.prompt_tokens, r.tokens) for r in found.rollouts), strict=True)
    )
    mean = np.mean([one.column("token_kl").sum() for one in exact])
    assert bracket.lower.value <= mean <= bracket.upper.value
    assert any("between bounds" in getattr(block, "title", "") for block in found.document().blocks)
    assert json.loads((tmp_path / "estimate.json").read_text())["brackets"]["reverse"]["upper"]["value"] > 0
