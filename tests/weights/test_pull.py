"""Pulling a model: from a server on this machine that speaks the Hub's protocol and can misbehave."""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors.torch import save

from linnet.catalog import CATALOG, SEEDLING
from linnet.errors import InvalidInput, WeightsError
from linnet.weights import pull as pulling
from linnet.weights import store
from linnet.weights.pull import Progress, plan_pull, pull

LINUM = CATALOG["linum-v2-360p"]
REPOSITORY = "Linum-AI/linum-v2-360p"
COMMIT = "c0ffee" + 34 * "0"
TRANSFORMER = "dit/360p.safetensors"


def tensors(seed: int, count: int) -> bytes:
    return save({"a": torch.rand(count, generator=torch.Generator().manual_seed(seed))})


@dataclass
class Hub:
    """A repository, and how its server misbehaves. `large` files are in large-file storage: redirected."""

    files: dict[str, bytes]
    large: set[str]
    listed: dict[str, bytes] = field(default_factory=dict)  # contents whose checksums are stated instead
    break_after: int | None = None  # bytes of the transformer, once
    then: int | None = None  # status of every answer for a file after a break
    info_status: int = 200
    ranges: list[str] = field(default_factory=list)  # asked for
    sent: Counter[str] = field(default_factory=Counter)
    url: str = ""

    def info(self) -> dict:
        siblings = []
        for path, served in self.files.items():
            content = self.listed.get(path, served)
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            entry: dict = {"rfilename": path, "size": len(content), "blobId": blob}
            if path in self.large:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        card = {"license": "apache-2.0"}
        return {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings, "cardData": card, "tags": []}


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == f"/api/models/{REPOSITORY}":
                assert "blobs=" in self.path
                return self.answer(hub.info_status, json.dumps(hub.info()).encode())
            if name := path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/"):
                if name in hub.large:
                    return self.answer(302, b"", {"Location": f"{hub.url}/cdn/{name}"})
                if name in hub.files:
                    return self.send_file(name)
            name = path.removeprefix("/cdn/")
            return self.send_file(name) if name in hub.large else self.answer(404, b"")

        def send_file(self, name: str) -> None:
            content = hub.files[name]
            start, status, headers = 0, 200, {"ETag": f'"{name}"', "Accept-Ranges": "bytes"}
            if wanted := self.headers.get("Range"):
                hub.ranges.append(wanted)
                start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if name == TRANSFORMER and hub.break_after is None and hub.then is not None:
                return self.answer(hub.then, b"")
            self.answer(status, b"", headers | {"Content-Length": str(len(content) - start)})
            part = content[start:]
            if name == TRANSFORMER and hub.break_after is not None:
                part, hub.break_after = part[: hub.break_after], None
                self.close_connection = True
            hub.sent[name] += len(part)
            self.wfile.write(part)
            return None

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # before trying again
    shards = {f"t5/text_encoder/model-0000{i}-of-00002.safetensors": tensors(i, 100) for i in (1, 2)}
    names = {f"{i}.weight": Path(path).name for i, path in enumerate(shards)}
    files = {
        TRANSFORMER: tensors(3, 10_000),
        "vae/vae.safetensors": tensors(4, 100),
        "t5/text_encoder/config.json": b'{"d_model": 4}',
        "t5/text_encoder/model.safetensors.index.json": json.dumps({"weight_map": names}).encode(),
        "t5/tokenizer/spiece.model": b"pieces",
        **shards,
    }
    unwanted = {
        "README.md": b"# Linum",
        "t5/text_encoder/pytorch_model.bin": b"PK\x03\x04",
        "t5/tokenizer/../../../../escaped.json": b"{}",
        "t5/tokenizer/..\\..\\escaped.json": b"{}",
    }
    large = {path for path in files if path.endswith((".safetensors", ".bin", ".model"))}
    hub = Hub(files=files | unwanted, large=large)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def cached(tmp_path: Path) -> set[str]:
    """Complete files that the cache shows, and blobs, by name."""
    root = store.repository_folder(REPOSITORY)
    shown = {path.name for path in root.rglob("*") if path.is_file()}
    return {name for name in shown if not name.endswith(".incomplete")}


def test_the_plan_says_what_would_come_and_downloads_nothing(hub: Hub, tmp_path: Path) -> None:
    plan = plan_pull(LINUM, endpoint=hub.url)
    unwanted = ("README.md", ".bin", "escaped.json")
    wanted = {path: content for path, content in hub.files.items() if not path.endswith(unwanted)}
    assert {file.path: file.size for file in plan.files} == {k: len(v) for k, v in wanted.items()}
    assert plan.bytes == plan.bytes_to_fetch == sum(map(len, wanted.values()))
    assert (plan.licence, plan.commit) == ("apache-2.0", COMMIT)
    assert not hub.sent
    assert not (tmp_path / "cache").exists()


