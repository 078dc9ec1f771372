"""Damages bundles, .pte and .pt2 files in many ways, and watches what edgekit makes of them.

    python scripts/fuzz.py [--bundles 500] [--pte 500] [--pt2 200] [--seed 0]

Each case runs in a worker process, so that a crash or a hang is seen as one. What must never
happen: a hang, an error that is not edgekit's own, a crash, a message that does not name the file,
and a wrong "ok". A bundle has digests: any change must be refused. A .pt2 has checksums: what is
taken must give the very program of the whole file. Where its content is rewritten, checksums and
all, what is taken must compute what torch itself computes from it; and where it carries code, it
must be refused, and the code must not run: it would leave a file, the witness. A .pte has neither
digests nor checksums: where a damaged one still loads and runs, it is another valid program, and
nobody can tell that it was meant to be different.
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIGITS = ROOT / "examples" / "digits" / "recipe.py"
HANG_S = 400
BATCH = 50
ABSURD = (b"\xff" * 8, b"\xff\xff\xff\x7f", b"\xff" * 7 + b"\x7f", b"\x00" * 8)
Entries = list[tuple[str, bytes]]
BAD = ("hang", "crash", "traceback", "wrong ok", "unnamed")


def flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.choice((0, 1, rng.randrange(len(data)), len(data) - 1)) :]


def replace(data: bytearray, rng: random.Random) -> None:
    other = (
        b"",
        b"{}",
        b"[]\n",
        b"PK\x03\x04",
        b"\x7fELF",
        b"not what you think\n",
        rng.randbytes(999),
    )
    data[:] = rng.choice(other)


def lengthen(data: bytearray, rng: random.Random) -> None:
    """Something that may be a length or an offset becomes absurd."""
    value, place = rng.choice(ABSURD), rng.randrange(max(1, len(data) // 4)) * 4
    if rng.random() < 0.5:
        place %= 1024  # headers
    data[place : place + len(value)] = value


def shuffle(data: bytearray, rng: random.Random) -> None:
    """A part of the file comes twice, or is gone."""
    start, size = rng.randrange(len(data)), rng.randrange(1, 512)
    if rng.random() < 0.5:
        del data[start : start + size]
    else:
        data[start:start] = data[start : start + size]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    flip, truncate, replace, lengthen, shuffle,
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """What was done to which file, and what came of it."""

    number: int
    damage: str
    file: str
    outcome: str
    detail: str = ""


def damage_file(path: Path, rng: random.Random) -> str:
    """Change the file, really; give the name of what was done."""
    whole = path.read_bytes()
    while True:
        data, damage = bytearray(whole), rng.choice(DAMAGES)
        damage(data, rng)
        if bytes(data) != whole:
            path.write_bytes(bytes(data))
            return damage.__name__


def rewrite_graph(path: Path, rng: random.Random) -> str:
    """Change the JSON inside a .pt2 and zip it again, so that its checksums are right."""
    entries = _unzip(path)
    name = rng.choice([name for name in entries if name.endswith(".json")])
    graph = json.loads(entries[name])
    holder = rng.choice([holder for holder in _containers(graph) if holder])
    key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    others = (None, -1, 2**62, "", "x" * 5000, [], {}, 1e308, True)
    holder[key] = rng.choice([other for other in others if other != holder[key]])
    entries[name] = json.dumps(graph).encode()
    _zip(path, list(entries.items()))
    return f"rewrite {name}"


def _unzip(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _zip(path: Path, entries: Entries) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the same name twice is meant
        for name, data in entries:
            archive.writestr(name, data)


# What each gets: the graph, Python's text that leaves the witness, a module that does on import.
def code_in_input_name(graph: dict, code: str, _module: str) -> dict:
    signature = graph["graph_module"]["signature"]
    specs = [spec["user_input"] for spec in signature["input_specs"] if "user_input" in spec]
    return _renamed(graph, specs[0]["arg"]["as_tensor"]["name"], "{}=" + code)


def code_in_node_name(graph: dict, code: str, _module: str) -> dict:
    name = graph["graph_module"]["graph"]["nodes"][0]["outputs"][0]["as_tensor"]["name"]
    return _renamed(graph, name, "{} = " + code + "; {}")


def code_in_keyword(graph: dict, code: str, _module: str) -> dict:
    node = graph["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch.ops.higher_order.wrap"  # whose keywords no schema limits
    node["inputs"] = [{"name": f"a={code}, b", "arg": {"as_int": 1}, "kind": 2}]
    node["is_hop_single_tensor_return"] = True
    return graph


def code_in_expression(graph: dict, code: str, _module: str) -> dict:
    return _with_size(graph, code)


def power_without_end(graph: dict, _code: str, _module: str) -> dict:
    return _with_size(graph, "9**9**9**9")


def factorial_without_end(graph: dict, _code: str, _module: str) -> dict:
    return _with_size(graph, "99999999!")


def operator_that_is_none(graph: dict, _code: str, module: str) -> dict:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = f"{module}.D"
    return graph


def attribute_of_an_operator(graph: dict, _code: str, _module: str) -> dict:
    graph["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.__class__.mro"
    return graph


def level_left_open(graph: dict, _code: str, _module: str) -> dict:
    node = graph["graph_module"]["graph"]["nodes"][0]
    node["target"] = "torch._functorch.predispatch._vmap_increment_nesting"
    given = ({"as_int": 2}, {"as_string": "error"})
    node["inputs"] = [{"name": "", "arg": value, "kind": 1} for value in given]
    return graph


def memory_that_is_not_its_own(graph: dict, _code: str, _module: str) -> dict:
    node = graph["graph_module"]["graph"]["nodes"][-1]
    shape = [("size", [1]), ("stride", [1])]
    node["target"] = "torch.ops.inductor._reinterpret_tensor.default"
    node["inputs"] = [
        node["inputs"][0] | {"name": "self"},
        *({"name": name, "arg": {"as_ints": ints}, "kind": 1} for name, ints in shape),
        {"name": "offset_increment", "arg": {"as_int": 10**12}, "kind": 1},
    ]
    return graph


def module_in_defaultdict(graph: dict, _code: str, module: str) -> dict:
    names = {"default_factory_module": module, "default_factory_name": "D", "dict_context": []}
    spec = {"type": "collections.defaultdict", "context": names, "children_spec": []}
    return _with_spec(graph, spec, ("factory_module", "factory_m\\u006fdule"))


def module_in_enumeration(graph: dict, _code: str, module: str) -> dict:
    context = json.dumps({"__enum__": 1, "fqn": f"{module}:D", "name": "a"})
    return _with_spec(graph, {"type": "builtins.dict", "context": context, "children_spec": []})


def _renamed(graph: dict, name: str, form: str) -> dict:
    text = json.dumps(graph).replace(json.dumps(name), json.dumps(form.replace("{}", name)))
    return json.loads(text)


def _with_size(graph: dict, expression: str) -> dict:
    """The first size of every tensor in the graph becomes an expression."""
    for meta in graph["graph_module"]["graph"]["tensor_values"].values():
        meta["sizes"][:1] = [{"as_expr": {"expr_str": expression, "hint": {"as_int": 1}}}]
    return graph


def _with_spec(graph: dict, spec: dict, hidden: tuple[str, str] = ("", "")) -> dict:
    """The inputs' structure, JSON in a string, becomes another."""
    signature = graph["graph_module"]["module_call_graph"][0]["signature"]
    inputs = json.loads(signature["in_spec"])
    inputs[1]["children_spec"][0]["children_spec"] = [spec]
    signature["in_spec"] = json.dumps(inputs).replace(*hidden)
    return graph


