"""For every test: types and shapes in linnet's signatures are checked at each call, and the models that the
user of this machine may have do not count."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep673Exception
from jaxtyping import install_import_hook

EDGE = "linnet.request"  # checks what it is given by itself, and is tested with the wrong types
CONFIG = BeartypeConf(is_pep484_tower=True)  # an int is a float, as Python's typing has it


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments and result checked; beartype cannot check a method that gives `Self`."""
    if function.__module__ == EDGE:
        return function
    try:
        return beartype(conf=CONFIG)(function)
    except BeartypeDecorHintPep673Exception:
        return function


install_import_hook("linnet", f"{__name__}.checked")  # before the first import of linnet


@pytest.fixture(autouse=True)
def empty_hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pulled models lie: nowhere yet."""
    cache = tmp_path_factory.mktemp("hub")
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
