"""KL controllers: the published rules by hand, their units, noise, bounds and states; and the budget they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan

import pytest

import kullback as kb
from benchmarks.controllers import RULES, closed_loop
from kullback.errors import InputError
from kullback.monitoring.controllers import Adaptive, Controller, Dual, ProportionalIntegral

MAKE: dict[str, Callable[..., Controller]] = {
    "adaptive": Adaptive,
    "proportional_integral": ProportionalIntegral,
    "dual": Dual,
}
every_rule = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def exactly(value: float, unit: str = "sequence") -> kb.Exact:
    return kb.Exact(value, f"nats/{unit}")


def estimated(value: float, spread: float, unit: str = "sequence") -> kb.Estimate:
    """±spread about a value in 64 sequences, half of them to either side."""
    q = [[-1.0 + value + (spread if i % 2 else -spread)] for i in range(64)]
    return replace(kb.estimate([[min(x[0], 0.0)] for x in q], [[-1.0]] * 64, estimator=kb.K1), unit=unit)


def test_ziegler_by_hand() -> None:
    controller = Adaptive(0.2, 6.0, "sequence")
    assert [round(controller.update(exactly(kl)), 12) for kl in (6.6, 60.0, 0.0, 6.0)] == [
        0.202,  # error 0.1
        round(0.202 * 1.02, 12),  # clipped to 0.2
        round(0.202 * 1.02 * 0.98, 12),  # clipped to −0.2
        round(0.202 * 1.02 * 0.98, 12),
    ]


def test_a_target_of_nothing_is_not_divided_by() -> None:
    controller = Adaptive(0.2, 0.0, "token")
    assert controller.update(exactly(0.0, "token")) == 0.2
    assert controller.update(exactly(1e-9, "token")) == pytest.approx(0.2 * 1.02, rel=1e-15)


def test_proportional_integral_by_hand() -> None:
    controller = ProportionalIntegral(0.1, 2.0, "sequence", proportional=0.05, integral=0.01, most=1.0)
    assert controller.update(exactly(3.0)) == pytest.approx(0.11 + 0.05)
    assert controller.update(exactly(1.0)) == pytest.approx(0.10 - 0.05)
    assert controller.update(exactly(1e6)) == 1.0
    assert controller.accumulated == 1.0  # it has not wound up
    assert controller.update(exactly(0.0)) == pytest.approx(0.98 - 0.1)


def test_the_dual_is_never_negative() -> None:
    controller = Dual(0.1, 2.0, "sequence", rate=0.1)
    assert [round(controller.update(exactly(kl)), 12) for kl in (1.5, 0.0, 0.0, 2.5)] == [0.05, 0.0, 0.0, 0.05]


@every_rule
def test_noise_about_the_target_moves_nothing(make: Callable[..., Controller]) -> None:
    careful, eager = make(0.1, 0.3, "sequence", level=0.95), make(0.1, 0.3, "sequence")
    found = estimated(0.31, 0.4)
    low, high = found.interval()
    assert low < 0.3 < high
    assert careful.update(found) == 0.1
    assert eager.update(found) != 0.1
    assert (careful.updates, careful.held, eager.held) == (1, 1, 0)
    assert careful.update(estimated(0.6, 0.1)) > 0.1
    assert careful.update(replace(found, stderr=nan)) == careful.coefficient  # no interval, nothing known
    assert careful.held == 2


@every_rule
@pytest.mark.parametrize(
    ("came", "words"),
    [
        (exactly(0.3, "token"), "nats a token came, but the target of 2 is in nats a sequence"),
        (0.3, "an Estimate is followed"),
        (exactly(nan), "an estimate of nan came"),
        (exactly(inf), "an estimate of inf came"),
    ],
)
def test_what_cannot_be_followed_is_refused_and_changes_nothing(
    make: Callable[..., Controller], came: kb.Exact, words: str
) -> None:
    controller = make(0.1, 2.0, "sequence")
    with pytest.raises(InputError, match=words):
        controller.update(came)
    assert (controller.coefficient, controller.updates) == (0.1, 0)


@every_rule
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unit": "nats"}, "'token' or nats a 'sequence'"),
        ({"target": -1.0}, "target=-1.0 came, but a KL of at least 0"),
        ({"target": inf}, "target=inf"),
        ({"coefficient": -0.1}, "between least=0 and most=inf"),
        ({"coefficient": nan}, "between least"),
        ({"level": 2.0}, "level"),
        ({"most": 0.05}, "most=0.05"),
    ],
)
def test_options_that_cannot_be(make: Callable[..., Controller], options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(**{"coefficient": 0.1, "target": 2.0, "unit": "sequence", **options})


@every_rule
def test_a_controller_goes_on_where_it_stopped(make: Callable[..., Controller]) -> None:
    whole, first = make(0.1, 2.0, "sequence"), make(0.1, 2.0, "sequence")
    for kl in (5.0, 1.0, 3.0):
        whole.update(exactly(kl))
        first.update(exactly(kl))
    rest = make(0.7, 2.0, "sequence").restore(json.loads(json.dumps(first.state())))
    for kl in (1.5, 9.0):
        assert rest.update(exactly(kl)) == whole.update(exactly(kl))
    with pytest.raises(InputError, match="target"):
        make(0.1, 3.0, "sequence").restore(first.state())
    with pytest.raises(InputError, match="schema"):
        make(0.1, 2.0, "sequence").restore({})


def test_a_monitor_feeds_a_controller() -> None:
    monitor, controller = kb.KLMonitor(), Dual(0.0, 0.01, "token")
    monitor.update([[-0.5, -1.0]] * 32, [[-2.5 - 0.01 * i, -2.0] for i in range(32)], step=0)
    assert controller.update(monitor.estimate("token")) > 0
    with pytest.raises(InputError, match="no step with KL"):
        monitor.estimate(reading="mismatch")


@pytest.mark.parametrize("rule", RULES)
def test_a_budget_is_held_when_the_kl_is_known(rule: str) -> None:
    """Exact gradients and the exact KL: within 2% of the target in the end."""
    found = closed_loop(rule, rows=None, steps=400)
    assert found.error < 0.02
