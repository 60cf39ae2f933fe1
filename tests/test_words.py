"""The words of this project are those of its field. An identifier or a phrase that was replaced does not come back.

The check reads the definitions in src/linnet by AST, its messages, docstrings and comments, the options of the
commands, and the text of the pages. STILL lists the names that wait to be renamed, with how often each is defined. Its
numbers may only become smaller: `python tests/test_words.py` prints the list as it stands.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "linnet"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))

# Left what it was called here, right what people of the field call it.
MODULES = {
    "held": "keep_frames",
    "onward": "autoregressive",
    "span": "local_attention",
    "reuse": "step_cache",
    "knobs": "execution",
    "reasons": "explanations",
    "rates": "cost_model",
    "notes": "host",
    "playground": "synthetic",
    "beginning": "conditions",
    "keeper": "supervisor",
    "crew": "worker pool",
    "alone": "lock",
    "edge": "middleware",
    "outlook": "eta",
    "answers": "responses",
    "readers": "open files",
    "parts": "model",
}
CLASSES = {  # one of the words in a class's name: Keeper, RayKeeper
    "Course": "Sampler",
    "Held": "kept frames",
    "Way": "conditioning",
    "Reuse": "StepCache",
    "Knobs": "ExecutionConfig",
    "Parts": "LoadedModel",
    "Given": "InputReference",
    "Beginning": "Conditions",
    "Keeper": "Supervisor",
    "Crew": "WorkerPool",
    "Edge": "Middleware",
    "Outlook": "ETA",
}
NAMES = {  # of functions, parameters, variables and fields
    "turns": "resampling steps",
    "veil": "conditioning noise",
    "onward": "autoregressive windows",
    "together": "joint windows",
    "span": "local attention",
    "reuse": "step cache",
    "clean": "denoised",
    "null": "uncond",
    "running": "momentum buffer",
    "knobs": "execution config",
    "settle": "prepare",
    "sparing": "retry_on_oom",
    "let_go": "free_memory",
    "glance": "preview",
    "course": "sampler",
    "held": "kept frames",
    "keeper": "supervisor",
    "crew": "worker pool",
    "outlook": "eta",
    **dict.fromkeys(("found", "one", "said", "asked", "way", "place"), "the thing's own name"),
}
PART = re.compile(
    r"(?<![a-z])(?:veil|onward|knobs|course|keeper|crew|outlook|glance|sparing)(?![a-z])"
)  # crew_of, _keeper
OPTIONS = {
    "--reuse": "--step-cache",
    "--onward": "a name that says autoregressive windows",
    "--together": "a name that says joint windows",
    "--span": "a name that says local attention",
}
PHRASES = {
    "veil": "conditioning noise",
    "onward": "autoregressive windows",
    "knob": "execution config, option",
    "knobs": "execution config, options",
    "playground": "synthetic dataset",
    "keeper": "supervisor",
    "crew": "worker pool",
    "outlook": "ETA",
    "at a glance": "in one picture",
    "who may": "access",
    "who asks": "the client",
    "who comes": "the client",
    "who wants to know": "webhooks",
    "lost in pieces": "fragmentation",
    "is answered before": "is rejected before",
    "needs but": "needs only",
    "got nowhere": "made no progress",
    "gets nowhere": "makes no progress",
    "get nowhere": "make no progress",
    "sign of life": "heartbeat",
    "naive way": "simple method",
    "nobody measured": "was not measured",
    "nobody has measured": "was not measured",
    "nobody knows": "is not known",
    "nobody says": "is not given",
}

# Reviewed: where a word is the field's own, or is a field of a request or of a clip's record, which keep their names.
ALLOWED = {
    ("request.py", "reuse"),
    ("request.py", "span"),
    ("request.py", "together"),
    ("request.py", "onward"),
    ("train/flow.py", "onward"),  # a field of a recipe, which its record and its saved states have
    ("train/flow.py", "onward_from"),
    ("data", "place"),  # where a thing of a scene is; and the theatre's places, which are things of their own
    *((path, "running") for path in ("serve", "cli", "runtime", "inputs", "process.py")),  # jobs, processes
}

STILL: dict[str, int] = {}


def identifiers(path: Path) -> Iterator[tuple[str, str]]:
    """Each name that a file defines, with its kind: class or name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        match node:
            case ast.ClassDef():
                yield "class", node.name
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield "name", node.name
            case ast.arg():
                yield "name", node.arg
            case ast.Name(ctx=ast.Store()):
                yield "name", node.id
            case ast.Attribute(ctx=ast.Store()):
                yield "name", node.attr
            case (
                ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name))
            ):
                yield "name", name


