"""What a trainer's mapping is: which of its functions, with which options, placed where."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kullback.auditing.options import Credit, Placement, Role, Sampler
from kullback.auditing.subject.functions import Function
from kullback.auditing.subject.source import Located, take
from kullback.auditing.trainers.names import Names
from kullback.errors import MissingPackageError, ModelError
from kullback.families import Family

Join = Callable[..., Function]


@dataclass(frozen=True)
class Member:
    """One KL term of a trainer.

    Attributes:
        name: what follows the colon on the command line.
        about: which options of the trainer it is.
        placement: where the trainer puts it.
        functions: ``path/in/package.py:qualname`` of the functions that it is made of.
        names: the column that a parameter takes.
        settings: values of further parameters.
        credit: in the reward, what a token's log-prob is credited with.
        sampler: what drew the samples.
        output: which element of what comes back.
        role: "surrogate" for a loss whose value is no KL and is not meant to be.
        arrays: what its functions take.
        default: whether the trainer does this where nobody says otherwise.
        join: makes one function of log-probs out of `functions`, where there are several or they need a trainer.
    """

    name: str
    about: str
    placement: Placement
    functions: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    credit: Credit = "return"
    sampler: Sampler = "on_policy"
    output: int | str | None = None
    role: Role = "value"
    arrays: str = "torch"
    join: Join | None = None
    default: bool = False

    def function(self, root: Path) -> Located:
        """The function to audit, and how it was got hold of."""
        taken = [take(root / path, qualname) for path, _, qualname in (f.rpartition(":") for f in self.functions)]
        origin = "; ".join(one.origin for one in taken)
        functions = [getattr(one.fn, "__func__", one.fn) for one in taken]  # out of a staticmethod
        if self.join is None:
            return replace(taken[0], fn=functions[0], origin=f"{self.about}; {origin}")
        return replace(taken[0], fn=self.join(*functions), origin=f"{self.about}, driven with a stand-in; {origin}")


@dataclass(frozen=True)
class Trainer:
    """A training library and its KL terms.

    Attributes:
        name: what the command line calls it.
        package: the folder that is imported.
        install: how to get it.
        names: what it calls things.
        members: its KL terms.
        within: the folder of a checkout that holds the package, where it is neither the root nor src.
        checkout_only: whether an installed package of this name is another one, as of a fork.
    """

    name: str
    package: str
    install: str
    names: Names
    members: Family[Member]
    within: str = ""
    checkout_only: bool = False

    def root(self, source: Path | None) -> Path:
        """The folder that holds the package, installed or in a checkout; nothing is imported.

        Raises:
            ModelError: the checkout does not have the package.
            MissingPackageError: it is not installed.
        """
        if source is not None:
            for folder in (source / self.within, source, source / "src"):
                if (folder / self.package).is_dir():
                    return folder
            raise ModelError(f"{source} has no folder {self.package}: --source is a checkout of {self.name}")
        spec = None if self.checkout_only else importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            missing = MissingPackageError(self.name, "torch")
            missing.args = (f"{self.name} is not installed: {self.install}, or pass --source with a checkout of it",)
            raise missing
        return Path(next(iter(spec.submodule_search_locations))).parent

    def version(self, root: Path) -> str:
        """Name and version, of the package or of the checkout."""
        for folder in sorted(root.glob(f"{self.package.replace('-', '_')}-*.dist-info")):
            return f"{self.name} {importlib.metadata.Distribution.at(folder).version}"
        if any((folder / ".git").exists() for folder in (root, *root.parents[:4])):
            shown = subprocess.run(
                ["git", "-C", str(root), "log", "-1", "--format=%h of %cs"], capture_output=True, text=True, check=False
            )
            if shown.returncode == 0:
                return f"{self.name} at {shown.stdout.strip()}"
        return self.name


def members(*given: Member) -> Family[Member]:
    """A trainer's members as a family."""
    return Family(given)