def test_a_pull_ends_in_the_hub_s_cache_with_every_byte(hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[Progress] = []
    plan = plan_pull(LINUM, endpoint=hub.url)
    files = pull(LINUM, plan=plan, watch=seen.append)
    assert files == store.locate(LINUM)
    assert files.transformer.read_bytes() == hub.files[TRANSFORMER]
    for file in plan.files:
        path = try_to_load_from_cache(REPOSITORY, file.path, cache_dir=store.hub_cache())
        assert isinstance(path, str), file.path  # huggingface_hub finds it under "main"
        assert Path(path).read_bytes() == hub.files[file.path]
        for stage in ("download", "verify"):
            done = [step.done for step in seen if (step.stage, step.path) == (stage, file.path)]
            assert done == sorted(done)
            assert done[-1] == file.size
    assert plan.bytes_to_fetch == 0
    assert capfd.readouterr() == ("", "")

    sent = hub.sent.copy()
    pull(LINUM, endpoint=hub.url)
    assert hub.sent == sent  # only hashed the second time


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub) -> None:
    hub.break_after = 25_500
    files = pull(LINUM, endpoint=hub.url)
    assert hub.ranges == ["bytes=25000-"]  # whole chunks of 1000
    assert files.transformer.read_bytes() == hub.files[TRANSFORMER]


def test_a_pull_that_failed_goes_on_in_the_next_one(hub: Hub, tmp_path: Path) -> None:
    hub.break_after, hub.then = 25_500, 503
    with pytest.raises(
        InvalidInput, match=r'^repository ".*": http://.* answers 503; run `linnet pull .* again'
    ):
        pull(LINUM, endpoint=hub.url)
    assert store.locate(LINUM) is None
    whole = plan_pull(LINUM, endpoint=hub.url)
    assert whole.bytes_to_fetch == len(hub.files[TRANSFORMER]) - 25_000
    hub.then = None
    hub.ranges.clear()
    files = pull(LINUM, endpoint=hub.url)
    assert hub.ranges == ["bytes=25000-"]
    assert files.transformer.read_bytes() == hub.files[TRANSFORMER]
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_an_interrupted_pull_goes_on_in_the_next_one(hub: Hub) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.path == TRANSFORMER and progress.done >= 20_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(LINUM, endpoint=hub.url, watch=interrupt)
    assert store.locate(LINUM) is None
    assert pull(LINUM, endpoint=hub.url).transformer.read_bytes() == hub.files[TRANSFORMER]
    assert hub.ranges == ["bytes=20000-"]


@pytest.mark.parametrize("path", [TRANSFORMER, "t5/text_encoder/config.json"])
def test_a_lie_about_a_checksum_names_the_file_and_leaves_nothing(
    hub: Hub, tmp_path: Path, path: str
) -> None:
    truth = hub.files[path]
    hub.listed[path] = truth
    hub.files[path] = truth[:-1] + bytes([truth[-1] ^ 1])
    with pytest.raises(
        WeightsError, match=rf'^repository ".*": {path} is not what .* checksum differs.*; run'
    ):
        pull(LINUM, endpoint=hub.url)
    assert store.locate(LINUM) is None
    assert Path(path).name not in cached(tmp_path)
    for file in (tmp_path / "cache").rglob("*"):
        assert not file.is_file() or file.read_bytes() != hub.files[path]
    hub.files[path] = truth
    assert pull(LINUM, endpoint=hub.url) == store.locate(LINUM)


def test_a_part_that_rotted_on_disk_is_fetched_again(hub: Hub) -> None:
    files = pull(LINUM, endpoint=hub.url)
    files.transformer.write_bytes(hub.files[TRANSFORMER][:-1] + b"?")
    assert pull(LINUM, endpoint=hub.url).transformer.read_bytes() == hub.files[TRANSFORMER]


@pytest.mark.parametrize("longer", [-8, 8])
def test_a_lie_about_a_size_is_an_error(hub: Hub, longer: int) -> None:
    truth = hub.files[TRANSFORMER]
    hub.listed[TRANSFORMER] = truth[:longer] if longer < 0 else truth + bytes(longer)
    with pytest.raises(InvalidInput, match="repository"):
        pull(LINUM, endpoint=hub.url)
    assert store.locate(LINUM) is None


def test_without_a_network_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(InvalidInput) as caught:
        pull(LINUM, endpoint="http://127.0.0.1:9")
    line = (
        r'repository "Linum-AI/linum-v2-360p": http://127.0.0.1:9 cannot be reached .*; check the network .*'
    )
    assert re.fullmatch(line, str(caught.value))
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_refusal_of_the_hub_is_passed_on(hub: Hub, status: int) -> None:
    hub.info_status = status
    with pytest.raises(InvalidInput, match=f"answers {status}"):
        plan_pull(LINUM, endpoint=hub.url)


def test_a_repository_without_a_part_is_refused_before_anything_comes(hub: Hub) -> None:
    for path in [path for path in hub.files if path.startswith("t5/text_encoder")]:
        del hub.files[path]
    with pytest.raises(WeightsError, match="holds no t5/text_encoder in a format linnet reads"):
        pull(LINUM, endpoint=hub.url)
    assert not hub.sent


def test_a_full_disk_is_said_before_anything_comes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = pulling.shutil.disk_usage
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda path: usage(path)._replace(free=100))
    with pytest.raises(InvalidInput, match=r'^cache ".*": has 100 B free and .*; free some space'):
        pull(LINUM, endpoint=hub.url)
    assert not hub.sent


def test_seedling_needs_no_pull() -> None:
    with pytest.raises(InvalidInput, match="ships with linnet"):
        pull(SEEDLING)
