"""LoRAs over HTTP: by name, from the operator's folder, and from nowhere else."""

import json
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from safetensors.torch import save_file

from api_client import PROMPT, STILL, accepted, refused, render
from linnet.catalog import SEEDLING
from linnet.errors import InvalidInput
from linnet.media import read_metadata
from linnet.models.lora import LoraWeights
from linnet.serve.batch import read_lines
from linnet.serve.models import Models
from linnet.serve.render import Renderer, RenderSettings
from linnet.serve.service import Service
from linnet.weights.lora import Lora, write_lora
from linnet.weights.store import resolve
from tiny_models import draw

Q = "blocks.0.self_attn.q"


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """Two, one of another model, and a folder as PEFT writes it."""
    folder = tmp_path / "loras"
    folder.mkdir()
    small = Lora(weights={Q: LoraWeights(draw(2, 32), draw(32, 2), 2.0)})
    write_lora(folder / "my-dog.safetensors", small)
    write_lora(folder / "style", small, "peft")
    save_file({"diffusion_model.blocks.30.ffn.0.diff": torch.zeros(4, 4)}, folder / "wan.safetensors")
    save_file({}, tmp_path / "secret.safetensors")
    return folder


@pytest.fixture
def offering(service: Service, tiny_model: Path, loras: Path) -> Service:
    service.models = Models("seedling", tiny_model, "cpu", loras=loras)
    return service


def test_a_request_names_its_loras(
    client: TestClient, offering: Service, loras: Path, tmp_path: Path
) -> None:
    (listed,) = client.get("/v1/models").json()["data"]
    assert listed["loras"] == ["my-dog", "style"]
    video = accepted(client, lora={"name": "my-dog", "strength": 0.5})
    assert video["lora"] == [{"name": "my-dog", "strength": 0.5}]
    assert accepted(client, lora=[{"name": "my-dog"}, {"name": "style"}])["lora"][1]["strength"] == 1.0
    form = client.post("/v1/videos", data=dict(STILL, lora=json.dumps({"name": "style"})))
    assert form.json()["lora"] == [{"name": "style", "strength": 1.0}]

    job = render(offering)
    remix = client.post(f"/v1/videos/{job.id}/remix", json={"prompt": "a blue star"}).json()
    assert remix["lora"] == video["lora"]
    settings = RenderSettings(
        model="seedling", weights=str(resolve_tiny(offering)), device="cpu", loras=str(loras)
    )
    Renderer(settings).make(job.request, tmp_path / "a.mp4", lambda *what: None)
    (record,) = (read_metadata(tmp_path / "a.mp4") or {})["request"]["loras"]
    assert (record["file"], record["strength"]) == ("my-dog", 0.5)  # and nothing of where it is


def resolve_tiny(service: Service) -> Path:
    return service.models.files["seedling"].transformer.parent


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("my-dgo", "did you mean my-dog"),
        ("wan", "is of nothing in this model"),
        ("../secret", "is not on this server"),
        ("/etc/passwd", "is not on this server"),
        ("my-dog.safetensors", "is not on this server"),
    ],
)
def test_what_is_not_offered_is_refused(client: TestClient, offering: Service, name: str, words: str) -> None:
    answer = client.post("/v1/videos", json=STILL | {"lora": {"name": name}})
    assert words in refused(answer, 400, "invalid_value", "lora")
    assert not offering.queue.unfinished()


def test_a_server_without_a_folder_has_none(client: TestClient, service: Service) -> None:
    answer = client.post("/v1/videos", json=STILL | {"lora": {"name": "my-dog"}})
    assert "offers none" in refused(answer, 400, "invalid_value", "lora")
    assert client.get("/v1/models").json()["data"][0]["loras"] == []


def test_a_strength_out_of_range_is_refused(client: TestClient, offering: Service) -> None:
    answer = client.post("/v1/videos", json=STILL | {"lora": {"name": "my-dog", "strength": 1e9}})
    assert "out of range" in refused(answer, 400, "invalid_value", "lora")


def test_lines_of_a_batch_name_files(loras: Path, tiny_model: Path) -> None:
    files, lora = resolve(SEEDLING, weights=tiny_model), f"{loras / 'my-dog.safetensors'}:0.3"
    prompts = loras / "prompts.jsonl"
    prompts.write_text(f"{PROMPT}\n{json.dumps({'prompt': PROMPT, 'lora': lora})}\n")
    plain, own = read_lines(prompts, SEEDLING, files)
    assert "loras" not in plain.settings
    assert own.settings["loras"][0]["strength"] == 0.3
    usual, _ = read_lines(prompts, SEEDLING, files, loras=[str(loras / "style")])
    assert usual.settings["loras"][0]["file"] == str(loras / "style")
    prompts.write_text(json.dumps({"prompt": PROMPT, "lora": "gone"}))
    with pytest.raises(InvalidInput, match=r"line 1 of prompts.jsonl: lora"):
        read_lines(prompts, SEEDLING, files)
