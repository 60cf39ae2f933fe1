"""The theatre's exam: what a model makes of its captions, read from the pixels of the clips alone.

`places` reads where a clip is, `correlation` and `things` what is in it, `motions` what it does, `reader` all of that
against what was asked for; `exam` asks a model, and `report` writes what became of it.
"""
