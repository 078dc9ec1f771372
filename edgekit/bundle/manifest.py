"""The manifest: all that a bundle deploys, by content. Equal inputs give equal bytes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from edgekit.cache import file_digest
from edgekit.documents.base import canonical_json
from edgekit.errors import BundleError, UsageError
from edgekit.frozen import Frozen, Omitted
from edgekit.plan import Plan
from edgekit.program import Program, TensorSpec
from edgekit.target import Architecture
from edgekit.values import RuntimeName

MANIFEST = "manifest.json"
VERDICT = "verdict.json"
RUNNER = "runner"
CLIENT = "edgekit_model.py"
LIBRARY_FOLDER = "lib"
STATE_FOLDER = "state"
BUNDLE_SCHEMA: Literal["edgekit.bundle/2"] = "edgekit.bundle/2"
# The largest manifest that is read: a damaged one must not fill the memory.
MAX_JSON_BYTES = 64_000_000

Role = Literal["model", "runner", "library", "golden", "client", "state"]
# size_mb counts these and the manifest. Initial values of states are inputs and do not count.
COUNTED_ROLES: tuple[Role, ...] = ("model", "runner", "library")


# The name of a deployment is the name of a folder on the device.
NAME = r"^\w([\w.+ -]*[\w.+-])?$"


def check_name(name: str) -> str:
    """Return the name. Raises UsageError if it is not a valid name of a deployment."""
    if not re.fullmatch(NAME, name):
        raise UsageError(
            f"{name!r} cannot be the name of a deployment",
            "use letters, digits, dots, dashes, underscores and inner spaces; --name sets the name",
        )
    return name


class File(Frozen):
    path: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*$")
    role: Role
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Needs(Frozen):
    """The requirements for a device. ``cpu``: the core that the bundle is for, by QEMU's name;
    ``cpu_features``: by their names in /proc/cpuinfo. ``pythons``: the versions of Python that its
    runner is for; empty for a native runner.
    """

    architecture: Architecture
    cpu: str
    glibc: str
    glibcxx: str
    cpu_features: tuple[str, ...] = ()
    pythons: Omitted[tuple[str, ...]] = ()


class RuntimeInfo(Frozen):
    """The runtime. ``good_until``: which later versions still read the model, in words."""

    name: RuntimeName
    version: str
    good_until: str


class Golden(Frozen):
    """A test case for devices: input files, and the artifact's outputs for them on the host.

    If an input file is smaller than its tensor, its content is repeated. An output file has only
    every ``stride``-th element of its tensor.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    output_strides: tuple[int, ...]


class StateTensor(Frozen):
    """A state of a model. Each call's ``output`` is the next call's ``input``.

    ``initial``: the file with the input of a sequence's first call (raw, in C order).
    """

    input: str
    output: str
    initial: str


class Manifest(Frozen):
    """The manifest of a bundle. ``root``: the store's folder on the device, if not the default."""

    schema_: Literal["edgekit.bundle/2"] = Field(default=BUNDLE_SCHEMA, alias="schema")
    edgekit: str
    name: str = Field(pattern=NAME)
    target: str
    root: str | None = None
    threads: int
    needs: Needs
    runtime: RuntimeInfo
    plan: Plan
    program: Program
    golden: Golden
    state: tuple[StateTensor, ...] = ()
    files: tuple[File, ...]

    @model_validator(mode="after")
    def _states_are_inputs_and_outputs(self) -> Self:
        """Require that the states are the last inputs and the last outputs, in order."""
        count, files = len(self.state), {file.path for file in self.files if file.role == "state"}
        inputs = self.program.inputs[len(self.program.inputs) - count :]
        outputs = self.program.outputs[len(self.program.outputs) - count :]
        rows = [(spec.name, then.name) for spec, then in zip(inputs, outputs, strict=False)]
        if rows != [(one.input, one.output) for one in self.state]:
            raise ValueError("its states are not the last inputs and outputs of its program")
        if not {one.initial for one in self.state} <= files:
            raise ValueError("the initial value of a state is not among its files")
        return self

    @property
    def own_inputs(self) -> tuple[TensorSpec, ...]:
        """The program's inputs without the states."""
        return self.program.inputs[: len(self.program.inputs) - len(self.state)]

    @property
    def own_outputs(self) -> tuple[TensorSpec, ...]:
        return self.program.outputs[: len(self.program.outputs) - len(self.state)]

    @property
    def model(self) -> str:
        return next(file.path for file in self.files if file.role == "model")

    def to_bytes(self) -> bytes:
        """Canonical JSON with a digest over all other keys. ``state`` is left out if empty."""
        return seal(self.model_dump(mode="json", exclude=None if self.state else {"state"}))

    @property
    def digest(self) -> str:
        return str(json.loads(self.to_bytes())["digest"])

    @property
    def size_mb(self) -> float:
        """The size of what a device needs: model, runner, libraries and the manifest."""
        counted = sum(file.size for file in self.files if file.role in COUNTED_ROLES)
        return (counted + len(self.to_bytes())) / 1e6


