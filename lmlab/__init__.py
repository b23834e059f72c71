"""lmlab: the package behind the notebook course."""

from importlib import import_module

__version__ = "0.1.0"

# the face of the package: importing lmlab loads none of it
_FACE = {
    "start_lesson": "lmlab.course.lesson",
    "check": "lmlab.exercises",
    "hint": "lmlab.exercises",
    "model_source": "lmlab.models.sources",
    "data_source": "lmlab.data.sources",
    "load_recipe": "lmlab.recipes",
    "plan": "lmlab.course.plan",
}


def __getattr__(name: str) -> object:
    """Loads a name of the face where it is first used (PEP 562)."""
    if name not in _FACE:
        raise AttributeError(f"module 'lmlab' has no attribute {name!r}")
    return getattr(import_module(_FACE[name]), name)
