"""HTML that others wrote, made safe to show: nothing in it runs or loads, and links lead to known places."""

import re

import yaml
from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner

from lmlab.course.templates import WEB

_ALLOWED = yaml.safe_load((WEB / "allowed.yaml").read_text(encoding="utf-8"))["html"]
# What bleach does not look at: values of attributes. Links lead to the web, to a heading or to a page of the
# site; images are the site's own or in the page; a style has no function but colors, and no strings.
_VALUES = {
    "href": re.compile(r"https?://[^\s\\]+|#\S*|[\w-]+\.html(#\S*)?"),
    "src": re.compile(
        r"figures/[\w-]+\.(?:png|svg)|data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,[\w+/=\s]*"
    ),
    "style": re.compile(r"(?:[\w\s#%.,:;!-]|\b(?:rgb|rgba|hsl|hsla)\([\d\s%.,]+\))*"),
}
# Styles of whole pages, as pandas writes them above each table: our own style has rules for these.
_STYLE = re.compile(r"<style\b[^>]*>.*?</style\s*>", flags=re.DOTALL | re.IGNORECASE)


def _may_stay(tag: str, name: str, value: str) -> bool:
    """Whether an attribute is one of the lists above, and has a value as it should be."""
    own = _ALLOWED["attributes"].get(tag, "").split()
    if name not in own and name not in _ALLOWED["attributes_of_all"].split():
        return False
    return name not in _VALUES or _VALUES[name].fullmatch(value) is not None


_CLEANER = Cleaner(
    tags=frozenset(_ALLOWED["tags"].split()),
    attributes=_may_stay,
    protocols=("http", "https", "data"),
    css_sanitizer=CSSSanitizer(allowed_css_properties=_ALLOWED["style_properties"].split()),
)


def sanitize(text: str) -> str:
    """Keeps what only shapes a piece of HTML, and shows all other elements as text.

    Args:
        text: HTML of any origin.

    Returns:
        Well-formed HTML: every element that it opens it closes. No attribute has a "<".
    """
    return _CLEANER.clean(_STYLE.sub("", text))
