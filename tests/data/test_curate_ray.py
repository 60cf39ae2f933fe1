"""A curation on a Ray cluster whose node cannot see the videos."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from linnet.data.curate import CurateSettings
from linnet.data.curate_run import curate
from linnet.errors import InvalidInput
from linnet.runtime.cluster import connect
from made_clips import textured, write_clip
from ray_nodes import Nodes

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'linnet[cluster]'")
pytest.importorskip("scenedetect", reason="scenedetect is not installed: pip install 'linnet[data]'")


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # a socket's path has but 107 letters
    raw = tmp_path / "raw"
    raw.mkdir()
    started = Nodes(tmp_path, raw)
    yield started
    ray.shutdown()
    for process in started.processes:
        started.kill(process)


def test_a_cluster_finds_and_writes_the_same(nodes: Nodes, tmp_path: Path) -> None:
    from linnet.data.curate_ray import RayExecutor

    raw = tmp_path / "raw"
    for seed, name in enumerate(("a", "b")):
        write_clip(raw / f"{name}.mp4", textured(60, seed=seed))
    (raw / "page.mp4").write_text("<html>")
    here = curate(raw, tmp_path / "here", CurateSettings())
    connect(nodes.address)
    there = curate(raw, tmp_path / "there", CurateSettings(), executor=RayExecutor())
    assert [row.to_json() for row in there.rows] == [row.to_json() for row in here.rows]
    assert len(here.kept) == 2
    for row in here.kept:
        assert (tmp_path / "there" / row.file).read_bytes() == (tmp_path / "here" / row.file).read_bytes()
    texts = [(tmp_path / name / "manifest.jsonl").read_text() for name in ("here", "there")]
    assert texts[0] == texts[1]


def test_no_cluster_at_the_address() -> None:
    with pytest.raises(InvalidInput, match="no cluster answers"):
        connect("127.0.0.1:9")
