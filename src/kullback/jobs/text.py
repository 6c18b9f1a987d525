"""Compare two language models on a given text, teacher-forced, as people who quantise models do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kullback.documents import plain
from kullback.errors import InputError, KullbackError, StoppedError
from kullback.estimation.means import Share, mean_by_group, share_by_group
from kullback.estimation.result import Estimate
from kullback.jobs.comparison import batch_rows, loaded, prepare_output, write_json
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.local import Progress
from kullback.jobs.prompts import check_prompts, read_texts

if TYPE_CHECKING:
    from kullback.models import LanguageModel, Scores

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)

DOCUMENTS = 20
"""Documents from which errors are clustered by document; below, by window."""


@dataclass(frozen=True)
class TextComparison:
    """What `compare_text` found; every number is over the tokens of the text.

    Attributes:
        policy, reference: the models' names.
        forward: mean KL(reference‖policy) a token, what quantisers call KLD, with a clustered error.
        reverse: mean KL(policy‖reference) a token.
        quantiles: of the forward token KL, by probability; 1.0 is the largest.
        same_top: share of tokens at which both models find the same token most likely, with its error.
        rms_delta_p: √ mean (q − p)² of the text's own tokens' probabilities.
        mean_delta_p: mean q − p.
        perplexity, ref_perplexity: of the text under each model.
        tokens, windows: how much was scored.
        settings: how.
        seconds: wall time.
        complete: False where the job was stopped before its end.
    """

    policy: str
    reference: str
    forward: Estimate
    reverse: Estimate
    quantiles: dict[float, float]
    same_top: Share
    rms_delta_p: float
    mean_delta_p: float
    perplexity: float
    ref_perplexity: float
    tokens: int
    windows: int
    settings: dict[str, Any]
    seconds: float
    complete: bool

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints and estimate.json holds."""
        records = [
            {**estimate.to_dict(), "direction": direction}
            for direction, estimate in (("forward", self.forward), ("reverse", self.reverse))
        ]
        record = {
            "policy": self.policy,
            "reference": self.reference,
            "settings": self.settings,
            "complete": self.complete,
            "tokens": self.tokens,
            "windows": self.windows,
            "seconds": round(self.seconds, 3),
            "estimates": records,
            "quantiles": {f"{probability:g}": value for probability, value in self.quantiles.items()},
            "same_top": self.same_top.to_dict(),
            "rms_delta_p": self.rms_delta_p,
            "mean_delta_p": self.mean_delta_p,
            "perplexity": self.perplexity,
            "ref_perplexity": self.ref_perplexity,
        }
        return dict(plain(record))


@dataclass(frozen=True)
class _Window:
    """A stretch of a document: tokens read first, then tokens that are scored."""

    document: int
    context: list[int]
    scored: list[int]