GRAPHS = [
    code_in_input_name, code_in_node_name, code_in_keyword, code_in_expression,
    power_without_end, factorial_without_end, operator_that_is_none, attribute_of_an_operator,
    level_left_open,
    memory_that_is_not_its_own, module_in_defaultdict, module_in_enumeration,
]  # fmt: skip
PLACES = [
    "instead",
    "first of two",
    "last of two",
    "first two of three",
    "in a folder",
    "in capitals",
]


def carry_code(path: Path, rng: random.Random, witness: Path, module: str) -> str:
    """Put what runs code, or what torch does not survive, into a .pt2; give its name."""
    code = f"__import__('pathlib').Path({str(witness)!r}).touch()"
    entries = _unzip(path)
    if rng.random() < 0.15:
        _zip(path, _with_pickle(entries, witness))
        return "pickled constant"
    model = next(name for name in entries if "/models/" in name)
    rewrite = rng.choice(GRAPHS)
    bad = json.dumps(rewrite(json.loads(entries[model]), code, module)).encode()
    place = rng.choice(PLACES) if rng.random() < 0.5 else "instead"
    _zip(path, _placed(entries, model, bad, place))
    return f"{rewrite.__name__} {place}"


def _placed(entries: dict[str, bytes], model: str, bad: bytes, place: str) -> Entries:
    """torch and zipfile differ in which of two entries of one name they read."""
    good = list(entries.items())
    if place == "instead":
        return list((entries | {model: bad}).items())
    if place == "last of two":
        return [*good, (model, bad)]
    if place in ("first of two", "first two of three"):
        return [(model, bad)] * (1 if place == "first of two" else 2) + good
    root, stem = model.split("/")[0], Path(model).stem
    other = "a/b" if place == "in a folder" else "z"
    beside = [
        (name.replace(f"/{stem}", f"/{other}"), data)
        for name, data in good
        if name.startswith(f"{root}/data/") and f"/{stem}" in name
    ]
    suffix = "json" if place == "in a folder" else "JSON"
    return [*good, (f"{root}/models/{other}.{suffix}", bad), *beside]


