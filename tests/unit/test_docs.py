"""What the documents name exists: files, links, commands with their options, scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from conftest import ROOT

from edgekit.cli import bundle_commands, device_commands, host_commands  # noqa: F401 - they register
from edgekit.cli.app import app

PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
    if path.name != "CHANGELOG.md"
)
# Folders of the project: a path in a document that starts so must be there.
PLACES = ("edgekit", "docs", "scripts", "tests", "examples", "targets", ".ci")
# Rooms of edgekit that architecture.md names without the package.
ROOMS = tuple(path.name for path in (ROOT / "edgekit").iterdir() if path.is_dir())
# A target of the reader's own, in an example.
FICTIONAL = {"targets/doorbell.toml"}
CODE = re.compile(r"`([^`\n]+)`")
COMMAND = typer.main.get_command(app)


def code_of(page: Path) -> Iterator[str]:
    text = page.read_text()
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        yield from block.split("\n")
    yield from CODE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def paths_in(text: str) -> Iterator[str]:
    for word in re.findall(r"[\w./-]+", text):
        first = word.split("/")[0]
        if "/" in word and first in (*PLACES, *ROOMS) and not word.startswith("build/"):
            yield word.rstrip("./")


def exists(name: str) -> bool:
    """A file, or a definition in one: ``device/base.Transport``."""
    file = re.sub(r"\.[A-Z]\w*$", ".py", name)
    return any((place / file).exists() for place in (ROOT, ROOT / "edgekit"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = {name for text in code_of(page) for name in paths_in(text)} - FICTIONAL
    tracked = [name for name in named if "*" not in name and "NAME" not in name]
    assert not sorted(name for name in tracked if not exists(name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist_with_their_options(page: Path) -> None:
    wrong = []
    for line in code_of(page):
        if found := re.match(r"(?:\$ )?edgekit +([a-z]+)(.*)", line):
            wrong += problems(found[1], found[2])
    assert not wrong


def problems(verb: str, rest: str) -> Iterator[str]:
    command = COMMAND.commands.get(verb)
    if command is None:
        yield f"edgekit {verb}"
        return
    if (group := getattr(command, "commands", None)) is not None:
        command = group.get((rest.split() or [""])[0])
    if command is None:
        yield f"edgekit {verb}{rest}"
        return
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    asked = rest.split(" -- ")[0].split("#")[0]
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", asked):
        if option not in known and option != "--help":
            yield f"edgekit {verb} {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {m[1] for line in code_of(page) if (m := re.match(r"make (\w+)", line))}
    assert named <= targets
