"""Checks that a .pt2 file is complete, of a version that this torch reads, and only data.

torch executes parts of such a file: pickles, names that become source, expressions that sympy
evaluates, compiled libraries. edgekit treats a model that somebody else exported as data. It reads
the file once and writes what passed the checks to a new archive. torch reads only that archive, so
both see the same bytes.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import RecipeError
from edgekit.exported.graph import RefusedError, clean_payload, clean_program

# torch's layout (torch/export/pt2_archive/constants.py), inside one top folder.
MODEL = re.compile(r"models/([\w\-]+)\.json", re.ASCII)
KEPT = (
    r"data/weights/weight_\d+|data/constants/tensor_\d+|data/(weights|constants|sample_inputs)/{0}\.pt"
    r"|archive_format|archive_version|byteorder|version|\.data/version"
)
PAYLOAD = r"data/(weights|constants)/{0}_(weights|constants)_config\.json"
DROPPED = re.compile(r"\.data/[\w\-]+|extra/[^\\]+|\.format_version|\.storage_alignment", re.ASCII)
COMPILED = ("data/aotinductor/", "data/executorch/")
OBJECTS = re.compile(r"data/constants/(custom|opaque)_obj_\d+", re.ASCII)
BEFORE_2_8 = "serialized_exported_program.json"

# torch does not compress tensors, so a larger ratio is not its work.
UNPACKED_LIMIT = 20
SMALL_BYTES = 64_000_000
ENTRIES_LIMIT = 200_000


@contextmanager
def checked(path: Path) -> Iterator[Path]:
    """A copy of the program with only the checked content; removed at the end of the context.

    Raises RecipeError: the file is damaged, of an unreadable version, or more than data.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        copy = Path(folder) / "model.pt2"
        try:
            with zipfile.ZipFile(path) as archive:
                _copy(path, archive, copy)
        except RefusedError as error:
            raise _refused(path, str(error)) from None
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise _damaged(path, str(error) or type(error).__name__) from None
        except (RecursionError, MemoryError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, f"its content is malformed ({type(error).__name__})") from None
        except (OSError, RuntimeError, zlib.error) as error:  # RuntimeError: it is encrypted
            raise _damaged(path, str(error) or type(error).__name__) from None
        yield copy


def _copy(path: Path, archive: zipfile.ZipFile, copy: Path) -> None:
    entries = _entries(path, archive)
    model = _model(path, list(entries))
    allowed, payload = re.compile(KEPT.format(re.escape(model))), PAYLOAD.format(re.escape(model))
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as fresh:
        for name, info in entries.items():
            if name == f"models/{model}.json":
                data = _program(path, _json(path, archive, info))
            elif re.fullmatch(payload, name):
                data = json.dumps(clean_payload(_json(path, archive, info))).encode()
            elif allowed.fullmatch(name):
                data = archive.read(info)
            elif DROPPED.fullmatch(name):
                continue
            else:
                raise RefusedError(_foreign(name))
            if name == "byteorder" and data != b"little":
                raise RefusedError("it is not in this machine's byte order")
            fresh.writestr(f"model/{name}", data)


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's entries by their names inside its top folder."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    unpacked = sum(info.file_size for info in infos)
    if unpacked > UNPACKED_LIMIT * path.stat().st_size + SMALL_BYTES:
        raise _damaged(path, f"it would unpack to {unpacked / 1e6:.0f} MB")
    if len(infos) > ENTRIES_LIMIT:
        raise _damaged(path, f"it has {len(infos)} entries")
    if any(info.filename == BEFORE_2_8 for info in infos):
        raise _other_version(f"{path} was exported by torch 2.7 or older, in another layout")
    roots = {info.filename.partition("/")[0] for info in infos}
    if len(roots) != 1:
        raise _damaged(path, "its entries are not in one folder")
    names = [info.filename.partition("/")[2] for info in infos]
    if len({name.casefold() for name in names}) != len(names):
        raise RefusedError("two of its entries have the same name")
    return dict(zip(names, infos, strict=True))


def _model(path: Path, names: list[str]) -> str:
    for name in names:
        if name.startswith(COMPILED):
            raise RefusedError(f"it holds compiled code ({name[:80]})")
    models = [name for name in names if name.casefold().startswith("models/")]
    if not models:
        raise _damaged(path, "it has no exported program")
    if len(models) > 1:
        raise RecipeError(
            f"{path} holds {len(models)} programs, but edgekit builds one",
            "save each model in a file of its own",
        )
    match = MODEL.fullmatch(models[0])
    if not match:
        raise RefusedError(_foreign(models[0]))
    return match[1]


def _foreign(name: str) -> str:
    if OBJECTS.fullmatch(name):
        return f"it holds a pickled object ({name})"
    return f"it holds an entry that torch.export.save does not write ({name[:80]!r})"


def _json(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    data = archive.read(info)
    try:
        return json.loads(data)
    except ValueError as error:
        raise _damaged(path, f"{info.filename} is not JSON: {error}") from None


def _program(path: Path, document: Any) -> bytes:
    _check_version(path, document)
    return json.dumps(clean_program(document)).encode()


def _check_version(path: Path, document: Any) -> None:
    from torch._export.serde.schema import SCHEMA_VERSION

    version = document.get("schema_version") if isinstance(document, dict) else None
    major = version.get("major") if isinstance(version, dict) else None
    if type(major) is not int:
        raise _damaged(path, "it has no version number")
    if major != SCHEMA_VERSION[0]:
        by = f"{path} was exported by torch {document.get('torch_version')!s:.40}"
        raise _other_version(f"{by} in version {major} of the format")


def _other_version(problem: str) -> RecipeError:
    import torch
    from torch._export.serde.schema import SCHEMA_VERSION

    return RecipeError(
        f"{problem}; torch {torch.__version__}, which is installed here, reads version "
        f"{SCHEMA_VERSION[0]}",
        f"export it again with torch {torch.__version__.split('+')[0]}: "
        "torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2')",
    )


def _damaged(path: Path, reason: str) -> RecipeError:
    return RecipeError(
        f"{path} is not a complete exported program: {reason}",
        "write it with torch.export.save, and check that it was copied completely; files of "
        "weights (.pt, .pth) need a recipe (edgekit init)",
    )


def _refused(path: Path, reason: str) -> RecipeError:
    return RecipeError(
        f"{path} is refused: {reason}; an exported program must contain only data",
        "export the model without it, or write a recipe, which may run your own code",
    )
