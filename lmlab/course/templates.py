"""The report's jinja2 templates: every value is escaped, unless it is Markup."""

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

WEB = Path(__file__).parent / "web"


@functools.cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(WEB / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render(name: str, **values: object) -> Markup:
    """Renders a template of web/templates with its values."""
    return Markup(_template(name).render(**values))


def render_macro(name: str, macro: str, *values: object) -> Markup:
    """Renders one macro of a template: a fragment that stands in pages made elsewhere."""
    return getattr(_template(name).module, macro)(*values)
