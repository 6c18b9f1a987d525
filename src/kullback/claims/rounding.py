"""What we say ourselves of KLs that are logged from a bfloat16 head."""

from __future__ import annotations

from collections.abc import Iterator

from kullback.claims.record import Claim, Evidence, Verdict, instead, lines, stated, within
from kullback.claims.sources import OURS
from kullback.claims.worlds.heads import heads


def _logged(seed: int) -> Iterator[Evidence]:
    even, usual = heads(seed, size=0.3), heads(seed, size=3.0)
    yield stated(
        "share of the logged KL that is rounding, KL 1e-4, logits of about 0.3", 1 - even.kl / even.logged, ">", 0.5
    )
    share = 1 - usual.kl / usual.logged
    yield within("the same, logits of about 3", share, ">", 0.5)
    yield instead("logged KL there over KL + floor", usual.logged / (usual.kl + usual.floor), "=", 1.0, tolerance=0.1)
    yield instead(
        "KL from the difference of the logits over the exact one",
        usual.by_difference / usual.kl,
        "=",
        1.0,
        tolerance=0.01,
    )
    yield instead("floor of the head with the small logits", even.floor, "<", 1e-5)
    yield instead("floor of the usual head", usual.floor, ">", 5e-5)


CLAIMS = (
    Claim(
        id="kullback-bfloat16-head",
        source=OURS("the page on mismatch"),
        statement="A KL of 1e-4 a token that is logged from a bfloat16 head is mostly rounding.",
        verdict=Verdict.CONDITION,
        why="Logits d apart come out a whole number of steps apart, which adds ½ Σ q(1 − q) δ(step − δ) to the KL, δ "
        "= |d| mod step: about step²/12. A step is 1/32 between 4 and 8.",
        condition="Where that floor, which `kullback.claims.worlds.heads.floor` computes from logits, exceeds the "
        "KL: likely logits of 4 and more. Way out: logits in float32, or the difference of the hidden states before "
        "the head.",
        computation=_logged,
        code=lines(
            "from kullback.claims.worlds.heads import heads",
            "for size in (0.3, 3.0):  # logits of about 0.3 and 3; KL 1e-4",
            "    h = heads(seed=0, size=size)",
            "    print(round(1 - h.kl / h.logged, 6), f'{h.logged:.3g} {h.kl + h.floor:.3g} {h.by_difference:.4g}')",
        ),
        meant="A head such as SmolLM2-135M's: 1.6e-4 was logged as 7.0e-4 there.",
    ),
)
