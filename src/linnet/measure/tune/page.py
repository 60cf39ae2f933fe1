"""The page on which a person sees what a profile costs: exact and the profile beside each other, clip by clip."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from linnet import media
from linnet.clip import GENERATED
from linnet.errors import InvalidInput
from linnet.filesystem import write_text
from linnet.geometry import format_seconds, seconds_of
from linnet.measure.tune.search import Confirmed, Search
from linnet.plan.profiles import Subject

MARK = "<!-- linnet tune -->"  # by which an earlier page is known
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fcfcfa; max-width: 1000px;
  margin: 2em auto; padding: 0 1em; }
figure { margin: 1.5em 0; } img { width: 100%; image-rendering: auto; } figcaption { color: #555; }
td, th { text-align: left; padding-right: 1.5em; }
"""


def check_page(path: Path, *, overwrite: bool) -> None:
    """Refuse a path that no page can be written to; an earlier page is replaced."""
    if path.suffix.lower() != ".html":
        problem = "is no .html, which the page is"
        raise InvalidInput("output", path, problem, "give it a name that ends with .html")
    media.check_place(path, overwrite=overwrite or is_page(path))


def is_page(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(200)
    except OSError:
        return False


def write_page(path: Path, subject: Subject, search: Search, chosen: Sequence[tuple[str, Confirmed]]) -> None:
    """One file, which holds its pictures. `chosen` are the profiles that the search found, by name."""
    what = (
        f"{subject.model}, {format_seconds(seconds_of(subject.frames))} s of {subject.size}, {subject.card}"
    )
    parts = [
        f"<!doctype html>{MARK}<meta charset=utf-8><title>{escape(subject.model)}: exact and fast</title>",
        f"<style>{STYLE}</style><h1>{escape(what)}</h1>",
        f"<p>{GENERATED}. On the left exact, on the right the profile: the same prompt and seed.</p>",
    ]
    for name, confirmed in chosen:
        figures = confirmed.figures
        parts.append(
            f"<h2>{name}: {figures.faster:.2f} times faster</h2><p>{escape(str(confirmed.candidate))}</p>"
        )
        parts.append(
            f"<p>Median PSNR {figures.psnr:.1f} dB (at least {confirmed.bound:.1f} with 95 % confidence), "
            f"worst tenth of the frames {figures.psnr_worst:.1f} dB, SSIM {figures.ssim:.3f}, "
            f"flicker {figures.flicker:.2f} of exact's, brightness {100 * figures.brightness:.1f} % and "
            f"saturation {100 * figures.saturation:.1f} % off.</p>"
        )
        for pair, psnr in zip(search.held_out, figures.each, strict=True):
            picture = search.trials.picture(confirmed.candidate, pair)
            data = base64.b64encode(picture.read_bytes()).decode() if picture.exists() else ""
            caption = f"{escape(pair.prompt)} (seed {pair.seed}): {psnr:.1f} dB"
            parts.append(
                f'<figure><img src="data:image/webp;base64,{data}" alt="{escape(pair.prompt)}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
    write_text(path, "\n".join(parts) + "\n")
