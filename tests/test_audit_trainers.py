"""Trainers have folders: names that are columns, options with defaults, terms that fit both."""

from __future__ import annotations

from pathlib import Path

import pytest

import kullback as kb
from kullback.auditing.assignments import Request, assignments
from kullback.auditing.subject.columns import COLUMNS
from kullback.auditing.trainers import TRAINERS, Trainer
from kullback.claims import sources

SCRIPT = """
import no_such_stack
if __name__ == "__main__":
    for mb_inds in range(2):
        logratio = newlogprob - b_logprobs[mb_inds]
        ratio = logratio.exp()
        with no_such_stack.no_grad():
            old_approx_kl = (-logratio).mean()
            approx_kl = ((ratio - 1) - logratio).mean()
"""


@pytest.mark.parametrize("trainer", TRAINERS, ids=lambda trainer: trainer.name)
def test_names_are_of_columns_and_options_say_what_they_do(trainer: Trainer) -> None:
    assert trainer.names.title
    assert set(trainer.names.columns.values()) <= set(COLUMNS)
    assert len({option.name for option in trainer.names.options}) == len(trainer.names.options)
    assert all(option.about for option in trainer.names.options)


def test_claims_read_the_titles() -> None:
    assert sources.NEMO.title.startswith(TRAINERS["nemo-rl"].names.title)


def test_statements_of_a_script_are_taken_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "cleanrl").mkdir()
    (tmp_path / "cleanrl" / "ppo.py").write_text(SCRIPT)
    made = {a.subject: a.report() for a in assignments("cleanrl", tmp_path, Request())}
    assert [report.value.target for report in made.values()] == [kb.REVERSE_KL, kb.REVERSE_KL]
    assert {report.value.weight for report in made.values()} == {"length"}
