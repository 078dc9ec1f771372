"""targets probe: what a device is, and a target file for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.device.connect import connection
from edgekit.device.facts.hardware import hardware_of
from edgekit.device.facts.probe import environment_of
from edgekit.device.facts.target_file import TargetDraft, draft_target, target_toml
from edgekit.documents.probe import ProbeDocument
from edgekit.errors import OutputError, TargetError, UsageError
from edgekit.progress import Progress, Silent
from edgekit.target import read_target


def probe_device(
    device: str = "local",
    output: str | Path | None = None,
    *,
    accept_new_host_key: bool = False,
    progress: Progress | None = None,
) -> ProbeDocument:
    """Read the facts of a device, and write them as a target file if ``output`` names one.

    An existing file is never replaced, unless its content is already the same. Raises
    DeviceError; UsageError for an ``output`` that does not end in .toml; OutputError if it exists
    with other content or cannot be written; TargetError if the device cannot be a target.
    """
    path = Path(output) if output is not None else None
    if path is not None:
        _require_toml(path)
    with connection(device, accept_new_host_key, progress or Silent()) as transport:
        environment = environment_of(transport)
        hardware = hardware_of(transport)
    draft = draft_target(environment, hardware)
    if path is not None:
        _write_target(device, draft, path)
    return ProbeDocument(
        schema_="edgekit.probe/1",
        device=device,
        environment=environment,
        hardware=hardware,
        target=draft.keys,
        target_problems=draft.problems,
        notes=draft.notes,
        output=str(path.absolute()) if path is not None else None,
    )


def _require_toml(path: Path) -> None:
    if path.suffix != ".toml" or not path.stem:
        raise UsageError(
            f"{path} does not end in .toml", "the file's name is the target's: --output my-pi.toml"
        )


def _write_target(device: str, draft: TargetDraft, path: Path) -> None:
    if draft.keys is None:
        lines = "".join(f"\n  {problem}" for problem in draft.problems)
        raise TargetError(
            f"{device} cannot be a target; {path} was not written:{lines}",
            "without --output, edgekit targets probe shows what the device reports",
        )
    text = target_toml(draft)
    with _output_errors(path):
        if path.exists() or path.is_symlink():
            _require_same(path, text)
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".edgekit-draft-") as folder:
            written = Path(folder) / path.name
            written.write_text(text, encoding="utf-8")
            read_target(written)  # a file that edgekit cannot read is not published
            written.rename(path)


def _require_same(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        raise OutputError(
            f"{path} exists and is not what the device reports now; it was not changed",
            "name another file with --output and compare them, or remove this one",
        )


@contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
