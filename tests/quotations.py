"""Whether a quotation stands in a document, by fingerprints of the document: the documents are not ours to ship.

``python tests/quotations.py FOLDER`` takes the fingerprints of the documents ``000_….txt`` to ``004_….txt`` in one.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import zlib
from functools import cache
from pathlib import Path

FINGERPRINTS = Path(__file__).parent / "data" / "quotations.json"
RUN = 3
"""Words, or characters of Chinese, that a fingerprint is of."""

_GREEK = {"λ": "lambda", "π": "pi", "θ": "theta"}
_MARKUP = re.compile(r"\\(?:text|mathrm|mathbb|left|right|frac)\b")
_WORD = re.compile(r"[a-z]+|[0-9]|[一-鿿]")


def words(text: str) -> list[str]:
    """The words of a text and the characters of a Chinese one, without markup and punctuation."""
    for letter, name in _GREEK.items():
        text = text.replace(letter, f" {name} ")
    return _WORD.findall(_MARKUP.sub(" ", text).lower())


def fingerprints(text: str) -> set[int]:
    """24 bits of every run of three words."""
    found = words(text)
    return {zlib.crc32(" ".join(found[i : i + RUN]).encode()) & 0xFFFFFF for i in range(len(found) - RUN + 1)}


@cache
def documents() -> dict[str, set[int]]:
    """The fingerprints of each document."""
    stored = {key: base64.b64decode(text) for key, text in json.loads(FINGERPRINTS.read_text()).items()}
    return {key: {int.from_bytes(b[i : i + 3]) for i in range(0, len(b), 3)} for key, b in stored.items()}


def is_quoted(document: str, quotation: str) -> bool:
    """Whether every piece of a quotation, between its dots, is made of runs of the document."""
    pieces = [piece for piece in quotation.split("…") if words(piece)]
    return bool(pieces) and all(
        len(words(piece)) >= RUN and fingerprints(piece) <= documents()[document] for piece in pieces
    )


def _write(folder: Path) -> None:
    taken = {path.name[:3]: sorted(fingerprints(path.read_text())) for path in sorted(folder.glob("00[0-4]_*.txt"))}
    stored = {key: base64.b64encode(b"".join(f.to_bytes(3) for f in found)).decode() for key, found in taken.items()}
    FINGERPRINTS.write_text(json.dumps(stored, indent=0) + "\n")


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
