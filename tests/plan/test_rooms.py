"""What `plan/` promises of itself: no torch, and facts of a model that stand in its row of the catalogue alone."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import linnet
import linnet.plan

SOURCES = Path(linnet.__file__).parent


def test_nothing_of_a_plan_imports_torch() -> None:
    modules = [f"linnet.plan.{module.name}" for module in pkgutil.iter_modules(linnet.plan.__path__)]
    assert "linnet.plan.choose" in modules
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
