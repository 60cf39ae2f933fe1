"""linnet: the open engine for Linum v2 text-to-video models."""

__version__ = "0.1.0"
