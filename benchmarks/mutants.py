"""Small faults are put into the code one at a time: do the tests of the room notice each?

    python benchmarks/mutants.py [--rooms training scoring] [--each 45] [--seed 0] [--report]

mutmut makes the mutants and runs the test files of the room, in a copy of the tree, up to the first test that fails.
mutants.yaml names the tests of each room, and the mutants that change no result, with the reason. From each room
the same number is drawn by a hash, so an edit elsewhere leaves the draw as it is. Verdicts are kept below
build/mutants as they come: another call goes on, and tries again what was not noticed.

Left out: text (messages of errors, of progress and of the log, docstrings), the type of a `cast`, zip's `strict`, and
what mutmut does not change (annotations, decorated functions, code outside functions). A mutant that runs much longer
than the tests is noticed.
"""

import argparse
import ast
import difflib
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import mutmut.__main__ as mutmut
import yaml
from mutmut.configuration import reset_config
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import (
    get_mutant_name,
    mangled_name_from_mutant_name,
    orig_function_and_class_names_from_key,
)
from mutmut.workers.isolation import ForkServerRunner

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/mutants"
SHOWN_FROM = {"progress": 1, "Progress": 0}
"""Number of the first argument that is for display only."""
NOTICED = {"killed", "timeout", "segfault"}


@dataclass(frozen=True)
class Mutant:
    """One fault: its name for mutmut, where it is, and the changed lines (`-` before, `+` after)."""

    name: str
    file: str
    function: str
    line: int
    diff: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the mutant after lines have shifted."""
        return self.file, self.function, self.diff


class WithoutText(ast.NodeTransformer):
    """Drops what changes no result: what errors, progress and the log say, docstrings, `cast`, and zip's `strict`."""

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        node.msg = None
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        logged = isinstance(call, ast.Call) and ast.unparse(call.func).startswith("logger.")
        return ast.Pass() if logged or isinstance(call, ast.Constant) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name in {"progress", "Progress", "zip"}:
            node.args, node.keywords = node.args[: SHOWN_FROM.get(name)], []
        return node.args[1] if name == "cast" and len(node.args) == 2 else node


