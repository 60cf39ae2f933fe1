"""What tests of the HTTP interface ask for, and how they read its answers."""

from typing import Any

from fastapi.testclient import TestClient

from linnet.serve.clips import KINDS, file_of
from linnet.serve.jobs import Job
from linnet.serve.service import Service

PROMPT = "a red star spins on a blue background"
STILL = {"prompt": PROMPT, "num_frames": 1, "num_inference_steps": 2}


def accepted(client: TestClient, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/videos", json=STILL | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def render(service: Service, content: bytes = b"0123456789") -> Job:
    """What a worker does with the next job, without the pictures."""
    job = service.queue.claim("w")
    assert job is not None
    for variant in KINDS:
        file_of(service.data, job.id, variant).write_bytes(content)
    service.queue.complete(job, size=3 * len(content), seconds={"denoise": 1.0, "decode": 0.5})
    return job


def refused(answer: Any, status: int, code: str, param: str | None = None) -> str:
    """The message of an error in the envelope that clients know."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    return error["message"]
