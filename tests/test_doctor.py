"""What an installation has, and what it would need."""

from __future__ import annotations

import json
from importlib import metadata
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from kullback.cli.app import app
from kullback.errors import install_line
from kullback.jobs import doctor
from kullback.jobs.doctor import COMMANDS, USES, Diagnosis, Package, Part, diagnosed


def test_every_extra_is_there() -> None:
    own = set(metadata.metadata("kullback").get_all("Provides-Extra") or ()) - {"all", "bench", "dev"}
    assert set(USES) == own


def test_every_command_is_there_and_names_extras_that_are() -> None:
    root: Any = typer.main.get_command(app)
    assert set(COMMANDS) == set(root.commands)
    assert {extra for needed, useful in COMMANDS.values() for extra in (needed, *useful) if extra} <= set(USES)


def test_a_command_says_what_it_lacks_and_the_line_that_brings_it_is_not_wrapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacking = [Package("torch", ">=2.4", "2.3.9" if extra == "torch" else None) for extra in USES]
    found = Diagnosis({}, [Part(extra, "", [package]) for extra, package in zip(USES, lacking, strict=True)])
    commands = {one.name: one for one in found.commands}
    assert not commands["compare"].runs
    assert commands["estimate"].runs
    assert commands["estimate"].more == ["dumps", "fast"]
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(doctor, "diagnosed", lambda: found)
    out = CliRunner().invoke(app, ["doctor"]).output
    assert install_line("EXTRA") in out
    assert "torch 2.3.9 (>=2.4 is needed)" in " ".join(out.split())
    both = [{"command": name, "runs": False, "lacks": ["torch"]} for name in ("watch", "audit")]
    rows = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).output)["commands"]
    assert [{key: row[key] for key in both[0]} for row in rows if row["command"] in ("watch", "audit")] == both


def test_what_is_installed_has_its_version_and_what_is_not_the_command_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = metadata.version

    def without_jax(name: str) -> str:
        if name == "jax":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(doctor.metadata, "version", without_jax)
    parts = {part.extra: part for part in diagnosed().parts}
    assert parts["torch"].there
    assert parts["torch"].packages[0].found == version("torch")
    assert not parts["jax"].there
    assert parts["jax"].remedy == install_line("jax")
    out = CliRunner().invoke(app, ["doctor", "--json"]).output
    [jax] = [part for part in json.loads(out)["parts"] if part["extra"] == "jax"]
    assert jax == {
        "extra": "jax",
        "use": USES["jax"],
        "there": False,
        "packages": {"jax": None},
        "install": install_line("jax"),
    }


@pytest.mark.parametrize(
    ("found", "wanted", "enough"),
    [("2.13.0+cpu", ">=2.4", True), ("2.3.9", ">=2.4", False), ("10.0", ">=9", True), (None, ">=1", False)],
)
def test_a_package_that_is_too_old_is_not_enough(found: str | None, wanted: str, enough: bool) -> None:
    package = Package("x", wanted, found)
    assert package.enough is enough
    assert ("is needed" in str(package)) == (found is not None and not enough)