@functools.cache
def meaning(function: str) -> str:
    """The function without its text, for comparison."""
    return ast.dump(WithoutText().visit(ast.parse(function)))


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of a source file whose change is more than text."""
    file = path.relative_to(ROOT)
    made = mutate_file_contents(str(file), path.read_text())
    lines = made.code.split("\n")

    def source(name: str) -> str:
        """A generated function under its own name, from its `def` on."""
        span = made.line_span_by_function_name[name]
        text = dedent("\n".join(lines[span.start - 1 : span.end]))
        return text[text.index("def ") :].replace(name, name.partition("__mutmut_")[0])

    starts: dict[tuple[str, str | None], int] = {}
    for node in ast.parse(path.read_text()).body:
        holder = node.name if isinstance(node, ast.ClassDef) else None
        for child in node.body if isinstance(node, ast.ClassDef) else [node]:
            if isinstance(child, ast.FunctionDef):
                starts[child.name, holder] = child.lineno
    for short in made.mutant_names:
        before, after = source(short.partition("__mutmut_")[0] + "__mutmut_orig"), source(short)
        if meaning(after) == meaning(before):
            continue
        name, holder = orig_function_and_class_names_from_key(short)
        hunks = list(difflib.unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm=""))[2:]
        offset = int(hunks[0].split()[1].lstrip("-").partition(",")[0]) - 1
        changed = "\n".join(line[0] + " " + line[1:].strip() for line in hunks if line[0] in "-+")
        function = f"{holder}.{name}" if holder else name
        yield Mutant(get_mutant_name(file, short), str(file), function, starts[name, holder] + offset, changed)


def draw(room: str, each: int, seed: int) -> list[Mutant]:
    """The mutants of a room that are tried, always the same for the same code."""
    files = sorted((ROOT / "src/retrotune" / room).rglob("*.py"))
    found = [mutant for path in files for mutant in mutants_of(path)]
    return sorted(found, key=lambda one: hashlib.sha256(repr((seed, *one.key, one.name)).encode()).digest())[:each]


def verdict(room: str, mutant: Mutant) -> str:
    """What mutmut found out about a mutant: `killed`, `survived`, `timeout`, `no tests`, `not checked`."""
    meta = WORK / room / "mutants" / f"{mutant.file}.meta"
    codes = json.loads(meta.read_text())["exit_code_by_key"] if meta.exists() else {}
    return str(status_by_exit_code[codes.get(mutant.name)])


def try_out(room: str, mutants: list[Mutant], tests: list[str], settings: dict[str, Any]) -> None:
    """Let mutmut run the tests of a room against the mutants, one process at a time, with its log in `log.txt`."""
    folder = WORK / room
    (folder / "mutants/src").mkdir(parents=True, exist_ok=True)  # Python looks into a folder that is there at its start
    for name in ["src", "tests", *settings["also_copy"]]:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(ROOT / name)
    own = {"only_mutate": [f"src/retrotune/{room}/*"], "pytest_add_cli_args_test_selection": tests}
    written = "".join(f"{key} = {json.dumps(value)}\n" for key, value in {**settings, **own}.items())
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + "\n[tool.mutmut]\n" + written)
    # Which tests call a function is found out anew after any change, as is that they pass: mutmut looks for new names.
    stats = folder / "mutants/mutmut-stats.json"
    files = [path for part in ("src", "tests") for path in (ROOT / part).rglob("*.py")]
    if stats.exists() and stats.stat().st_mtime < max(path.stat().st_mtime for path in files):
        stats.unlink()
        shutil.rmtree(folder / "mutants/tests")
    os.environ.update(PYTHONPATH=str(folder / "mutants/src"), OMP_NUM_THREADS="1")
    process = get_context("spawn").Process(target=_run, args=(folder, tests, [mutant.name for mutant in mutants]))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{room}: mutmut failed, see {folder / 'log.txt'}")


def _run(folder: Path, tests: list[str], names: list[str]) -> None:
    """Run mutmut in its folder, on all test files of the room: those that it saw call the function first.

    It does not see tests that share a fixture with another one, nor calls in processes that a test starts.
    """
    os.chdir(folder)
    reset_config()
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    collect = mutmut.collect_or_load_stats

    def collect_by_file(*args: Any, **kwargs: Any) -> None:
        collect(*args, **kwargs)
        found, seconds = mutmut.state(), dict.fromkeys(tests, 0.0)
        for test, taken in found.duration_by_test.items():
            seconds[test.partition("::")[0]] += taken
        found.duration_by_test.update(seconds)
        for function in {mangled_name_from_mutant_name(name) for name in names}:
            callers = {test.partition("::")[0] for test in found.tests_by_mangled_function_name[function]}
            ordered = dict.fromkeys(sorted(tests, key=lambda file: (file not in callers, seconds[file])))
            found.tests_by_mangled_function_name[function] = ordered  # type: ignore[assignment]

    mutmut.collect_or_load_stats = collect_by_file
    ForkServerRunner.run_clean_tests = lambda self, tests: 0  # type: ignore[method-assign] # they have just passed
    mutmut._run(names, 1)


def main() -> None:
    """Try the mutants of each room, then print the table, the survivors and the share that was noticed."""
    os.chdir(ROOT)
    table = yaml.safe_load((ROOT / "benchmarks/mutants.yaml").read_text())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", nargs="+", choices=table["rooms"], default=list(table["rooms"]))
    parser.add_argument("--each", type=int, default=45, help="mutants of a room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", action="store_true", help="run nothing, print what is known")
    options = parser.parse_args()
    same = {(entry["file"], entry["function"], entry["diff"].strip()) for entry in table["equivalent"]}
    noticed = tried = 0
    for room in options.rooms:
        drawn = draw(room, options.each, options.seed)
        counted = [mutant for mutant in drawn if mutant.key not in same]
        pending = [mutant for mutant in counted if verdict(room, mutant) not in NOTICED]
        if pending and not options.report:
            try_out(room, pending, table["rooms"][room], table["mutmut"])
        missed = [mutant for mutant in counted if verdict(room, mutant) not in NOTICED]
        print(f"{room}: {len(counted) - len(missed)}/{len(counted)} noticed, {len(drawn) - len(counted)} equivalent")
        for mutant in missed:
            print(f"  {mutant.file}:{mutant.line} {mutant.function}: {verdict(room, mutant)} ({mutant.name})")
            print(indent(mutant.diff, "    "), flush=True)
        noticed, tried = noticed + len(counted) - len(missed), tried + len(counted)
    print(f"RATIO mutants_noticed {noticed / tried:.3f}")


if __name__ == "__main__":
    main()
