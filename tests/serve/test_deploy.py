"""What docs/serving.md tells to install: the unit and the proxy, as they are, with the real systemd and nginx."""

import getpass
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest

from linnet.serve.keys import make_key
from linnet.serve.queue import Queue
from serving import Server, until

pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")

DEPLOY = Path(__file__).parents[2] / "deploy"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
NAME = "linnet.example"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "linnet.service").read_text().replace("/opt/linnet/bin/linnet", sys.executable)
    (tmp_path / "linnet.service").write_text(unit)
    found = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "linnet.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")


@pytest.fixture
def server(tmp_path: Path, tiny_model: Path) -> Iterator[tuple[Server, str]]:
    """Behind a proxy by its name, and a key to it."""
    data = tmp_path / "data"
    data.mkdir()
    _, key = make_key(Queue(data), "ann")
    with Server(data, tiny_model, "--name", NAME) as server:
        yield server.wait_ready(), key


@pytest.fixture
def proxy(tmp_path: Path, server: tuple[Server, str]) -> Iterator[tuple[str, ssl.SSLContext]]:
    """nginx with the server block that we tell people to use, on a free port, with a certificate of its own."""
    port = free_port()
    pem, secret = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", secret, "-out", pem],
        capture_output=True, check=True,
    )  # fmt: skip
    block = (
        (DEPLOY / "nginx.conf")
        .read_text()
        .replace("listen 443", f"listen 127.0.0.1:{port}")
        .replace(f"/etc/letsencrypt/live/{NAME}", str(tmp_path))
        .replace("http://127.0.0.1:8000", server[0].url)
    )
    places = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    us = f"user {getpass.getuser()};" if os.getuid() == 0 else ""  # else its workers may not read our folder
    whole = f"{us} pid {tmp_path}/pid; daemon off; events {{}} http {{ access_log off; {places} {block} }}"
    (tmp_path / "nginx.conf").write_text(whole)
    command = [
        str(NGINX),
        "-e",
        str(tmp_path / "nginx.log"),
        "-p",
        str(tmp_path),
        "-c",
        str(tmp_path / "nginx.conf"),
    ]
    process = subprocess.Popen(command)
    try:
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", port)))
        yield f"https://{NAME}:{port}", ssl.create_default_context(cafile=str(pem))
    finally:
        process.terminate()
        process.wait()


class Here(httpx2.HTTPTransport):
    """Finds the name on this machine, as the DNS would."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions = {**request.extensions, "sni_hostname": NAME}
        request.url = request.url.copy_with(host="127.0.0.1")
        return super().handle_request(request)


@pytest.mark.skipif(
    NGINX is None or shutil.which("openssl") is None, reason="no nginx or openssl on this machine"
)
def test_it_works_through_a_proxy_with_tls(
    server: tuple[Server, str], proxy: tuple[str, ssl.SSLContext]
) -> None:
    _, key = server
    url, trust = proxy
    web = httpx2.Client(base_url=url, transport=Here(verify=trust), timeout=60)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, http_client=web)  # type: ignore[arg-type]
    web.headers["authorization"] = f"Bearer {key}"
    asked = {"prompt": "a red star spins on a blue background", "num_frames": 121, "num_inference_steps": 100}
    job = web.post("/v1/videos", json=asked).raise_for_status().json()["id"]
    times: list[float] = []
    with web.stream("GET", f"/v1/videos/{job}/events") as stream:
        times.extend(time.monotonic() for line in stream.iter_lines() if line.startswith("event: "))
    assert len(times) > 3
    assert times[-1] - times[0] > 0.2  # one by one, not all at the end
    part = web.get(f"/v1/videos/{job}/content", headers={"range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert client.videos.retrieve(job).status == "completed"
    answer = web.post("/v1/session", json={"key": key})
    assert "Secure" in answer.headers["set-cookie"]
    assert "max-age" in answer.headers["strict-transport-security"]
    assert web.get("/v1/videos", headers={"origin": url}).status_code == 200
    assert web.get("/v1/videos", headers={"origin": "https://evil.example"}).status_code == 403
    huge = web.post("/v1/videos", content=b"x" * 9_000_000, headers={"content-type": "application/json"})
    assert (huge.status_code, huge.json()["error"]["code"]) == (413, "too_large")  # linnet's own words
