"""What this installation has, and what each part of it would need: ``kullback doctor``."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from kullback.documents import Block, Cell, Code, Document, Note, Record, Table, text_of
from kullback.errors import install_line

USES: Mapping[str, str] = {
    "torch": "audit, watch, kl_loss, full-vocabulary KL",
    "hf": "compare, score: models of transformers, rollouts.parquet",
    "dumps": "estimate, watch: dumps of trainers and servers",
    "fast": "estimate: compiled sums of tens of millions of tokens",
    "report": "lab: pictures",
    "jax": "kl_loss and audit in JAX",
    "gguf": "compare: GGUF files",
    "peft": "compare: adapters (LoRA)",
    "quantised": "compare: checkpoints of torchao and bitsandbytes",
    "servers": "compare, score: models behind vLLM, SGLang and other servers",
    "datasets": "compare: prompts out of data sets",
    "frames": "results as data frames, .to_frame()",
    "triton": "full-vocabulary KL on a GPU",
    "trl": "kullback.integrations.trl",
    "tensorboard": "watch --log tensorboard:FOLDER",
    "wandb": "watch --log wandb:PROJECT",
    "ray": "compare --engine ray",
    "trackio": "watch --log trackio:PROJECT",
}
"""What each extra is for."""

COMMANDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "compare": ("hf", ("gguf", "peft", "quantised", "servers", "datasets", "ray", "triton")),
    "estimate": ("", ("dumps", "fast")),
    "score": ("hf", ("dumps", "gguf", "peft", "quantised", "servers")),
    "watch": ("torch", ("dumps", "tensorboard", "wandb", "trackio")),
    "audit": ("torch", ("jax",)),
    "estimators": ("torch", ()),
    "claims": ("", ()),
    "lab": ("", ("report", "torch", "hf")),
    "doctor": ("", ("servers",)),
}
"""The extra without which a command does not run, "" where there is none, and those that it has a use for."""

REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*([^;\[]*)")


@dataclass(frozen=True)
class Package:
    """A package that an extra asks for.

    Attributes:
        name: on the index.
        wanted: versions, as ">=2.4".
        found: the version that is installed; None where none is.
    """

    name: str
    wanted: str
    found: str | None

    @property
    def enough(self) -> bool:
        """Whether it is installed, and not older than is wanted."""
        return self.found is not None and _numbers(self.found) >= _numbers(self.wanted)

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.name} is missing"
        return f"{self.name} {self.found}" + ("" if self.enough else f" ({self.wanted} is needed)")


@dataclass(frozen=True)
class Part:
    """An extra.

    Attributes:
        extra: its name.
        use: what it is for.
        packages: what it asks for.
    """

    extra: str
    use: str
    packages: Sequence[Package]

    @property
    def there(self) -> bool:
        """Whether all of it is installed."""
        return all(package.enough for package in self.packages)

    @property
    def remedy(self) -> str:
        """The command that completes it; "" where it is there."""
        return "" if self.there else install_line(self.extra)


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: as it is written after ``kullback``.
        lacks: the packages without which it does not run, and that are not there.
        more: extras that are not there, and that it would have a use for.
    """

    name: str
    lacks: Sequence[Package]
    more: Sequence[str]

    @property
    def runs(self) -> bool:
        """Whether nothing is missing that it cannot do without."""
        return not self.lacks


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        machine: facts by name.
        parts: extra by extra.
    """

    machine: Mapping[str, str]
    parts: Sequence[Part]

    def to_dict(self) -> Record:
        """Plain values for JSON."""
        parts = [
            {
                "extra": part.extra,
                "use": part.use,
                "there": part.there,
                "packages": {package.name: package.found for package in part.packages},
                "install": part.remedy,
            }
            for part in self.parts
        ]
        commands = [
            {"command": one.name, "runs": one.runs, "lacks": [p.name for p in one.lacks], "more_with": list(one.more)}
            for one in self.commands
        ]
        return {"machine": dict(self.machine), "commands": commands, "parts": parts}

    def document(self) -> Document:
        """What stands on the screen."""
        machine = Table(
            title="This installation",
            note="",
            columns=("", "is"),
            rows=tuple((name, value) for name, value in self.machine.items()),
        )
        blocks: list[Block] = [machine, self._commands(), self._parts()]
        if not all(part.there for part in self.parts):
            blocks += [Note("What is missing comes with this line, EXTRA being a name of the table above:")]
            blocks += [Code(install_line("EXTRA"), "sh")]
        return Document("kullback doctor", tuple(blocks))

    @property
    def commands(self) -> tuple[Command, ...]:
        """Command by command."""
        parts = {part.extra: part for part in self.parts}
        return tuple(
            Command(
                name,
                [package for package in parts[needed].packages if not package.enough] if needed else [],
                [extra for extra in useful if extra in parts and not parts[extra].there],
            )
            for name, (needed, useful) in COMMANDS.items()
        )

    def _commands(self) -> Table:
        rows = []
        for one in self.commands:
            lacks = ", ".join(map(str, one.lacks))
            extra = COMMANDS[one.name][0]
            state = "yes" if one.runs else f"no: {lacks} (extra {extra})"
            rows.append((one.name, state, ", ".join(one.more)))
        return Table(
            title="What each command lacks",
            note="",
            columns=("command", "runs", "could do more with the extras"),
            rows=tuple(rows),
        )

    def _parts(self) -> Table:
        rows: list[tuple[Cell, ...]] = []
        for part in self.parts:
            said = [package for package in part.packages if part.there or not package.enough]
            rows.append((part.extra, "yes" if part.there else "no", part.use, ", ".join(map(str, said))))
        return Table(
            title="What each extra has",
            note="NumPy and SciPy alone estimate from arrays; everything else comes with an extra.",
            columns=("extra", "there", "for", "versions, or what is missing"),
            rows=tuple(rows),
        )


def diagnosed() -> Diagnosis:
    """Look at the machine and at what is installed.

    Example:
        >>> found = diagnosed()
        >>> "Python" in found.machine, found.parts[0].extra
        (True, 'torch')
    """
    parts = (_part(extra, use) for extra, use in USES.items())
    return Diagnosis(dict(_machine()), tuple(part for part in parts if part.packages))


def _part(extra: str, use: str) -> Part:
    wanted = (line.partition(";") for line in metadata.requires("kullback") or ())
    own = [name for name, _, marker in wanted if re.search(rf"extra == ['\"]{extra}['\"]", marker)]
    return Part(extra, use, tuple(_package(line) for line in own if not line.startswith("kullback")))


def _package(line: str) -> Package:
    match = REQUIREMENT.match(line.strip())
    assert match is not None
    name = match[1]
    try:
        found: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = None
    return Package(name, match[2].strip(), found)


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version, or of the lowest that a requirement allows."""
    lowest = re.search(r">=\s*([\d.]+)", version)
    return tuple(int(part) for part in re.findall(r"\d+", (lowest[1] if lowest else version).split("+")[0])[:3])


def _machine() -> Iterator[tuple[str, str]]:
    from kullback import __version__

    yield "kullback", f"{__version__}, from {Path(__file__).parents[1]}"
    yield "Python", f"{platform.python_version()} ({sys.executable})"
    yield "system", f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield "processors", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
    yield "memory", _memory()
    yield "devices", _devices()
    compiler = _first("c++", "g++", "clang++")
    yield "C++ compiler", compiler or "none: torch.compile has none to use, and full-vocabulary KL runs uncompiled"
    yield "C compiler", _first("cc", "gcc", "clang") or "none: Triton has none to build its launcher with, on a GPU"


def _first(*names: str) -> str | None:
    """Where the first of these programs lies."""
    return next((found for name in names if (found := shutil.which(name))), None)


def _memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return "not known"
    return f"{pages * size / 2**30:.1f} GiB"


def _devices() -> str:
    """Those that torch sees."""
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({text_of(str(error))})"
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        found += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    if torch.version.cuda and len(found) == 1:
        found.append(f"no GPU is seen by torch {torch.__version__}, built for CUDA {torch.version.cuda}")
    return ", ".join(found)
