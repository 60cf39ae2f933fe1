"""`linnet doctor`"""

import json
from typing import Any

import typer

from linnet.cli.options import AsJson
from linnet.geometry import format_seconds
from linnet.wording import format_bytes, format_count

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def doctor(
    as_json: AsJson = False,
) -> None:
    """Show what this machine can run.

    It shows versions, devices, their free memory, and how long a clip of each model can be. It reads no weights
    and uses no network.
    """
    from linnet.measure.doctor import doctor as examine  # imports torch

    facts = examine()
    if as_json:
        print(json.dumps(facts))
        return
    rows = [("linnet", facts["linnet"]), ("python", f"{facts['python']} on {facts['system']}")]
    rows += [(name, number or "not installed") for name, number in facts["packages"].items()]
    for index, device in enumerate(facts["devices"]):
        words = [device["title"], f"{bytes_or_unknown(device['free_bytes'])} free"]
        if device["others_bytes"] is not None:
            words.append(f"{format_bytes(device['others_bytes'])} held by other programs and the driver")
        words.append(device["dtype"])
        words += [format_count(facts["threads"], "thread")] if device["device"] == "cpu" else []
        words += ["used by default"] if index == 0 else []
        rows.append((device["device"], ", ".join(words)))
    rows.append(("cache", cache_words(**facts["cache"])))
    rows += [(model["model"], verdict(model)) for model in facts["models"]]
    width = max(len(name) for name, _ in rows)
    for name, words in rows:
        print(f"{name:<{width}}  {words}")


def verdict(model: dict[str, Any]) -> str:
    """Whether the model's usual clip fits, and what it takes, as `linnet plan` says."""
    clip, longest = model["clip"], model["longest_seconds"]
    usual = f"{format_seconds(clip['seconds'])} s of {clip['size']}"
    memory = format_bytes(model["needs_bytes"])
    if model["fits"]:
        fit = f"{usual} fits: {memory}"
    else:
        fit = f"{usual} does not fit in memory now: it takes at least {memory}"
    more = "" if longest is None else f"; at once up to {format_seconds(longest)} s"
    here = "" if model["installed"] else f"; not here: `linnet pull {model['model']}`"
    return f"{fit}{more}{here}"


def cache_words(folder: str | None, free_bytes: int | None) -> str:
    if folder is None:
        return "none: this user has no home folder, and HF_HOME is not set"
    return f"{folder}, {'may not be entered' if free_bytes is None else f'{format_bytes(free_bytes)} free'}"


def bytes_or_unknown(count: int | None) -> str:
    return "unknown memory" if count is None else format_bytes(count)
