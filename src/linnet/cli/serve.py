"""`linnet serve`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from linnet.catalog import CATALOG
from linnet.cli import Group
from linnet.cli.options import Weights, WorkerOptions, grouped, number, one_of, option, whole
from linnet.cli.terminal import note
from linnet.errors import InvalidInput

DATA = Path("linnet-data")


class Serve(Group):
    """Serves, unless something else is named."""

    def resolve_command(self, ctx: Any, args: Any) -> Any:
        self.callback = None
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Serve, add_completion=False, rich_markup_mode=None)


@app.callback(invoke_without_command=True)
@grouped
def serve(
    *,
    host: Annotated[
        str, option("host", "Address to listen on; any but 127.0.0.1 needs keys.", metavar="NAME")
    ] = "127.0.0.1",
    port: Annotated[int, whole("port", "By default 8000.", least=0, most=65535)] = 8000,
    name: Annotated[
        str | None,
        option("name", "Host name of a proxy in front, such as linnet.example; needs keys.", metavar="NAME"),
    ] = None,
    data: Annotated[Path, option("data", "Folder of the database and the clips.", metavar="DIR")] = DATA,
    model: Annotated[str | None, one_of("model", "The model of requests that name none.", *CATALOG)] = None,
    weights: Weights = None,
    workers: WorkerOptions,
    gpus_per_worker: Annotated[
        int,
        whole(
            "gpus-per-worker", "GPUs that share the work of a worker's clips, from its device on.", least=1
        ),
    ] = 1,
    loras: Annotated[
        Path | None,
        option(
            "loras", "Folder of the LoRAs that clients may use, by the names of their files.", metavar="DIR"
        ),
    ] = None,
    jobs: Annotated[int, whole("jobs", "Most jobs in the queue.", least=1)] = 1000,
    jobs_per_key: Annotated[int, whole("jobs-per-key", "Most jobs of one key.", least=1)] = 100,
    longest: Annotated[float | None, number("longest", "Longest clip, in seconds.", above=0)] = None,
    max_job_minutes: Annotated[
        float,
        number("max-job-minutes", "Reject a job that would take longer; 60 by default.", above=0),
    ] = 60.0,
    keep_days: Annotated[
        float | None, number("keep-days", "Delete clips after this many days.", above=0)
    ] = None,
    quota: Annotated[
        float | None, number("quota", "Most gigabytes of clips; the oldest are deleted first.", above=0)
    ] = None,
    adopt_files: Annotated[
        bool, option("adopt-files", "Add clips in --data that its database does not know.")
    ] = False,
    webhook: Annotated[
        str | None,
        option(
            "webhook",
            "Address for a signed notice when a job ends; the secret is in --data.",
            metavar="URL",
        ),
    ] = None,
    fetch_images: Annotated[
        bool, option("fetch-images", "Allow clients to give images by a public http(s) address.")
    ] = False,
    log_prompts: Annotated[
        bool, option("log-prompts", "Include prompts in the log. It has a line for each job that ends.")
    ] = False,
    client_timeout: Annotated[
        float,
        number("client-timeout", "Seconds to wait for a slow or silent client; 30 by default.", above=0),
    ] = 30.0,
    stall: Annotated[
        float,
        number("stall", "Seconds without progress before a worker is replaced; 3600 by default.", above=0),
    ] = 3600.0,
    grace: Annotated[
        float, number("grace", "Seconds that running jobs have to finish when the server stops.", least=0)
    ] = 30.0,
) -> None:
    """Serve the models with an HTTP API, a queue and a web page.

    The API is the Videos format that existing clients use. The web page is at the same address. Jobs and clips
    are kept in --data, and survive a restart or a crash.
    """
    from linnet.cli import fail
    from linnet.weights.store import default_model

    try:
        from linnet.serve.jobs import Limits
        from linnet.serve.server import Settings
        from linnet.serve.server import serve as run
        from linnet.serve.supervisor import Patience
        from linnet.serve.worker_pool import WorkerPool
    except ModuleNotFoundError as error:
        fail(f"error: {error.name} is not installed; run `pip install 'linnet[serve]'`", 2)
    run(
        Settings(
            data=data,
            host=host,
            port=port,
            name=name,
            webhook=webhook,
            fetches=fetch_images,
            log_prompts=log_prompts,
            pool=WorkerPool(
                model=model or default_model(weights)[0].name,
                weights=weights,
                gpus=gpus_per_worker,
                loras=loras,
                patience=Patience(stall=stall, grace=grace),
                **workers.pool_settings(),
            ),
            limits=Limits(jobs=jobs, jobs_per_owner=jobs_per_key),
            longest_seconds=longest,
            job_seconds=60 * max_job_minutes,
            keep_days=keep_days,
            adopt_files=adopt_files,
            quota_bytes=int(quota * 1e9) if quota is not None else None,
            client_timeout=client_timeout,
        )
    )


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="A new folder.", metavar="DIR")],
    data: Annotated[Path, option("data", "Folder of the database and the clips.", metavar="DIR")] = DATA,
) -> None:
    """Copy the data while the server runs. The copy works as --data."""
    from linnet.serve.backup import backup as copy

    clips = copy(data, target)
    note(f"{clips} clips and all jobs are in {target}; `linnet serve --data {target}` goes on from there")
    print(target)


@app.command()
def recover(
    data: Annotated[Path, typer.Argument(help="The folder of --data.", metavar="DIR", show_default=False)],
) -> None:
    """Rebuild a lost or damaged database from the clips.

    Each clip holds its request. Unfinished jobs are lost. A damaged database is kept under another name.
    """
    from linnet.serve.lock import lock
    from linnet.serve.recover import recover as rebuild

    if not data.is_dir():
        raise InvalidInput("data", data, "is not a folder", "name the --data of `linnet serve`")
    with lock(data):
        recovered = rebuild(data)
    note(f"clips that have jobs again: {recovered.clips}; keys: {recovered.keys}")
    if recovered.left:
        note(f"files that are left as they were, since they hold no clip of linnet's: {len(recovered.left)}")
    if recovered.aside is not None:
        note(f"the damaged database is {recovered.aside}")
    print(data)
