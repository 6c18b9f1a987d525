"""Compare two language models on a given text, teacher-forced, as people who quantise models do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from kullback.arrays import Float64
from kullback.documents import Record
from kullback.errors import InputError, StoppedError
from kullback.estimation.means import mean_by_group, share_by_group
from kullback.jobs.endings import handed_over
from kullback.jobs.interrupts import safe_interrupts
from kullback.jobs.limits import check_counts
from kullback.jobs.outcomes import TextComparison
from kullback.jobs.outputs import ESTIMATE, check_output, results_in
from kullback.jobs.plans import batch_rows
from kullback.jobs.progress import OnProgress, Progress, unheard
from kullback.jobs.prompts import asked_texts
from kullback.jobs.windows import Cut, Window, windows_of
from kullback.jobs.worker import check_mass, check_tokens
from kullback.models.opening import opened_pair
from kullback.models.outside import outside_of, pair_notes
from kullback.models.pairs import Scores, check_vocabulary, gives_distributions, places, score
from kullback.models.protocols import DistributionScorer, Scorer

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)

DOCUMENTS = 20
"""Documents from which errors are clustered by document; below, by window."""


@dataclass(frozen=True)
class TextPlan:
    """What is to be scored: every window once, `batch_rows` at a time, over the logits that both models share."""

    windows: tuple[Window, ...]
    documents: int
    context_length: int
    cut: Cut
    batch_rows: int
    vocab: int

    @property
    def settings(self) -> Record:
        """How the text is scored, for people and machines."""
        return {
            "documents": self.documents,
            "context_length": self.context_length,
            "windows": self.cut,
            "batch_size": self.batch_rows,
        }


def compare_text(
    policy: str | Scorer,
    reference: str | Scorer,
    text: str | Path | Sequence[str],
    *,
    text_column: str | None = None,
    context_length: int = 512,
    windows: Cut = "overlapping",
    batch_size: int | Literal["auto"] = "auto",
    device: str = "auto",
    dtype: str = "auto",
    allow_outside_mass: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = unheard,
) -> TextComparison:
    """Exact token KLs of two models on a text, every token scored once with at least half a window before it.

    Nothing is sampled: prefixes come from the text, so these are neither KL(q‖p) nor KL(p‖q) of sequences,
    but how far the next-token distributions are apart where the text goes.

    Args:
        policy, reference: the changed and the original model, as in `kullback.compare`; both must give whole
            next-token distributions.
        text: a file (.txt is one document; .jsonl, .json, .csv, .tsv or .parquet with a column "text", each also as
            .gz), an id or folder of `datasets`, or documents.
        text_column: where in the rows the text is; None to look for text, content and document.
        context_length: tokens of a window; capped by what the models read.
        windows: "overlapping", as said, or "llama.cpp": windows that do not overlap, of which the second half is
            scored, and what is left at the end of a document is dropped, as `llama-perplexity --kl-divergence` does.
            Fewer tokens are then scored, none of them with a short context, and the mean is lower.
        batch_size, device, dtype, allow_outside_mass, output, overwrite, on_progress: as in `kullback.compare`;
            `output` gets estimate.json.

    Raises:
        InputError, ModelError, FileError, StoppedError: as `kullback.compare`.

    Example:
        >>> import kullback as kb
        >>> found = kb.compare_text("builtin:tuned", "builtin:base", ["The small dog went to the lake."])
        >>> found.windows, found.forward.unit
        (1, 'token')
    """
    check_counts({"context_length": context_length})
    check_output(output, overwrite=overwrite, names=[ESTIMATE])
    texts, told = asked_texts(text, text_column)
    pair = opened_pair(policy, reference, device=device, dtype=dtype)
    q, p = _exact(pair[0]), _exact(pair[1])
    plan = _plan((q, p), texts, (windows, context_length), batch_size)
    started = time.perf_counter()
    with results_in(output, overwrite=overwrite, names=[ESTIMATE]) as folder:
        scores, ended = _scored(plan, (q, p), on_progress, allowed=allow_outside_mass)
        if not scores:
            raise ended or InputError("nothing was scored")
        seconds = time.perf_counter() - started
        with safe_interrupts():  # the seconds that the estimates take are too late to stop
            found = _outcome(plan, (q, p), scores, seconds=seconds, complete=len(scores) == len(plan.windows))
            said = {"text": " ".join(told)} if told else {}
            return handed_over(replace(found, settings={**found.settings, **said}), folder, ended)


def _exact(model: Scorer) -> DistributionScorer:
    if not gives_distributions(model):
        raise InputError(
            f"{model.name} gives log-probs only, but on a text the exact KL of next-token distributions is wanted: "
            "name a model whose logits are at hand, or sample with kullback.compare"
        )
    return model


def _plan(
    pair: tuple[DistributionScorer, DistributionScorer],
    texts: Sequence[str],
    cutting: tuple[Cut, int],
    batch_size: int | Literal["auto"],
) -> TextPlan:
    q, p = pair
    vocab = check_vocabulary(q, p)
    cut, context_length = cutting
    length = min(context_length, q.context, p.context)
    if length < 4:
        raise InputError(f"context_length={length} came, but a window needs at least 4 tokens")
    encoded = [q.encode(text) for text in texts]
    check_tokens(vocab, "the text", encoded)
    windows = tuple(windows_of(encoded, length, cut, start=q.encode("")[:1]))
    if not windows:
        raise InputError(_too_short(cut, length))
    return TextPlan(
        windows=windows,
        documents=len(texts),
        context_length=length,
        cut=cut,
        batch_rows=batch_rows(batch_size, q, vocab, length),
        vocab=vocab,
    )


def _too_short(cut: Cut, length: int) -> str:
    if cut == "overlapping":
        return "the text is shorter than two tokens: nothing can be scored"
    return f"no document has {length} tokens, a whole window as llama.cpp cuts them: lower --context-length"


def _scored(
    plan: TextPlan, pair: tuple[DistributionScorer, DistributionScorer], on_progress: OnProgress, *, allowed: bool
) -> tuple[list[Scores], BaseException | None]:
    """What was scored, and the error that ended it early, if one did."""
    scores: list[Scores] = []
    tokens = 0
    try:
        with safe_interrupts() as check:
            for start in range(0, len(plan.windows), plan.batch_rows):
                batch = plan.windows[start : start + plan.batch_rows]
                found = score(
                    *pair, [w.context for w in batch], [w.scored for w in batch], vocab=plan.vocab, drawn=False
                )
                check_mass(pair, found, allowed=allowed)
                scores += found
                tokens += sum(len(w.scored) for w in batch)
                on_progress(Progress(len(scores), len(plan.windows), tokens))
                check()
    except KeyboardInterrupt:
        return scores, StoppedError(
            f"stopped after {len(scores)} of {len(plan.windows)} windows: what is shown rests on those"
        )
    except Exception as error:  # a callback's, say: what is scored is shown all the same
        return scores, error
    return scores, None


def _outcome(
    plan: TextPlan,
    pair: tuple[DistributionScorer, DistributionScorer],
    scores: Sequence[Scores],
    *,
    seconds: float,
    complete: bool,
) -> TextComparison:
    q, p = pair
    ref_logprobs, forward = (
        np.concatenate([s.column(name) for s in scores]) for name in ("ref_logprobs", "reverse_token_kl")
    )
    logprobs = np.concatenate([_whole(s) for s in scores])
    delta = np.exp(logprobs) - np.exp(ref_logprobs)
    clustered_by, groups = _groups(plan.windows[: len(scores)])
    shared = {} if q.vocab == p.vocab == plan.vocab else {"shared_vocab": plan.vocab}
    return TextComparison(
        policy=q.name,
        reference=p.name,
        forward=mean_by_group([s.column("reverse_token_kl") for s in scores], groups),
        reverse=mean_by_group([s.column("token_kl") for s in scores], groups),
        quantiles=_quantiles(forward),
        same_top=share_by_group([s.column("top") == s.column("ref_top") for s in scores], groups),
        rms_delta_p=float(np.sqrt(np.mean(delta**2))),
        mean_delta_p=float(np.mean(delta)),
        perplexity=float(np.exp(-np.mean(logprobs))),
        ref_perplexity=float(np.exp(-np.mean(ref_logprobs))),
        tokens=len(logprobs),
        windows=len(scores),
        settings={**plan.settings, **shared, **places(q, p), "clustered_by": clustered_by},
        seconds=seconds,
        complete=complete,
        notes=tuple(dict.fromkeys(_notes((q, p), scores))),
    )


def _whole(found: Scores) -> Float64:
    """Log-probs of the text's tokens under the policy's whole law, as the reference's are."""
    return found.logprobs if found.outside is None else found.logprobs + np.log1p(-found.outside)


def _notes(pair: tuple[DistributionScorer, DistributionScorer], scores: Sequence[Scores]) -> Iterator[str]:
    q, p = pair
    for model in pair:
        yield from getattr(model, "notes", ())
    yield from pair_notes(q, p)
    columns = ([s.outside for s in scores], [s.ref_outside for s in scores])
    for model, other, column in ((q, p, columns[0]), (p, q, columns[1])):
        note = outside_of(column).note(model.name, other.name)
        if note is not None:
            yield f"{note}: each KL is from a law kept to the tokens that both have to the other model's whole law"


def _groups(windows: Sequence[Window]) -> tuple[Literal["document", "window"], list[int]]:
    """By what errors are clustered, and the cluster of each window."""
    documents = [window.document for window in windows]
    if len(set(documents)) >= DOCUMENTS:
        return "document", documents
    return "window", list(range(len(windows)))


def _quantiles(values: Float64) -> dict[float, float]:
    """Quantiles by probability, and the largest value at 1."""
    return {**{level: float(np.quantile(values, level)) for level in QUANTILES}, 1.0: float(values.max())}
