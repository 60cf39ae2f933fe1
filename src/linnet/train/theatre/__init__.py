"""Training seedling on the toy theatre: `python -m linnet.train.theatre` (docs/theatre.md)."""
