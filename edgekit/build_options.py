"""The options of a build, each declared once.

A field of BuildOptions with an ``Option`` in its annotation is a keyword of ``edgekit.build``, a
flag of ``edgekit build`` (cli/build_flags.py), a key of edgekit.toml and an environment variable
(settings.py). pydantic is imported when a value is read: ``edgekit --help`` does not need it.
"""

# Annotations are evaluated, because flags are made from them. Those that need pydantic are quoted.
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from edgekit.errors import EdgekitError, SettingError, UsageError, unknown
from edgekit.progress import Progress
from edgekit.values import (
    Count,
    Effort,
    ImageSize,
    NotNegative,
    Positive,
    PrecisionChoice,
    RuntimeChoice,
    Seed,
    Share,
    Threads,
    Words,
    WorkersChoice,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from edgekit.budget import Limits
    from edgekit.plan import Plan
    from edgekit.search.constraints import Constraints
    from edgekit.target import Target

SIGNATURE = "Signature of a .tflite that has several; else serving_default."
BUDGETS = ("latency_ms", "memory_mb", "size_mb", "max_drop")


@dataclass(frozen=True)
class Option:
    """The help of an option. ``key``: its name in files, if the field has another."""

    help: str
    metavar: str | None = None
    key: str | None = None


@dataclass(frozen=True)
class BuildOptions:
    """The validated arguments of ``edgekit.build``.

    ``target`` and ``plan`` may be objects from load_target and read_plan. ``limits``: budgets with
    their origins. They override the target's budgets, and the four budget options override them.
    ``constraints`` (also as a dict): what the search and the options may not change; a ``plan`` is
    followed as it is.

    Raises SettingError: a value that is not allowed, or options that exclude each other.
    """

    recipe: Annotated[
        str | Path, Option("A recipe, .pt2, .pte or .tflite; else ./recipe.py.", metavar="[RECIPE]")
    ] = "recipe.py"
    _: KW_ONLY
    target: Annotated["str | Target", Option("A target's name or TOML file.")]
    runtime: Annotated[
        RuntimeChoice | None,
        Option("The on-device runtime; else the target's first. auto: the best of all, compared."),
    ] = None
    precision: Annotated[
        PrecisionChoice,
        Option("auto: the first of int8, repaired, mixed, fp16, fp32 within --max-drop."),
    ] = "auto"
    latency_ms: Annotated[
        Positive | None, Option("Budget: median milliseconds of one inference.")
    ] = None
    memory_mb: Annotated[Positive | None, Option("Budget: peak resident memory of the runner.")] = (
        None
    )
    size_mb: Annotated[Positive | None, Option("Budget: model, runner, libraries, manifest.")] = (
        None
    )
    max_drop: Annotated[
        NotNegative | None, Option("Budget: points of accuracy that may be lost.")
    ] = None
    effort: Annotated[
        Effort,
        Option("quick: no repairs, no sensitivity, memory measured once; thorough: nine times."),
    ] = "normal"
    input_size: Annotated[
        ImageSize | None,
        Option("Resize images before the model: pixels of a square, or HxW.", metavar="<N|HxW>"),
    ] = None
    drop_blocks: Annotated[Count | None, Option("Remove so many residual blocks.")] = None
    prune: Annotated[Share | None, Option("Remove channels: this share of the MACs.")] = None
    low_rank: Annotated[
        Share | None, Option("Factorize layers: this share of their MACs, where it is faster.")
    ] = None
    sparsity: Annotated[Share | None, Option("Set this share of the weights to zero.")] = None
    distill: Annotated[bool, Option("Train towards teacher() or the model itself.")] = False
    qat: Annotated[bool, Option("Train int8 with training(); chosen only if better.")] = False
    time_limit_s: Annotated[
        Positive | None, Option("Time limit of all training, in seconds.", key="time_limit")
    ] = None
    workers: Annotated[
        WorkersChoice,
        Option("Processes of the search, or a Dask scheduler.", metavar="<N|tcp://HOST:PORT>"),
    ] = 1
    plan: Annotated[
        "str | Path | Plan | None",
        Option("Build by this plan, instead of --precision.", metavar="FILE"),
    ] = None
    calibration: Annotated[
        str | Path | None,
        Option("Typical inputs, instead of calibration().", metavar="FILE.npz"),
    ] = None
    signature: Annotated[str | None, Option(SIGNATURE, metavar="NAME")] = None
    threads: Annotated[
        Threads | None,
        Option("Threads of inference; else the target's. auto: the fastest.", metavar="<N|auto>"),
    ] = None
    seed: Annotated[Seed, Option("The seed of random numbers.")] = 0
    device: Annotated[str | None, Option("Measure on this device: local, user@host, an alias.")] = (
        None
    )
    name: Annotated[str | None, Option("The name of the deployment.")] = None
    output: Annotated[
        str | Path | None, Option("The bundle's folder; else ./build/NAME-TARGET.")
    ] = None
    limits: "Limits | None" = None
    constraints: "Constraints | Mapping[str, object] | None" = None
    accept_new_host_key: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in OPTIONS}
        for name, value in validated(values, LIBRARY).items():
            object.__setattr__(self, name, value)
        if self.constraints is not None:
            from edgekit.search.constraints import read_constraints

            object.__setattr__(self, "constraints", read_constraints(self.constraints))
        if self.is_finished and not chosen(values).isdisjoint(_FOR_A_MODEL):
            raise SettingError(
                f"{self.recipe} is finished and is packaged as it is: "
                f"{', '.join(map(FLAGS.spell, sorted(_FOR_A_MODEL)))} are for a recipe or an "
                "exported program (.pt2)"
            )
        if self.signature is not None and not self._may_have_signatures:
            raise SettingError(
                f"{self.recipe} has no signatures: {FLAGS.spell('signature')} is for a finished "
                ".tflite"
            )

    @property
    def is_finished(self) -> bool:
        """Whether the recipe is a program that was lowered elsewhere. It is packaged as it is."""
        from edgekit.runtimes.registry import runtime_of_file

        return runtime_of_file(Path(self.recipe)) is not None

    @property
    def _may_have_signatures(self) -> bool:
        from edgekit.runtimes.registry import has_signatures

        return has_signatures(Path(self.recipe))

    @property
    def changes_the_model(self) -> bool:
        """Whether the options change the model before quantization, if the recipe allows it."""
        return self.distill or self.removes

    @property
    def removes(self) -> bool:
        """Whether something is removed from the model or its inputs."""
        return any(getattr(self, name) is not None for name in _REMOVALS)


