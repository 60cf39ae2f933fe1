"""The HTTP interface in this process, over a queue whose worker is the test itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from linnet.serve.app import create_app
from linnet.serve.clips import clips_folder
from linnet.serve.models import Models
from linnet.serve.queue import Queue
from linnet.serve.service import Service


@pytest.fixture
def service(tmp_path: Path, tiny_model: Path) -> Service:
    clips_folder(tmp_path).mkdir()
    models = Models("seedling", tiny_model, "cpu")
    return Service(data=tmp_path, queue=Queue(tmp_path), models=models, reserve_bytes=0)


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(
        create_app(service), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        yield client
