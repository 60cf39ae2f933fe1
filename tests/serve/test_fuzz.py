"""The interface does what its OpenAPI document says, whatever comes. FUZZ=1000 in the environment tries more cases;
`pytest -s` counts them. Some operations have but few: there is one way to ask for /healthz, and no wrong one."""

import json
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, reject, settings, strategies
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from linnet.catalog import SEEDLING
from linnet.serve.app import create_app
from linnet.serve.clips import clips_folder
from linnet.serve.jobs import Limits, NotThis
from linnet.serve.models import Models
from linnet.serve.queue import Queue
from linnet.serve.service import Service

CASES = int(os.environ.get("FUZZ", "6"))
UNCHECKED: Any = list(HealthCheck)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    """The interface, and a worker that gives up on each job after a while."""
    data = tmp_path_factory.mktemp("fuzz")
    clips_folder(data).mkdir()
    service = Service(
        data=data,
        queue=Queue(data),
        models=Models("seedling", tiny_model, "cpu"),
        limits=Limits(jobs=20),
        reserve_bytes=0,
    )

    def give_up() -> None:
        while True:
            time.sleep(0.05)
            service.queue.beat("w", ready=True, memory=0)
            if job := service.queue.claim("w"):
                try:
                    service.queue.report(job, "denoise", 1, 2, b"picture")
                    service.queue.fail(job, "invalid_memory", "there is none")
                except NotThis:
                    pass

    threading.Thread(target=give_up, daemon=True).start()
    described = schemathesis.openapi.from_asgi(
        "/openapi.json", create_app(service), headers={"Host": "localhost"}
    )
    # A body that is too large to be looked at is rejected, too.
    rejection = described.config.checks.negative_data_rejection
    rejection.expected_statuses = [*rejection.expected_statuses, "413"]
    described.hook(map_body)
    return described


def map_body(context: Any, body: Any) -> Any:
    """Half of the prompts are such as the model knows; of random words it knows none."""
    prompt = body.get("prompt") if isinstance(body, dict) else None
    if isinstance(prompt, str) and 0 < len(prompt) <= 4000 and len(prompt) % 2:
        return body | {"prompt": SEEDLING.examples[0]}
    return body


@strategies.composite
def makeable(draw: strategies.DrawFn, cases: strategies.SearchStrategy[Any]) -> Any:
    """Without the cases that schemathesis gives up on: some forms with a file in them, as it makes them wrong."""
    try:
        return draw(cases)
    except ValueError as error:
        if "Unsupported type: 'Binary'" not in str(error):
            raise
        reject()


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")  # schemathesis' own
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_it_does_as_it_says(api: Any, mode: GenerationMode) -> None:
    tried: Counter[str] = Counter()
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=UNCHECKED)
        @given(case=makeable(operation.as_strategy(generation_mode=mode)))
        def holds(case: Any) -> None:
            tried[case.operation.label] += 1
            # Which prompts, sizes and lengths a model can do is more than a schema can say, so a body that fits the
            # schema may be refused, in words.
            case.call_and_validate(
                base_url="http://localhost",
                excluded_checks=[positive_data_acceptance] if case.operation.body else [],
            )

        with suppress(Unsatisfiable):
            holds()
    print(json.dumps({mode.value: tried}))