def _option(annotation: Any) -> Option | None:
    return next((part for part in get_args(annotation) if isinstance(part, Option)), None)


OPTIONS = {field.name: option for field in fields(BuildOptions) if (option := _option(field.type))}
_DEFAULTS = {field.name: field.default for field in fields(BuildOptions)}
_REMOVALS = ("input_size", "drop_blocks", "prune", "low_rank", "sparsity")
_CHANGES = (*_REMOVALS, "distill", "qat")
_FOR_A_MODEL = {"precision", "plan", "calibration", *_CHANGES}


def key_of(name: str) -> str:
    """The name of a field of BuildOptions in files. Flags and variables are made from it."""
    return OPTIONS[name].key or name


@dataclass(frozen=True)
class Side:
    """A source of options: how it spells their names, and the error it raises."""

    spell: Callable[[str], str]
    error: type[EdgekitError] = SettingError
    prefix: str = ""

    def fields_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """``given``, with the names of fields instead of the side's own.

        Raises ``error``: an option that does not exist; the nearest one is suggested.
        """
        known = {self.spell(name): name for name in OPTIONS}
        wrong = [unknown("option", name, known) for name in given if name not in known]
        self.refuse(wrong, "edgekit build --help lists all options")
        return {known[name]: value for name, value in given.items()}

    def refuse(self, wrong: Iterable[str], hint: str | None = None) -> None:
        """Raise ``error`` with the lines of ``wrong``, if there are any."""
        if lines := "\n".join(f"{self.prefix}{line}" for line in wrong):
            raise self.error(lines, hint)


