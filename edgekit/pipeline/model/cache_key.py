"""Keys of all that a build's result depends on: only equal keys may share results."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import torch

from edgekit.cache import PACKAGE, content_key, file_digest, versions
from edgekit.compress.training.held_out import digest_of
from edgekit.pipeline.model.predict import to_bytes
from edgekit.pipeline.model.subject import Subject
from edgekit.plan import Plan
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import Runtime


class Fingerprint:
    """The digest of a subject: weights, structure, data and source. It is computed once for all
    plans; training data are included only for plans that train with them.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._parts: list[bytes] | None = None
        with suppress(Exception):  # sparse weights, a module that refers to itself, ...
            self._parts = list(_parts(subject))

    def of(self, subject: Subject) -> Fingerprint:
        return Fingerprint(subject)

    def key(self, runtime: Runtime, plan: Plan) -> str | None:
        """The key of a plan's result; None if the model cannot be read completely. Without a key
        nothing is cached.
        """
        if self._parts is None:
            return None
        versions = [runtime.name, runtime.version, plan.model_dump_json()]
        parts = [*(part.encode() for part in versions), *self._parts]
        # int8 distilled from the float model uses calibration data only
        others = [t for t in plan.trainings if t is not plan.train or t.objective != "float_model"]
        if (others or plan.prunes_by_labels) and self._subject.recipe.has("training"):
            parts.append(self._training_data)
        if others and self._subject.recipe.has("teacher"):
            parts += self._teacher
        return content_key(parts)[:40]

    @cached_property
    def _teacher(self) -> list[bytes]:
        teacher = self._subject.recipe.call("teacher")
        return list(_of_model(teacher)) if isinstance(teacher, torch.nn.Module) else []

    @cached_property
    def _training_data(self) -> bytes:
        return digest_of(self._subject.training(0))


class NoFingerprint(Fingerprint):
    """Has no keys: no stage is cached, also of smaller versions of the subject."""

    def __init__(self) -> None:
        self._parts = None

    def of(self, subject: Subject) -> Fingerprint:  # noqa: ARG002
        return self


def _parts(subject: Subject) -> Iterator[bytes]:
    for inputs in (subject.example, *subject.calibration):
        yield from _of_inputs(inputs)
    yield repr(subject.arguments).encode()
    yield from _of_model(subject.model)
    for path in sorted({subject.recipe.path, *_sources(subject.model)}):
        yield str(path).encode()
        yield file_digest(path).encode()
    yield from (part.encode() for part in versions())


def _of_inputs(inputs: Inputs) -> Iterator[bytes]:
    for tensor in inputs:
        yield f"{tensor.dtype} {list(tensor.shape)}".encode()
        yield to_bytes(tensor)


def _of_model(model: torch.nn.Module) -> Iterator[bytes]:
    """Weights, buffers (persistent or not), and the classes and settings of all modules."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        yield f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        yield to_bytes(tensor)
    for name, module in model.named_modules(remove_duplicate=False):
        yield f"{name} {type(module).__module__}.{type(module).__qualname__}".encode()
        settings = {key: value for key, value in vars(module).items() if key[:1] != "_"}
        yield from (f"{key}={_as_text(value)}".encode() for key, value in sorted(settings.items()))


def _as_text(value: Any) -> str:
    """A setting as text that is equal in every process: without addresses."""
    if torch.is_tensor(value):
        return f"{value.dtype} {list(value.shape)} {content_key([to_bytes(value)])}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}({', '.join(_as_text(item) for item in value)})"
    if isinstance(value, dict):
        return f"dict({', '.join(f'{_as_text(k)}: {_as_text(v)}' for k, v in value.items())})"
    if isinstance(value, (FunctionType, type)):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, type(None))):
        return repr(value)
    return type(value).__qualname__


def _sources(model: torch.nn.Module) -> set[Path]:
    """The files of all loaded local modules, the recipe among them, and of the model's classes."""
    paths = {Path(module.__file__ or "") for module in local_modules()}
    for kind in {kind for module in model.modules() for kind in type(module).__mro__}:
        try:
            paths.add(Path(inspect.getfile(kind)))
        except (TypeError, OSError):
            continue  # a built-in
    return {path for path in paths if path.is_file()}


def local_modules() -> Iterator[ModuleType]:
    """The user's modules: all that are not installed, Python's own or edgekit's."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name in ("__main__", "__mp_main__") or not isinstance(file, str):
            continue
        path = Path(file)
        installed = "site-packages" in path.parts or any(path.is_relative_to(p) for p in places)
        if not installed and not path.is_relative_to(PACKAGE):
            yield module
