"""The report's jinja2 templates: every value is escaped, unless it is Markup."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

WEB = Path(__file__).parent / "web"
# StrictUndefined: a name that a template misspells is an error, not an empty place in a page.
# The environment keeps each template that it has compiled.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(WEB / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(name: str, **values: object) -> Markup:
    """Renders a template of web/templates with its values."""
    return Markup(_ENVIRONMENT.get_template(name).render(**values))
