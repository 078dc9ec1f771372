"""The folder with another architecture's Python: its command line."""

from __future__ import annotations

import shlex

import pytest

from edgekit.device import debian
from edgekit.errors import EXIT_USAGE


@pytest.mark.parametrize(
    "values", [(), ("armv7l",), ("armv7l", "3.11", "more"), ("armv7l", "2.7"), ("x86_64", "3.11")]
)
def test_a_command_line_that_is_wrong(capsys, values) -> None:
    assert debian.main(values) == EXIT_USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "armv7l" in printed.err
    assert "3.11" in printed.err
    assert "Traceback" not in printed.err


def test_a_command_for_a_shell(monkeypatch) -> None:
    monkeypatch.setattr("sys.executable", "/home/me/my env/bin/python3")
    command = debian.command_for("armv7l", "3.11")
    assert shlex.split(command) == [
        *("/home/me/my env/bin/python3", "-m", "edgekit.device.debian", "armv7l", "3.11")
    ]
