"""What `plan/` promises of itself: no torch, and facts of a model that stand in its row of the catalogue alone."""

import ast
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import linnet
import linnet.plan

SOURCES = Path(linnet.__file__).parent


def test_nothing_of_a_plan_imports_torch() -> None:
    modules = [f"linnet.plan.{module.name}" for module in pkgutil.iter_modules(linnet.plan.__path__)]
    assert "linnet.plan.refusal" in modules
    script = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_models_abilities_are_fields_of_its_row() -> None:
    """Nobody concludes from where a model's files are to what the model can do."""
    asked = [
        f"{path.relative_to(SOURCES)}:{node.lineno}"
        for path in SOURCES.rglob("*.py")
        if path.name != "catalog.py"
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr == "source"
        and ast.unparse(node.value).endswith("spec")
    ]
    assert asked == []


MOST_PARAMETERS = 12
PYDANTIC = {"_file"}  # so it names what a model holds beside its fields


def test_no_function_has_more_parameters_than_a_reader_can_hold() -> None:
    """Those of a command are its options, which typer reads. Typed settings (`**settings: Unpack[...]`) are one."""
    wide = []
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_command(node):
                given = node.args
                names = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                if sum(name is not None for name in names) > MOST_PARAMETERS:
                    wide.append(f"{path.relative_to(SOURCES)}:{node.lineno} {node.name}")
    assert wide == []


def is_command(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether typer reads its parameters."""
    decorated = any(re.match(r"app\.(command|callback)\b", ast.unparse(each)) for each in node.decorator_list)
    return decorated or any(
        "option(" in ast.unparse(each) for each in (*node.args.args, *node.args.kwonlyargs)
    )


def test_no_room_reaches_into_another_for_what_it_keeps_to_itself() -> None:
    """A name of linnet's with an underscore is used in the file that defines it alone."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in SOURCES.rglob("*.py")}
    own = {path: set(private_names(tree)) for path, tree in trees.items()}
    everywhere = set().union(*own.values())
    assert "_transformer" in everywhere
    found = [
        f"{path.relative_to(SOURCES)}:{node.lineno} {ast.unparse(node)}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in everywhere - own[path] - PYDANTIC
        and ast.unparse(node.value) not in ("self", "cls")  # whose class may have a base in another file
    ]
    assert found == []


def private_names(tree: ast.AST) -> Iterator[str]:
    """Attributes that the file sets, and functions that it defines, for itself."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.FunctionDef(name=name):
                pass
            case _:
                continue
        if re.match("_[a-z]", name):
            yield name