FLAGS = Side(lambda name: "--" + key_of(name).replace("_", "-"), UsageError)
ENVIRONMENT = Side(lambda name: f"EDGEKIT_{key_of(name).upper()}")
LIBRARY = Side(lambda name: name)


def refuse_unknown_keywords(given: Iterable[str]) -> None:
    """Raise SettingError for a keyword that ``edgekit.build`` does not have."""
    known = [field.name for field in fields(BuildOptions)]
    LIBRARY.refuse(unknown("option", name, known) for name in given if name not in known)


def file_side(path: Path) -> Side:
    return Side(key_of, prefix=f"{path}: ")


def validated(values: Mapping[str, Any], side: Side) -> dict[str, Any]:
    """The values by the names of their fields. Text is parsed.

    Raises the side's error: values that are not allowed, or options that exclude each other.
    """
    good, wrong = {}, []
    for name, value in values.items():
        try:
            good[name] = _readers()[name].validate_python(value)
        except ValueError:  # pydantic's ValidationError is one
            found = str(value) or repr(value)
            wrong.append(f"{side.spell(name)} must be {_allowed(name)}, not {found}")
    side.refuse(wrong)
    spelled = {name: side.spell(name) for name in OPTIONS}
    side.refuse(text.format(**spelled) for _, text in clashes(good))
    return good


def clashes(values: Mapping[str, Any]) -> Iterator[tuple[set[str], str]]:
    """Options that exclude each other, and why, with the options' names in braces."""
    given = chosen(values)
    if {"plan", "precision"} <= given:
        yield {"plan", "precision"}, "{plan} sets the precision: omit {precision}"
    if "plan" in given and (changes := given.intersection(_CHANGES)):
        yield (
            {"plan", *changes},
            "{plan} sets what is removed and trained: omit "
            + ", ".join(f"{{{name}}}" for name in _CHANGES),
        )
    if "qat" in given and values.get("precision") in ("fp32", "fp16"):
        yield {"qat", "precision"}, f"{{qat}} trains int8: omit {{precision}} {values['precision']}"


def chosen(values: Mapping[str, Any]) -> set[str]:
    """The names of the values that are not the default."""
    return {name for name, value in values.items() if value != _DEFAULTS[name]}


@cache
def _annotations() -> dict[str, Any]:
    from pydantic import InstanceOf

    from edgekit.budget import Limits
    from edgekit.plan import Plan
    from edgekit.search.constraints import Constraints
    from edgekit.target import Target

    quoted = {
        "Limits": Limits,
        "Constraints": InstanceOf[Constraints],
        "Plan": InstanceOf[Plan],
        "Target": InstanceOf[Target],
    }
    return get_type_hints(BuildOptions, localns=quoted, include_extras=True)


@cache
def _readers() -> "dict[str, TypeAdapter[Any]]":
    from pydantic import TypeAdapter

    return {name: TypeAdapter(_annotations()[name]) for name in OPTIONS}


def _allowed(name: str) -> str:
    """The allowed values of an option, as text."""
    parts = list(parts_of(_annotations()[name]))
    if words := next((part for part in parts if isinstance(part, Words)), None):
        return words
    if names := choices_in(parts):
        return f"{', '.join(names[:-1])} or {names[-1]}"
    return "true or false" if bool in parts else "text"


def parts_of(annotation: Any) -> Iterator[Any]:
    """An annotation and all its parts, recursively."""
    yield annotation
    if get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from parts_of(part)


def choices_in(parts: Iterable[Any]) -> tuple[str, ...]:
    return next((get_args(part) for part in parts if get_origin(part) is Literal), ())
