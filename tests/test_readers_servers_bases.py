"""llama.cpp's base files: what a writer of the format wrote is read, and the KL of a text is exact to its rounding."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import kullback as kb
from kullback.errors import FileError, InputError
from kullback.rollouts.readers import llama_base
from kullback.rollouts.readers.llama_base import TextKL, kl_between_bases, read_llama_base

N_CTX, CHUNKS = 9, 3
SCORED = N_CTX - 1 - N_CTX // 2
TOKENS = np.arange(N_CTX * CHUNKS).reshape(CHUNKS, N_CTX) % 5


def row(logits: np.ndarray) -> bytes:
    """One position, as the definition of the format has it: float32 arithmetic, 65,536 steps over at most 16 nats."""
    z = logits.astype(np.float32)
    least, most = max(z.min(), z.max() - np.float32(16)), z.max()
    total = np.float32(np.log(np.exp(z - most).sum(dtype=np.float64)))
    step = np.float32((most - least) / np.float32(65535))
    steps = [0 if x <= least or not step else round(float((x - least) / step)) for x in z]
    filled = steps + [0] * (len(steps) % 2)
    return struct.pack(f"<2f{len(filled)}H", step, least - most - total, *filled)


def written(path: Path, logits: np.ndarray, tokens: np.ndarray = TOKENS) -> Path:
    """Logits (chunks · scored, words) as a file."""
    chunks, n_ctx = tokens.shape
    head = b"_logits_" + struct.pack("<3i", n_ctx, logits.shape[-1], chunks)
    path.write_bytes(head + tokens.astype("<i4").tobytes() + b"".join(map(row, logits)))
    return path


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z.astype(np.float32).astype(np.float64)
    shifted = z - z.max(axis=-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def exact(zq: np.ndarray, zp: np.ndarray) -> np.ndarray:
    q, p = log_softmax(zq), log_softmax(zp)
    found: np.ndarray = (np.exp(q) * (q - p)).sum(axis=-1)
    return found


def some(words: int, sd: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, sd, (CHUNKS * SCORED, words))


def between(first: Path, second: Path, positions: int | None = None) -> TextKL:
    blocks = list(kl_between_bases(read_llama_base(first), read_llama_base(second), positions))
    return TextKL(*(np.concatenate(part) for part in zip(*blocks, strict=True)))


@pytest.mark.parametrize("words", [6, 7])
def test_a_distribution_is_read_to_half_a_step(tmp_path: Path, words: int) -> None:
    logits = some(words, 2.0)
    base = read_llama_base(written(tmp_path / "a.kld", logits))
    [block] = base.blocks()
    assert (base.n_ctx, base.n_vocab, base.n_chunk, base.scored) == (N_CTX, words, CHUNKS, SCORED)
    assert np.all(np.abs(block.logprobs - log_softmax(logits)) <= block.step[:, None] / 2 + 1e-6)
    assert block.tokens.tolist() == TOKENS[:, N_CTX // 2 + 1 :].ravel().tolist()
    assert not block.cut.any()


@pytest.mark.parametrize("words", [6, 301])
@pytest.mark.parametrize("apart", [0.0, 1e-3, 3e-2, 1.0])
def test_the_kl_of_a_text_is_exact_to_its_rounding(tmp_path: Path, words: int, apart: float) -> None:
    zq = some(words, 1.5)
    zp = zq + apart * some(words, 1.0, seed=1)
    found = between(written(tmp_path / "q.kld", zq), written(tmp_path / "p.kld", zp))
    truth = exact(zq, zp)
    assert np.all(np.abs(found.token_kl - truth) <= found.rounding)
    assert np.all(found.rounding <= 3e-7 + 1e-3 * np.sqrt(truth))  # and the bound says something
    assert not found.unseen.any()


@pytest.mark.parametrize("side", ["p", "q"])
@pytest.mark.parametrize("size", [1e-4, 1e-2])
def test_the_worst_rounding_stays_within_its_bound(side: str, size: float) -> None:
    """Errors that all pull one way: random ones cancel, and would let half a bound pass."""
    p, q = log_softmax(some(50, 1.0)), log_softmax(some(50, 1.0) + 0.1 * some(50, 1.0, seed=1))
    kl = (np.exp(p) * (p - q)).sum(axis=-1, keepdims=True)
    pull = size * np.sign(p - q - kl if side == "p" else np.exp(p) - np.exp(q))
    moved = (p + pull, q) if side == "p" else (p, q - pull)
    off_p, off_q = (np.abs(log_softmax_wide(a) - b).max(axis=-1) for a, b in zip(moved, (p, q), strict=True))
    a, b = map(log_softmax_wide, moved)
    worst = np.abs((np.exp(a) * (a - b)).sum(axis=-1) - kl[:, 0])
    spread, apart = (np.exp(p) * np.abs(p - q - kl)).sum(axis=-1), np.abs(np.exp(p) - np.exp(q)).sum(axis=-1)
    bound = llama_base._rounding(spread, apart, off_p, off_q)
    assert np.all(worst <= bound)
    assert np.all(worst >= 0.3 * bound)


def log_softmax_wide(z: np.ndarray) -> np.ndarray:
    found: np.ndarray = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    return found


def test_blocks_of_any_size_give_the_same(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a", some(8, 1.0)), written(tmp_path / "b", some(8, 1.0, seed=1))
    whole = between(first, second)
    assert all(np.array_equal(a, b) for a, b in zip(whole, between(first, second, 5), strict=True))


def test_words_that_a_file_does_not_tell_apart_are_said(tmp_path: Path) -> None:
    zq, zp = (
        np.tile([0.0, -1.0, -2.0, -3.0], (CHUNKS * SCORED, 1)),
        np.tile([0.0, -1.0, -18.0, -40.0], (CHUNKS * SCORED, 1)),
    )
    first, second = written(tmp_path / "q", zq), written(tmp_path / "p", zp)
    there, back = between(first, second), between(second, first)
    assert there.unseen == pytest.approx(np.exp(log_softmax(zq))[:, 2:].sum(axis=-1), abs=1e-4)
    assert np.all(there.token_kl < exact(zq, zp))  # their KL is at least what is said
    assert np.all(back.unseen < 1e-6)
    assert np.all(np.abs(back.token_kl - exact(zp, zq)) < back.rounding + 20 * back.unseen)


def test_one_file_is_a_text_that_a_model_scored(tmp_path: Path) -> None:
    logits = some(6, 1.0)
    rollouts = kb.read_rollouts(written(tmp_path / "a.kld", logits))
    assert (rollouts.format, len(rollouts)) == ("llama-base", CHUNKS)
    truth = np.take_along_axis(log_softmax(logits), TOKENS[:, N_CTX // 2 + 1 :].reshape(-1, 1), axis=-1)[:, 0]
    assert np.concatenate([one.column("behavior_logprobs") for one in rollouts]) == pytest.approx(truth, abs=1e-4)
    assert rollouts[1].prompt_tokens == TOKENS[1, : N_CTX // 2 + 1].tolist()


def test_a_law_without_spread_is_read(tmp_path: Path) -> None:
    [block] = read_llama_base(written(tmp_path / "a", np.zeros((CHUNKS * SCORED, 4)))).blocks()
    assert np.exp(block.logprobs) == pytest.approx(0.25)


def test_files_of_two_texts_are_not_compared(tmp_path: Path) -> None:
    first = written(tmp_path / "a", some(6, 1.0))
    other = TOKENS.copy()
    other[1, 2] = 4
    with pytest.raises(InputError, match=r"of two texts: token 11 is 1 in the one and 4 in the other"):
        between(first, written(tmp_path / "b", some(6, 1.0), other))
    with pytest.raises(InputError, match=r"n_vocab 6 and .* 8: write both with the same"):
        between(first, written(tmp_path / "c", some(8, 1.0)))


def header(n_ctx: int, n_vocab: int, n_chunk: int) -> bytes:
    return b"_logits_" + struct.pack("<3i", n_ctx, n_vocab, n_chunk)


WHOLE = header(4, 2, 1) + struct.pack("<4i", 1, 0, 1, 1) + row(np.array([0.0, -1.0]))
BROKEN = {
    "nothing": b"",
    "magic alone": b"_logits_",
    "another magic": b"_logitz_" + WHOLE[8:],
    "half a header": WHOLE[:14],
    "no tokens": WHOLE[:20],
    "half the tokens": WHOLE[:30],
    "no row": WHOLE[:36],
    "half a row": WHOLE[:-2],
    "too much": WHOLE + b"\0\0",
    "a window of nothing": header(0, 2, 1) + WHOLE[20:],
    "a window of two": header(2, 2, 1) + WHOLE[20:],
    "negative words": header(4, -2, 1) + WHOLE[20:],
    "no window": header(4, 2, 0),
    "negative windows": header(4, 2, -1),
    "too many words": header(4, 2**31 - 1, 1) + WHOLE[20:],
    "too many windows": header(4, 2, 2**31 - 1) + WHOLE[20:],
    "a step that is nan": WHOLE[:36] + struct.pack("<2f2H", float("nan"), -1.0, 0, 1),
    "a negative step": WHOLE[:36] + struct.pack("<2f2H", -1e-5, -1.0, 0, 1),
    "a step of more than 16 nats": WHOLE[:36] + struct.pack("<2f2H", 1.0, -1.0, 0, 1),
    "a least log-prob above 0": WHOLE[:36] + struct.pack("<2f2H", 1e-5, 1.0, 0, 1),
    "an infinite one": WHOLE[:36] + struct.pack("<2f2H", 1e-5, -float("inf"), 0, 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.kld"
    path.write_bytes(BROKEN[name])
    with pytest.raises(FileError, match=re_of(path)) as refused:
        list(read_llama_base(path).blocks())
    assert "\n" not in str(refused.value)
    with pytest.raises(FileError):
        list(kb.read_rollouts(path))


def re_of(path: Path) -> str:
    return str(path).replace(".", r"\.")


def test_a_token_that_is_no_word_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.kld"
    path.write_bytes(WHOLE[:32] + struct.pack("<i", 2) + WHOLE[36:])
    with pytest.raises(FileError, match="none of the 2 words"):
        list(kb.read_rollouts(path))


def test_no_file_is_one_sentence() -> None:
    with pytest.raises(FileError, match=r"nowhere\.kld cannot be read"):
        read_llama_base("nowhere.kld")