def compare_text(
    policy: str | LanguageModel,
    reference: str | LanguageModel,
    text: str | Path | Sequence[str],
    *,
    context_length: int = 512,
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    dtype: str = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> TextComparison:
    """Exact token KLs of two models on a text, every token scored once with at least half a window before it.

    Nothing is sampled: prefixes come from the text, so these are neither KL(q‖p) nor KL(p‖q) of sequences,
    but how far the next-token distributions are apart where the text goes.

    Args:
        policy, reference: the changed and the original model, as in `kullback.compare`.
        text: a file (.txt is one document; .jsonl or .parquet with a column "text") or documents.
        context_length: tokens of a window; capped by what the models read.
        batch_size, device, dtype, output, overwrite, on_progress: as in `kullback.compare`; `output` gets
            estimate.json.

    Raises:
        InputError, ModelError, FileError, StoppedError: as `kullback.compare`.
    """
    from kullback.models import check_vocabulary

    folder = None if output is None else prepare_output(output, overwrite=overwrite, names=["estimate.json"])
    texts = read_texts(text) if isinstance(text, str | Path) else [str(t) for t in check_prompts(text, "text")]
    q, p = loaded(policy, device, dtype), loaded(reference, device, dtype)
    vocab = check_vocabulary(q, p)
    length = min(context_length, q.context, p.context)
    if length < 4:
        raise InputError(f"context_length={length} came, but a window needs at least 4 tokens")
    windows = [w for number, t in enumerate(texts) for w in _windows(number, q.encode(t), length)]
    if not windows:
        raise InputError("the text is shorter than two tokens: nothing can be scored")
    rows = batch_rows(batch_size, q, vocab, length)
    started = time.perf_counter()
    ended, scores = _score(q, p, windows, rows, vocab, on_progress)
    if not scores:
        raise ended or InputError("nothing was scored")
    settings = {
        "documents": len(texts),
        "context_length": length,
        "batch_size": rows,
        "device": str(q.device),
        "dtype": q.dtype,
    }
    result = _summary(
        q.name, p.name, windows[: len(scores)], scores, settings, time.perf_counter() - started, ended is None
    )
    if folder is not None:
        write_json(folder / "estimate.json", result.to_dict())
    if ended is not None:
        ended.result = result
        raise ended
    return result


def _windows(document: int, tokens: list[int], length: int) -> Iterator[_Window]:
    """Cut a document so that every token but the first is scored exactly once."""
    start = 1
    while start < len(tokens):
        context = tokens[max(0, start - length // 2) : start]
        scored = tokens[start : start + length - len(context)]
        yield _Window(document, context, scored)
        start += len(scored)


def _score(
    q: LanguageModel,
    p: LanguageModel,
    windows: list[_Window],
    rows: int,
    vocab: int,
    on_progress: Callable[[Progress], None],
) -> tuple[KullbackError | None, list[Scores]]:
    from kullback.models import score

    scores: list[Scores] = []
    tokens = 0
    try:
        with safe_interrupts() as check:
            for start in range(0, len(windows), rows):
                batch = windows[start : start + rows]
                scores += score(q, p, [w.context for w in batch], [w.scored for w in batch], vocab=vocab)
                tokens += sum(len(w.scored) for w in batch)
                on_progress(Progress(len(scores), len(windows), tokens))
                check()
    except KeyboardInterrupt:
        return StoppedError(
            f"stopped after {len(scores)} of {len(windows)} windows: what is shown rests on those"
        ), scores
    return None, scores


def _summary(
    policy: str,
    reference: str,
    windows: list[_Window],
    scores: list[Scores],
    settings: dict[str, Any],
    seconds: float,
    complete: bool,
) -> TextComparison:
    logprobs, ref_logprobs, forward = (
        np.concatenate([getattr(s, name) for s in scores]) for name in ("logprobs", "ref_logprobs", "reverse_token_kl")
    )
    documents = [w.document for w in windows]
    groups = documents if len(set(documents)) >= DOCUMENTS else list(range(len(windows)))
    delta = np.exp(logprobs) - np.exp(ref_logprobs)
    return TextComparison(
        policy=policy,
        reference=reference,
        forward=mean_by_group([s.reverse_token_kl for s in scores], groups),
        reverse=mean_by_group([s.token_kl for s in scores], groups),
        quantiles={
            **{level: float(np.quantile(forward, level)) for level in QUANTILES},
            1.0: float(forward.max()),
        },
        same_top=share_by_group([s.top == s.ref_top for s in scores], groups),
        rms_delta_p=float(np.sqrt(np.mean(delta**2))),
        mean_delta_p=float(np.mean(delta)),
        perplexity=float(np.exp(-np.mean(logprobs))),
        ref_perplexity=float(np.exp(-np.mean(ref_logprobs))),
        tokens=len(logprobs),
        windows=len(windows),
        settings={**settings, "clustered_by": "document" if groups is documents else "window"},
        seconds=seconds,
        complete=complete,
    )

