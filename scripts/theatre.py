"""The toy theatre that seedling learns from: its sprites, and what it looks like.

    python scripts/theatre.py pack --font NotoColorEmoji.ttf --sprites sprites.safetensors
    python scripts/theatre.py sheet --sprites sprites.safetensors --output scenes.png
    python scripts/theatre.py things --sprites sprites.safetensors --output things.png
    python scripts/theatre.py words --prompts benchmarks/theatre_sentences.txt

`pack` cuts the sprites out of the font once; the file that it writes is all that a machine without the font needs.
`words` lists what each sentence of a file names of the theatre, and the words that it does not know.
Training on them is `python -m linnet.train.theatre` (docs/theatre.md).
"""

import argparse
from pathlib import Path

from linnet.data.theatre.render import set_scenery
from linnet.data.theatre.scene import Scene
from linnet.data.theatre.sheet import contact_sheet, still_sheet
from linnet.data.theatre.sprites import load_sprites, pack_sprites
from linnet.data.theatre.things import THINGS
from linnet.data.theatre.words import meant, understood
from linnet.evaluate.theatre.exam import sentences

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian's fonts-noto-color-emoji


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("pack", "sheet", "things", "words"))
    parser.add_argument("--font", type=Path, default=FONT)
    parser.add_argument("--sprites", type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--output", type=Path, default=Path("theatre.png"))
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    needed = "prompts" if asked.what == "words" else "sprites"
    if getattr(asked, needed) is None:
        parser.error(f"{asked.what} needs --{needed}")
    if asked.what == "words":
        list_words(asked.prompts)
        return
    if asked.what == "pack":
        pack_sprites(asked.font, asked.sprites)
        print(asked.sprites)
        return
    scenery = set_scenery(load_sprites(asked.sprites))
    if asked.what == "sheet":
        contact_sheet(scenery, asked.output, count=asked.count, seed=asked.seed)
    else:
        shown = [Scene(thing=name, backdrop="meadow", motion="waits", toward="right") for name in THINGS]
        still_sheet(scenery, asked.output, shown, columns=10)
    print(asked.output)


def list_words(file: Path) -> None:
    for question in sentences(file, n=10_000):
        seen = understood(question.prompt)
        print(question.prompt)
        for kind in ("things", "places", "motions", "unknown"):
            if words := getattr(seen, kind):
                near = meant(words) if kind == "unknown" else ""
                print(f"    {kind}: {', '.join(words)}{near}")


if __name__ == "__main__":
    main()
