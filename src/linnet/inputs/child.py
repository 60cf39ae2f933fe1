"""`python -m linnet.inputs.child`: reads one file that somebody brought, within limits, and ends.

A request comes on stdin: the length of a text in four bytes, the text in JSON, and what there is of a file that lies
nowhere. Answers go to stdout: the length of a text in four bytes, the text in JSON, and where
it names the `shape` of a frame, the frame's bytes. A refusal is an answer, too. No torch is imported here.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

MEMORY = 1_500_000_000  # bytes of address space
SECONDS = 60  # of CPU
SURVEYS = ("survey", "surveys", "small_frames")
MOST_TEXT = 64 * 2**20  # bytes of text in a PNG: memory is limited here as it is


def limit(seconds: int = SECONDS) -> None:
    """As far as the system can; `reader.not_limited` says what it cannot. `seconds` of CPU."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in (
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # macOS knows no limit of address space
            _, hard = resource.getrlimit(kind)
            least = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (least, least))


def answers(question: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    path = Path(question["path"])
    what = question["what"]
    if what in ("content_size", "picture", "picture_size", "metadata", "probe", "scan", *SURVEYS, "frames"):
        from PIL import PngImagePlugin

        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = MOST_TEXT, MOST_TEXT
        yield from looked_at(what, path, question)
    else:
        from linnet.inputs import joint

        yield joint.answer(what, path, question), None


def looked_at(
    what: str, path: Path, question: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    from linnet.inputs import clips, pictures

    if what == "content_size":
        with pictures.opened(io.BytesIO(sys.stdin.buffer.read()), question["formats"]) as image:
            yield {"size": pictures.upright_size(image)}, None
    elif what == "picture_size":
        yield {"size": pictures.size_of(path)}, None
    elif what == "picture":
        if clips.kind_of(path) == "video" and is_video(path):
            from linnet.errors import InvalidInput

            raise InvalidInput("file", path, "is a video", "use `video`, or give a picture")
        notes = clips.Notes()
        frame = pictures.read(path, notes.add)
        yield {"notes": notes, "shape": frame.shape}, frame.tobytes()
    elif what == "metadata":
        yield {"text": clips.note_in(path)}, None
    elif what == "probe":
        facts = clips.probe(path)
        yield {"size": facts.size, "frames": facts.frames, "fps": facts.fps}, None
    elif what == "scan":
        yield clips.scan(path, clips.Limits(**question["limits"])).to_json(), None
    elif what in SURVEYS:
        yield from surveyed(what, path, question)
    else:
        wanted = iter(question["wanted"])
        number = next(wanted, None)
        for index, frame in enumerate(clips.frames(path)):
            if number is None:
                return
            if index == number:
                yield {"shape": frame.shape}, frame.tobytes()
                number = next(wanted, None)


def surveyed(
    what: str, path: Path, question: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], bytes | None]]:
    from linnet.inputs import clips, long_videos, survey

    if what == "small_frames":
        for stamp, small in long_videos.small_frames(path):
            yield {"time": stamp, "shape": small.shape}, small.tobytes()
        return
    if what == "survey":
        results = iter([survey.survey(path, clips.Limits(**question["limits"]))])
    else:
        results = long_videos.surveys(path, [range(*part) for part in question["parts"]], question["times"])
    for seen, thumbnails in results:
        yield seen.to_json(), None
        for frame in thumbnails:
            yield {"shape": frame.shape}, frame.tobytes()


def is_video(path: Path) -> bool:
    """By the start of the file: what mp4 and QuickTime, Matroska and WebM, AVI, and transport streams begin with."""
    with path.open("rb") as file:
        head = file.read(16)
    return head[4:8] == b"ftyp" or head[:4] in (b"\x1a\x45\xdf\xa3", b"RIFF") or head[:1] == b"\x47"


def send(out: BinaryIO, answer: dict[str, Any], data: bytes | None) -> None:
    text = json.dumps(answer).encode()
    out.write(len(text).to_bytes(4, "big") + text)
    if data is not None:
        out.write(data)
    out.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to whoever started us, who ends us
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer
    length = int.from_bytes(sys.stdin.buffer.read(4), "big")
    question = json.loads(sys.stdin.buffer.read(length))
    limit(question.get("seconds", SECONDS))
    from linnet.errors import InvalidInput
    from linnet.inputs.refusals import refusal

    path = Path(question["path"])
    try:
        for answer, data in answers(question):
            send(out, answer, data)
    except BrokenPipeError:  # nobody wants the rest
        os._exit(0)
    except InvalidInput as error:
        send(out, {"refused": [error.field, str(error.value), error.problem, error.remedy]}, None)
    except Exception as error:
        told = refusal(path, error)
        send(out, {"refused": [told.field, str(path), told.problem, told.remedy]}, None)
    else:
        send(out, {"done": True}, None)
    os._exit(0)  # decoders of damaged files have been seen to break while they are taken down


if __name__ == "__main__":
    main()
