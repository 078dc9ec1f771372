"""What edgekit uses of paramiko beyond its documented interface is named, and is there."""

from __future__ import annotations

import ast
from pathlib import Path

import paramiko
import pytest
from paramiko.agent import AgentSSH
from paramiko.auth_handler import AuthHandler
from paramiko.packet import Packetizer

from edgekit.device.ssh import paramiko_private

NAMES = {
    paramiko.Transport: {
        "_channel_handler_table", "_parse_disconnect", "_preferred_ciphers", "_preferred_kex",
        "_preferred_keys", "_preferred_macs", "_preferred_pubkeys", "_send_message",
        "_send_user_message",
    },
    paramiko.Channel: {"_handle_request"},
    AuthHandler: {
        "_client_handler_table", "_finalize_pubkey_algorithm", "_parse_service_accept",
        "_request_auth",
    },
    AgentSSH: {"_close", "_connect"},
}  # fmt: skip
# Without an underscore, but in no documentation.
UNDOCUMENTED = {
    paramiko.Channel(1): [
        "closed", "eof_received", "exit_status", "lock", "out_buffer_cv", "out_window_size",
        "status_event",
    ],
    Packetizer: ["complete_handshake", "handshake_timed_out", "read_message"],
}  # fmt: skip
FOLDER = Path(paramiko_private.__file__).parent
OWN = {"_preferred_", "_kind", "_data", "_is_welcome", "_parse_acceptable"}


def private_names(path: Path) -> set[str]:
    """Names with one underscore: of attributes, and of what a class defines."""
    tree = ast.parse(path.read_text())
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            found |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


@pytest.mark.parametrize("owner", NAMES, ids=lambda owner: owner.__name__)
def test_paramiko_has_the_private_names(owner):
    assert not {name for name in NAMES[owner] if not hasattr(owner, name)}


def test_paramiko_has_the_undocumented_names():
    missing = [n for owner, names in UNDOCUMENTED.items() for n in names if not hasattr(owner, n)]
    assert not missing


def test_one_file_uses_private_names_and_they_are_listed():
    listed = set().union(*NAMES.values())
    assert private_names(Path(paramiko_private.__file__)) - OWN <= listed
    for path in FOLDER.glob("*.py"):
        if path.name != "paramiko_private.py":
            foreign = {
                node.attr
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Attribute) and node.attr.startswith("_")
                if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
            }
            assert not {name for name in foreign if not name.startswith("__")}, path


def test_only_one_file_extends_paramiko_and_what_extends_that_hides_nothing():
    """A private name of our own must not replace one of paramiko's by chance."""
    for path in FOLDER.glob("*.py"):
        bases = {
            base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ClassDef)
            for base in node.bases
        }
        if path.name != "paramiko_private.py":
            assert not bases & {"AuthHandler", "AgentSSH", "Packetizer", "Channel"}, path
        if path.name == "link.py":
            assert not private_names(path) & set(dir(paramiko.Transport))
