"""Functions are imported, or taken out of their file without running anything else of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kullback as kb
from kullback.auditing.subject.source import locate, take, taken_out

STACK = '''
"""A module of a training stack that is not installed."""
from __future__ import annotations
import torch
import os.path as path
import stack.helpers.tensors as tensors
from no_such_stack import Actor, register
from stack.helpers import constants
from .helpers.masks import masked_mean as mean
from dataclasses import dataclass

print("the module ran")
raise SystemExit("nothing of this may run")

LIMIT: float = 20.0
BOTH, OTHER = 2.0, 3.0
if path.sep:
    SEPARATOR = path.sep

@dataclass
class Options:
    beta: Actor = 0.5

@register("k3")
@torch.no_grad()
def detached(logprobs: Actor, ref_logprobs) -> Actor:
    return _ratio(logprobs, ref_logprobs)

@register("k1")
def penalty(logprobs: Actor, ref_logprobs: Actor, mask, kind="k1") -> Actor:
    x: Actor = _ratio(logprobs, ref_logprobs).clamp(-LIMIT, LIMIT)
    return tensors.double(x) / BOTH * constants.ONE if kind == "k1" else mean(x, mask) * Options().beta

def _ratio(a, b):
    return a - b

def lost(logprobs, ref_logprobs):
    return Actor(logprobs)

class Trainer(Actor):
    @staticmethod
    def plain(logprobs, ref_logprobs):
        return _ratio(logprobs, ref_logprobs)

    def loss(self, logprobs, ref_logprobs):
        return self.beta * _ratio(logprobs, ref_logprobs)

    def step(self, batch):
        rewards = self.reward(batch)
        if self.beta:
            per_token_kl = old_logps - ref_logps
            kl = (per_token_kl * mask).sum(-1)
            kl = gather(kl)
        return rewards - kl
'''


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    package = tmp_path / "stack"
    (package / "helpers").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('the package ran')")
    (package / "helpers" / "__init__.py").write_text("raise SystemExit('the helpers ran')")
    (package / "helpers" / "tensors.py").write_text("import no_such_stack\ndef double(x):\n    return 2 * x\n")
    (package / "helpers" / "constants.py").write_text("ONE = 1.0\n")
    (package / "helpers" / "masks.py").write_text(
        "import torch\nEPS = 1e-8\ndef masked_mean(x, mask):\n    return (x * mask).sum() / (mask.sum() + EPS)\n"
    )
    file = package / "losses.py"
    file.write_text(STACK)
    return file


def test_a_function_comes_with_its_helpers_constants_and_imports(
    stack: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = taken_out(stack, "penalty")
    q, p = torch.tensor([[-1.0]]), torch.tensor([[-2.0]])
    assert float(found.fn(q, p, torch.ones(1, 1))) == 1.0
    assert float(found.fn(q, p, torch.ones(1, 1), kind="mean")) == pytest.approx(0.5)
    assert "LIMIT" in found.origin
    assert "_ratio" in found.origin
    assert "without decorator @register('k1')" in found.origin
    assert "nothing else of the file ran" in found.origin
    assert capsys.readouterr().out == ""
    assert kb.audit(found.fn, placement="reward").numerics.lost_below != 0


def test_what_cannot_be_imported_is_taken_out_and_said(stack: Path) -> None:
    found = locate(f"{stack}:Trainer.plain")
    assert "because importing it failed" in found.origin
    assert kb.audit(found.fn, placement="reward").findings == ()


def test_a_method_has_the_attributes_that_are_given(stack: Path) -> None:
    found = locate(f"{stack}:Trainer.loss", {"beta": 0.5})
    assert kb.audit(found.fn, placement="reward").value.scale == 0.5
    report = kb.audit(locate(f"{stack}:Trainer.loss").fn, placement="reward")
    assert "--set self.beta=VALUE" in report.findings[0].message


def test_kept_decorators_still_decorate(stack: Path) -> None:
    q = torch.tensor([[-1.0]], requires_grad=True)
    assert not take(stack, "detached").fn(q, q.detach()).requires_grad


def test_names_that_cannot_be_resolved_are_named_when_they_are_used(stack: Path) -> None:
    report = kb.audit(take(stack, "lost").fn, placement="reward")
    assert report.findings[0].code == "KB001"
    assert "Actor" in report.findings[0].message


def test_statements_of_a_method_become_a_function(stack: Path) -> None:
    found = take(stack, "Trainer.step>per_token_kl>kl")
    names = {"old_logps": "logprobs", "ref_logps": "ref_logprobs"}
    assert kb.audit(found.fn, placement="reward", names=names).findings == ()
    assert "assign per_token_kl and kl" in found.origin
    with pytest.raises(kb.errors.InputError, match="does not assign nothing"):
        take(stack, "Trainer.step>nothing")


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        ("no_colon", kb.errors.InputError, "a target is"),
        ("missing.py:f", kb.errors.FileError, "no file missing.py"),
        ("math:nothing", kb.errors.InputError, "math has no nothing"),
        ("math:pi", kb.errors.InputError, "pi is a float"),
        ("no_such_module_at_all:f", kb.errors.InputError, "cannot be imported"),
    ],
)
def test_targets_that_are_not_there(target: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        locate(target)


def test_a_file_that_is_not_python(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def f(:\n")
    with pytest.raises(kb.errors.FileError, match="cannot be read as Python"):
        locate(f"{tmp_path / 'broken.py'}:f")


def test_a_name_that_two_files_ask_for_reaches_both(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_stack\n")
    (package / "c.py").write_text("def same(x):\n    return x\n")
    (package / "b.py").write_text("from .c import same\ndef half(x):\n    return same(x)\n")
    (package / "a.py").write_text(
        "from .c import same\nfrom .b import half\n"
        "def kl(logprobs, ref_logprobs, mask):\n    return same(logprobs) - half(ref_logprobs)\n"
    )
    found = locate(f"{package / 'a.py'}:kl")
    assert kb.audit(found.fn, placement="reward").value.target is kb.REVERSE_KL
