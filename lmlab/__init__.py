"""lmlab: the package behind the notebook course."""

__version__ = "0.1.0"
