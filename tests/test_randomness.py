"""Random numbers belong to rows: whoever draws them, and with whatever beside them."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

import kullback as kb
from kullback.errors import InputError
from kullback.models import Randomness, Sampling, load
from kullback.models.drawing import _token
from kullback.models.randomness import BLOCK

ROWS = [(role, prompt, sample) for role in (0, 1) for prompt in range(3) for sample in range(4)]


def numbers(rows: list[tuple[int, int, int]], seed: int = 7, steps: int = 2 * BLOCK + 3) -> np.ndarray:
    return np.stack(list(islice(Randomness(seed).of(rows).uniforms(len(rows)), steps)), axis=1)


def test_a_rows_numbers_do_not_depend_on_the_rows_beside_it() -> None:
    together = numbers(ROWS)
    order = np.random.default_rng(0).permutation(len(ROWS))
    for number in order:
        np.testing.assert_array_equal(numbers([ROWS[number]])[0], together[number])
    np.testing.assert_array_equal(numbers([ROWS[number] for number in order]), together[order])


def test_no_two_rows_and_no_two_seeds_share_numbers() -> None:
    found = np.concatenate(
        [numbers(ROWS).ravel(), numbers(ROWS, seed=8).ravel(), numbers(ROWS, seed=2**64 - 1).ravel()]
    )
    assert len(np.unique(found)) == found.size
    assert found.min() >= 0
    assert found.max() < 1
    assert abs(found.mean() - 0.5) < 5 / np.sqrt(12 * found.size)


def test_the_streams_of_a_batch_are_its_first_rows() -> None:
    one, two = Randomness(3).of(ROWS[:2]), Randomness(3).of(ROWS[:5])
    assert one.numpy.random() == two.numpy.random()
    assert torch.equal(torch.rand(4, generator=one.torch), torch.rand(4, generator=two.torch))
    assert one.numpy.random() != Randomness(3).of(ROWS[1:3]).numpy.random()


def test_other_rows_than_were_named_are_refused() -> None:
    with pytest.raises(InputError, match="for 3 rows are wanted, but they were asked for 2"):
        next(Randomness(0).of(ROWS[:2]).uniforms(3))


def test_a_token_is_where_the_sum_of_probabilities_passes_the_number() -> None:
    law = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).log()
    for number, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.7501, 4), (1 - 2**-53, 4)):
        assert int(_token(law, np.array([number]))) == token, number


def test_every_number_draws_a_token_that_has_a_probability() -> None:
    law = torch.full((1, 1000), -torch.inf)
    law[0, [3, 500]] = torch.tensor([0.3, 0.7]).log()
    for number in (0.0, 0.2999999, 0.3000001, 1 - 2**-53):
        assert torch.isfinite(law[0, _token(law, np.array([number])).item()])


def test_tokens_come_as_often_as_their_probability_says() -> None:
    law = torch.log_softmax(torch.randn(1, 50, generator=torch.Generator().manual_seed(0)) * 2, dim=-1)
    number = (np.arange(20_000) + 0.5) / 20_000
    drawn = _token(law.expand(20_000, -1), number)[:, 0]
    share = torch.bincount(drawn, minlength=50) / 20_000
    assert float((share - law[0].exp()).abs().max()) < 1e-4


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 0.9, 30)])
def test_a_model_draws_a_row_alone_as_among_others(sampling: Sampling) -> None:
    model = load("builtin:tuned")
    prompts = [model.encode(text) for text in ("One", "The small dog", "Grace said that")]
    rows = [(0, prompt, sample) for prompt in range(3) for sample in range(2)]

    def drawn(rows: list[tuple[int, int, int]]) -> list[list[int]]:
        found = model.sample(
            [prompts[row[1]] for row in rows], sampling, max_new_tokens=8, randomness=Randomness(1).of(rows)
        )
        return [completion.tokens for completion in found]

    together = drawn(rows)
    assert [drawn([row])[0] for row in rows] == together
    assert len({tuple(tokens) for tokens in together}) == len(rows)


def test_the_batch_size_changes_no_token_and_log_probs_by_rounding_alone() -> None:
    options = {"samples": 4, "max_new_tokens": 8, "seed": 5, "both": True}
    prompts = ["One day", "The small dog ran", "Grace"]
    first, other = (kb.compare(prompts=prompts, batch_size=rows, **options) for rows in (3, 7))  # type: ignore[arg-type]

    def by_row(found: kb.Comparison) -> dict[tuple[object, ...], kb.Rollout]:
        return {(row.sampled_from, row.prompt_id, row.sample): row for row in found.rollouts}

    mine, theirs = by_row(first), by_row(other)
    assert set(mine) == set(theirs)
    for name, row in mine.items():
        assert row.tokens == theirs[name].tokens
        np.testing.assert_allclose(row.column("logprobs"), theirs[name].column("logprobs"), atol=1e-5)