def seal(data: dict[str, Any]) -> bytes:
    """Canonical JSON of ``data`` with the key ``digest``: the SHA-256 of the JSON without it."""
    digest = hashlib.sha256(canonical_json(data)).hexdigest()
    return canonical_json({**data, "digest": digest})


def unseal(path: Path, schema: str) -> dict[str, Any]:
    """Read a file of seal, without the digest. Raises BundleError naming the file."""
    raw = _read_json_bytes(path)
    try:
        data = json.loads(raw)
        file_schema = data["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{path} is damaged: it is not one of edgekit's files") from None
    newer_by = _newer_by(file_schema, schema)
    if newer_by != 0:
        raise BundleError(
            f"{path} has the schema {file_schema}; this edgekit reads {schema}",
            "upgrade edgekit: pip install --upgrade edgekit"
            if newer_by > 0
            else "an older edgekit built it: build it again with this one",
        )
    digest = data.pop("digest", None)
    if file_schema != schema or raw != _try_seal(data) or digest is None:
        raise BundleError(f"{path} was changed after edgekit wrote it (its digest does not match)")
    return dict(data)


def read_manifest(bundle: Path) -> Manifest:
    """Read and validate a bundle's manifest. Raises BundleError."""
    if not bundle.is_dir():
        raise BundleError(f"there is no bundle {bundle}", "make one with edgekit build")
    path = bundle / MANIFEST
    if not path.is_file():
        raise BundleError(f"{bundle} is not a bundle: it has no {MANIFEST}")
    data = unseal(path, BUNDLE_SCHEMA)
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path} is not valid: {key}: {first['msg']}") from None


def verify(bundle: Path, manifest: Manifest) -> None:
    """Check every file against the manifest. Raises BundleError with all problems."""
    listed = {file.path: file for file in manifest.files}
    present = _files_below(bundle)
    problems = [f"{path} is missing" for path in sorted({*listed, VERDICT} - present)]
    problems += [f"{path} is not listed" for path in sorted(present - {*listed, MANIFEST, VERDICT})]
    for path in sorted(present & set(listed)):
        problem = _problem(bundle / path, listed[path])
        if problem:
            problems.append(f"{path} {problem}")
    if problems:
        raise BundleError(
            f"the bundle {bundle} is damaged: {'; '.join(problems)}", "build or copy it again"
        )


def _problem(path: Path, file: File) -> str | None:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return "is not a regular file"
        size = path.stat().st_size
        if size != file.size:
            return f"was changed: it has {size} bytes, not {file.size}"
        return None if file_digest(path) == file.sha256 else "was changed: its SHA-256 differs"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _files_below(bundle: Path) -> set[str]:
    paths = set()
    for folder, folders, names in os.walk(bundle):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for name in (*names, *links):
            paths.add((Path(folder) / name).relative_to(bundle).as_posix())
    return paths


def _read_json_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_JSON_BYTES:
        raise BundleError(f"{path} is damaged: it is larger than {MAX_JSON_BYTES / 1e6:g} MB")
    return raw


def _try_seal(data: dict[str, Any]) -> bytes | None:
    try:
        return seal(data)
    except (ValueError, TypeError, RecursionError):
        return None


def _newer_by(schema: object, own: str) -> int:
    """How many versions ``schema`` is ahead of ``own``; 0 also if its name is another."""
    name, _, number = str(schema).rpartition("/")
    own_name, _, own_number = own.rpartition("/")
    if name != own_name or not number.isdecimal():
        return 0
    return int(number[:9]) - int(own_number)
