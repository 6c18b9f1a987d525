"""Sequences token by token, as the part of a page that `page.js` brings to life."""

from __future__ import annotations

import json
from base64 import b64encode
from html import escape

import numpy as np

from kullback.documents import Likely, Passages, Record, visible

SKELETON = """\
<section class="passages" aria-labelledby="passages-title">
<h2 id="passages-title">{title}</h2>
<p class="quiet">{note}</p>
<noscript><p class="warning">Single tokens are shown where the browser runs scripts.</p></noscript>
<div class="reader" hidden>
<div class="groups">
<label>Search prompts <input type="search" id="group-search" autocomplete="off"></label>
<p class="quiet" id="group-count" role="status"></p>
<div class="list" tabindex="0" role="region" aria-label="Prompts"><table id="groups"><thead><tr>
<th aria-sort="none"><button type="button" data-sort="text">prompt</button></th>
<th class="right" aria-sort="descending"><button type="button" data-sort="value">{unit}</button></th>
<th class="right" aria-sort="none"><button type="button" data-sort="count">sequences</button></th>
</tr></thead><tbody></tbody></table></div>
</div>
<div class="reading">
<div class="bar">
<label>Colour by <select id="channel">{channels}</select></label>
<button type="button" id="previous" aria-keyshortcuts="p">← previous</button>
<span id="which" role="status"></span>
<button type="button" id="next" aria-keyshortcuts="n">next →</button>
</div>
<p id="group-text" class="quiet"></p>
<p id="scale" aria-hidden="true"></p>
<div id="tokens" tabindex="0" role="region" aria-label="The sequence; arrow keys walk from token to token"></div>
<dl id="token" aria-live="polite"></dl>
<div id="likely" aria-live="polite"></div>
</div>
</div>
<script type="application/json" id="passages-data">{data}</script>
</section>"""


def written(passages: Passages) -> str:
    """The section; without scripts it says so."""
    channels = "".join(f'<option value="{i}">{_safe(one.name)}</option>' for i, one in enumerate(passages.channels))
    return SKELETON.format(
        title=_safe(passages.title),
        note=_safe(passages.note),
        unit=_safe(passages.unit),
        channels=channels,
        data=_data(passages),
    )


FINE = 2000
"""Steps a nat in which log-probs of likely words are written: 2 bytes hold probabilities to 0.05%, down to e⁻³²."""


def _data(passages: Passages) -> str:
    """Every text once, and numbers to three digits; nothing in it can end the element that it stands in."""
    texts: dict[str, int] = {}
    place_of = np.array([texts.setdefault(visible(text), len(texts)) for text in passages.words], dtype=np.int64)
    rows = [
        {
            "group": one.group,
            "name": visible(one.name),
            "tokens": [texts.setdefault(visible(text), len(texts)) for text in one.tokens],
            "values": [_numbers(row) for row in one.values],
            **({"likely": [_likely(side, place_of) for side in one.likely]} if one.likely else {}),
        }
        for one in passages.passages
    ]
    record = {
        "channels": [{"name": one.name, "unit": one.unit, "signed": one.signed} for one in passages.channels],
        "groups": [
            {"text": visible(one.text), "value": _number(one.value), "count": one.count} for one in passages.groups
        ],
        "texts": list(texts),
        "fine": FINE,
        "passages": rows,
    }
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _likely(side: Likely, place_of: np.ndarray) -> Record:
    """Words and log-probs as bytes, a quarter of what digits take: 3 a word and 2 a log-prob, low bytes first."""
    words = place_of[side.words].astype("<u4")[..., None].view(np.uint8)[..., :3]
    with np.errstate(over="ignore"):
        steps = np.minimum(np.rint(-FINE * np.minimum(side.logprobs, 0.0)), 65535)
    chances = steps.astype("<u2")[..., None].view(np.uint8)
    both = np.concatenate([words, chances], axis=-1)
    return {"who": visible(side.who), "count": side.words.shape[1], "bytes": b64encode(both.tobytes()).decode()}


def _numbers(row: np.ndarray) -> list[float | None] | None:
    """None for a channel that has no number at all."""
    return [_number(value) for value in row.tolist()] if np.isfinite(row).any() else None


def _number(value: float) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _safe(text: str) -> str:
    return escape(visible(text))