def allowed(path: Path, name: str) -> bool:
    inside = path.relative_to(SOURCE)
    return (inside.as_posix(), name) in ALLOWED or (inside.parts[0], name) in ALLOWED


def replaced_identifiers() -> Counter[str]:
    """How often each replaced name is still defined in the package."""
    count: Counter[str] = Counter()
    for path in sorted(SOURCE.rglob("*.py")):
        if path.stem in MODULES and not allowed(path, path.stem):
            count[f"module {path.stem}"] += 1
        for kind, name in identifiers(path):
            if kind == "class":
                count.update(f"class {word}" for word in re.findall(r"[A-Z][a-z]+", name) if word in CLASSES)
            elif kind == "name" and not allowed(path, name):
                count.update(f"name {word}" for word in {name, *PART.findall(name)} if word in NAMES)
    return count


def replaced_options() -> Counter[str]:
    """Options that are shown under a replaced name. A hidden alias of a new name may stay."""
    from typer.main import get_command

    from linnet.cli import app

    def walk(command: Any) -> Iterator[str]:
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                yield from (names[0] for names in (parameter.opts, parameter.secondary_opts) if names)
        if hasattr(command, "list_commands"):
            context = command.context_class(command)
            for name in command.list_commands(context):
                yield from walk(command.get_command(context, name))

    return Counter(f"option {name}" for name in walk(get_command(app)) if name in OPTIONS)


def phrases(text: str) -> Iterator[str]:
    """The replaced phrases in a text."""
    text = " ".join(text.split())
    for phrase in PHRASES:
        yield from [phrase] * len(re.findall(rf"\b{phrase}\b", text, re.IGNORECASE))


def replaced_phrases() -> Counter[str]:
    """Phrases in the pages without their code, in commands.md, and in the messages of the package."""
    count: Counter[str] = Counter()
    for page in PAGES:
        text = page.read_text("utf-8")
        if page.name != "commands.md":  # which is the help of the commands, in blocks of code
            text = re.sub(r"^```.*?^```|`[^`]+`", "", text, flags=re.DOTALL | re.MULTILINE)
        count.update(f"phrase {phrase}" for phrase in phrases(text))
    for path in sorted(SOURCE.rglob("*.py")):
        count.update(f"message {phrase}" for text in messages(path) for phrase in phrases(text))
        count.update(f"comment {phrase}" for text in comments(path) for phrase in phrases(text))
    return count


def comments(path: Path) -> Iterator[str]:
    """The docstrings and comments of a file, without code."""
    source = path.read_text("utf-8")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield re.sub(r"`[^`]+`", "", ast.get_docstring(node) or "")
    lines = [
        token.string.lstrip("# ") if token.type == tokenize.COMMENT else "\0"
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in (tokenize.NL, tokenize.NEWLINE)
    ]
    yield from re.sub(r"`[^`]+`", "", " ".join(lines)).split("\0")  # a comment over several lines is one


def messages(path: Path) -> Iterator[str]:
    """The strings of several words in a file, without its docstrings and without code, such as names of fields."""
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield from [re.sub(r"`[^`]+`", "", node.value)] if " " in node.value else []


def everything() -> Counter[str]:
    return replaced_identifiers() + replaced_options() + replaced_phrases()


def remedy(what: str) -> str:
    kind, _, word = what.partition(" ")
    table = {"module": MODULES, "class": CLASSES, "name": NAMES, "option": OPTIONS}.get(kind, PHRASES)
    return f"{what}: use {table[word]}"


def test_no_replaced_word_comes_back() -> None:
    found = everything()
    more = [remedy(what) for what, times in found.items() if times > STILL.get(what, 0)]
    assert not more, f"{more}; `python tests/test_words.py` counts all"


def test_what_is_renamed_leaves_the_list() -> None:
    gone = sorted(set(STILL) - set(everything()))
    assert not gone, "take these out of STILL"


def test_the_check_sees_each_kind_of_definition(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import os as place\nclass RayKeeper:\n    veil: int = 1\n    def settle(self, way):\n"
        "        self.crew = way\n        for one in []: pass\n        [said for said in []]\n"
    )
    names = ["place", "veil", "settle", "self", "way", "crew", "one", "said"]
    assert sorted(identifiers(path)) == sorted([("class", "RayKeeper"), *(("name", name) for name in names)])


def test_the_check_reads_docstrings_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        '"""Its keeper."""\n# what nobody\n# measured\ndef f():\n    "a crew"\n    x = 1  # the `veil` of it\n'
    )
    assert sorted(phrase for text in comments(path) for phrase in phrases(text)) == [
        "crew",
        "keeper",
        "nobody measured",
    ]


if __name__ == "__main__":
    for what, times in sorted(everything().items()):
        print(f"    {what!r}: {times},".replace("'", '"'))