class _Leaves:
    """Unpickling it opens the witness."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple:
        return open, (str(self.witness), "w")


def _with_pickle(entries: dict[str, bytes], witness: Path) -> Entries:
    name = next(name for name in entries if name.endswith("_constants_config.json"))
    constant = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
    config = json.dumps({"config": {"c": constant | {"tensor_meta": None}}}).encode()
    folder = name.rpartition("/")[0]
    pickled = (f"{folder}/opaque_obj_0", pickle.dumps(_Leaves(witness)))
    return [(name, config)] * 4 + [*entries.items(), pickled]


def _containers(value: object) -> Iterator[dict | list]:
    if isinstance(value, (dict, list)):
        yield value
        for item in value.values() if isinstance(value, dict) else value:
            yield from _containers(item)


def attempt(kind: str, whole: Path, rng: random.Random, folder: Path) -> tuple[str, str, str, str]:
    """One case: what was done, to which file, the outcome, its detail."""
    if kind == "bundle":
        place = folder / "bundle"
        shutil.copytree(whole, place)
        victim = rng.choice(sorted(path for path in place.rglob("*") if path.is_file()))
    else:
        place = victim = folder / f"damaged.{kind}"
        shutil.copyfile(whole, victim)
    witness, module = folder / "witness", f"leaves_{rng.randrange(10**9)}"
    way = rng.choice(("damage", "rewrite", "code")) if kind == "pt2" else "damage"
    if way == "code":
        text = f"import pathlib\npathlib.Path({str(witness)!r}).touch()\nclass D: pass\n"
        (folder / f"{module}.py").write_text(text)
        damage = carry_code(victim, rng, witness, module)
    else:
        damage = rewrite_graph(victim, rng) if way == "rewrite" else damage_file(victim, rng)
    sys.path.insert(0, str(folder))
    try:
        outcome, detail = outcome_of(kind, way, whole, place, victim)
    finally:
        sys.path.remove(str(folder))
    if witness.exists():
        outcome, detail = "wrong ok", f"its code ran; then: {outcome}: {detail}"
    return damage, str(victim.relative_to(folder)), outcome, detail


def outcome_of(kind: str, way: str, whole: Path, place: Path, victim: Path) -> tuple[str, str]:
    """What edgekit makes of it, and what it says."""
    import edgekit
    from edgekit.errors import EdgekitError

    output = victim.parent / "out"
    try:
        if kind == "bundle":
            edgekit.check(place)
            return "wrong ok", ""
        edgekit.build(place, target="x86", output=output, effort="quick")
        if kind == "pte":
            return "taken", ""
        if way == "rewrite":
            is_right = computes_as_torch(victim)
        else:
            program = (output / "model.pte").read_bytes()
            is_right = program == (whole.parent / "pt2.pte").read_bytes()
        return "taken" if is_right else "wrong ok", ""
    except EdgekitError as error:
        named = victim.name in error.message or str(place) in error.message
        return "refused" if named else "unnamed", error.message
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"


def computes_as_torch(path: Path) -> bool:
    """Is what edgekit reads from this .pt2 the model that torch reads, by one inference?

    True where torch itself cannot run it: edgekit calls a program without its nested signature.
    """
    import torch
    from torch.utils._pytree import tree_leaves

    from edgekit.exported.program import open_program

    recipe = open_program(path, 0)
    found = tree_leaves(recipe.model()(*recipe.call("example_inputs")))
    try:
        exported = torch.export.load(path)
        positional, keywords = exported.example_inputs
        expected = tree_leaves(exported.module(check_guards=False)(*positional, **keywords))
    except Exception:
        return True
    return len(found) == len(expected) and all(
        one.shape == other.shape and torch.allclose(one, other, equal_nan=True)
        for one, other in zip(found, expected, strict=True)
    )


def work(kind: str, whole: Path, seed: int, numbers: range) -> None:
    """In the worker: one line when a case starts, one when it is done."""
    for number in numbers:
        print(json.dumps({"start": number}), flush=True)
        rng = random.Random(f"{seed}/{kind}/{number}")
        with tempfile.TemporaryDirectory() as folder:
            damage, file, outcome, detail = attempt(kind, whole, rng, Path(folder))
        case = Case(number, damage, file, outcome, detail[:300])
        print(json.dumps({"done": vars(case)}), flush=True)


def run_cases(kind: str, whole: Path, seed: int, count: int) -> Iterator[Case]:
    """All cases, in workers that are replaced when one crashes or hangs."""
    number = 0
    while number < count:
        last = min(number + BATCH, count)
        command = [sys.executable, __file__, "--worker", kind, str(whole), str(seed)]
        worker = subprocess.Popen(
            [*command, str(number), str(last)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        hung = threading.Event()
        for line in _lines(worker, hung):
            told = json.loads(line)
            if "done" in told:
                number += 1
                yield Case(**told["done"])
        if worker.wait() != 0 or hung.is_set():
            outcome = "hang" if hung.is_set() else "crash"
            yield Case(number, "?", kind, outcome, f"exit {worker.returncode}")
            number += 1


def _lines(worker: subprocess.Popen, hung: threading.Event) -> Iterator[bytes]:
    def end() -> None:
        hung.set()
        worker.kill()

    while True:
        timer = threading.Timer(HANG_S, end)
        timer.start()
        line = worker.stdout.readline()
        timer.cancel()
        if not line:
            return
        yield line


def make_whole(folder: Path) -> dict[str, Path]:
    """What is damaged: the digits as a bundle, as .pte, and as an exported program."""
    import torch

    import edgekit
    from edgekit.recipe.recipe import open_recipe

    edgekit.build(DIGITS, target="x86", output=folder / "bundle")
    with open_recipe(DIGITS, 0) as recipe:
        program = torch.export.export(recipe.model(), recipe.call("example_inputs"))
    torch.export.save(program, folder / "whole.pt2")
    edgekit.build(folder / "whole.pt2", target="x86", output=folder / "exported")
    shutil.copyfile(folder / "exported" / "model.pte", folder / "pt2.pte")
    return {
        "bundle": folder / "bundle",
        "pte": folder / "bundle" / "model.pte",
        "pt2": folder / "whole.pt2",
    }


def table(results: dict[str, list[Case]], seed: int) -> str:
    rows = [
        "| damaged | cases | refused | taken | hang | crash | traceback | wrong ok | unnamed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, cases in results.items():
        found = Counter(case.outcome for case in cases)
        cells = [found[key] for key in ("refused", "taken", *BAD)]
        rows.append(f"| {kind} | {len(cases)} | " + " | ".join(map(str, cells)) + " |")
    ways = Counter(case.damage.split()[0] for cases in results.values() for case in cases)
    said = ", ".join(f"{name} {count}" for name, count in sorted(ways.items()))
    return "\n".join([*rows, "", f"Seed {seed}. Ways of damage: {said}."]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=int, default=500)
    parser.add_argument("--pte", type=int, default=500)
    parser.add_argument("--pt2", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=5, metavar="...", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, whole, seed, first, last = options.worker
        work(kind, Path(whole), int(seed), range(int(first), int(last)))
        return 0
    counts = {"bundle": options.bundles, "pte": options.pte, "pt2": options.pt2}
    results: dict[str, list[Case]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wholes = make_whole(Path(folder))
        for kind, count in counts.items():
            results[kind] = []
            for case in run_cases(kind, wholes[kind], options.seed, count):
                results[kind].append(case)
                if case.outcome in BAD:
                    print(f"{kind} {case}", file=sys.stderr)
    print(table(results, options.seed))
    return int(any(case.outcome in BAD for cases in results.values() for case in cases))


if __name__ == "__main__":
    sys.exit(main())
