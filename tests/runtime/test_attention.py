"""The ways to attend give the same; which one is used is found by measuring, once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from linnet.catalog import SEEDLING
from linnet.models.attention import attend_chunked, attend_plainly
from linnet.pipeline import Pipeline
from linnet.request import make_request
from linnet.runtime import attention
from linnet.runtime.attention import STOCK, Work, candidates, choose, fastest, way_of
from linnet.weights.store import resolve
from tiny_models import draw

CPU = torch.device("cpu")
WORK = Work(2, 3, 40, 16)


@pytest.fixture(autouse=True)
def nothing_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINNET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "device", [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)], ids=lambda d: d.type
)
def test_every_way_gives_the_same(device: torch.device) -> None:
    query, key, value = (draw(*WORK, seed=seed).transpose(1, 2).to(device) for seed in range(3))
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    ways = candidates(device, WORK)
    assert len(ways) > 1
    for way in ways.values():
        if attention.timed(lambda way=way: way(query, key, value), device) < float("inf"):
            torch.testing.assert_close(
                way(query, key, value), attend_plainly(query, key, value), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("beside", [True, False], ids=["heads beside each other", "heads apart"])
def test_chunks_give_the_same(beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "linnet.models.attention.CHUNK_BYTES", 4 * 150 * 70
    )  # 150 tokens in chunks of 70 rows
    shape = (2, 150, 3, 16) if beside else (2, 3, 150, 16)
    query, key, value = (draw(*shape, seed=seed) for seed in range(3))
    if beside:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    torch.testing.assert_close(
        attend_chunked(query, key, value), attend_plainly(query, key, value), rtol=1e-5, atol=1e-5
    )


def test_the_fastest_is_chosen_once_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    seconds = {STOCK: 3.0, "plain": 2.0}

    def measured(ways: dict, *rest: object) -> str:
        asked.append("once")
        return min(ways, key=lambda name: seconds[name])

    monkeypatch.setattr(attention, "fastest", measured)
    assert [choose(WORK, CPU, torch.float32) for _ in range(2)] == ["plain", "plain"]
    assert choose(WORK._replace(tokens=33), CPU, torch.float32) == "plain"  # of the same class
    assert asked == ["once"]
    choose(WORK, CPU, torch.bfloat16)
    choose(WORK._replace(tokens=100), CPU, torch.float32)
    assert len(asked) == 3


def test_what_the_device_cannot_do_or_does_hardly_faster_is_not_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cannot(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise RuntimeError("No available kernel. Aborting execution.")

    def timed(run: object, device: torch.device) -> float:
        return next(times)

    ways = candidates(CPU, WORK)
    assert fastest({STOCK: ways[STOCK], "none": cannot}, WORK, CPU, torch.float32) == STOCK
    monkeypatch.setattr(attention, "timed", timed)
    for other, chosen in ((0.095, STOCK), (0.08, "plain")):
        times = iter([9.0, 9.0, *[0.1, other] * 9])  # the first round does not count
        assert fastest(ways, WORK, CPU, torch.float32) == chosen


def test_many_tokens_are_not_attended_to_plainly() -> None:
    assert set(candidates(CPU, WORK._replace(tokens=4000))) == {STOCK, "chunked"}
    assert set(candidates(CPU, WORK._replace(tokens=100_000))) == {STOCK}
    seedlings = Work(2, 4, 1024, 64)  # the longest class of its clips
    assert set(candidates(CPU, seedlings)) == {STOCK, "plain"}


@pytest.mark.parametrize("tokens", [1, 500, 1024, 1025, 1300, 1872, 2048, 2049, 4000, 4096, 4097, 30_000])
@pytest.mark.parametrize("together", [1, 2, 4, 8, 48], ids=lambda n: f"{n} heads of all clips")
def test_what_is_chosen_is_what_runs(together: int, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip records the name: another way under that name would be told for the truth."""
    work = Work(1, together, tokens, 64)
    monkeypatch.setattr(attention, "fastest", lambda ways, *rest: list(ways)[-1])
    assert choose(work, CPU, torch.float32) in candidates(CPU, work)


def test_a_clip_tells_its_way_and_another_can_follow(tiny_model: Path, tmp_path: Path) -> None:
    request = make_request(SEEDLING, prompt="a red star", frames=5, steps=2, seed=3)
    files, used = resolve(SEEDLING, weights=tiny_model), []
    for asked in ("plain", STOCK, "a way of some other machine"):
        pipeline = Pipeline.open(SEEDLING, files, attention=asked)
        used.append(pipeline.generate(request, tmp_path / f"{len(used)}.mp4").choices["attention"])
    assert used[:2] == ["plain", STOCK]
    assert used[2] in ("plain", STOCK)
    assert way_of("a way of some other machine", WORK, CPU) is None
