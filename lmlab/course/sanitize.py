"""HTML that others wrote, made safe to show: nothing in it runs or loads, and links lead to known places."""

import re

from bleach.css_sanitizer import CSSSanitizer
from bleach.sanitizer import Cleaner

_TAGS = frozenset(
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 h4 "
    "h5 h6 hr i img ins kbd li mark ol p pre progress q s samp small span strong sub summary sup table tbody td "
    "tfoot th thead tr u ul var".split()
)
_ATTRIBUTES = {
    "a": ["href"],
    "img": ["alt", "src"],
    "td": ["colspan", "rowspan"],
    "th": ["colspan", "rowspan", "scope"],
    "details": ["open"],
    "ol": ["start"],
    "progress": ["max", "value"],
    **{f"h{n}": ["id"] for n in range(1, 7)},
}
_FOR_ALL = ("class", "style", "title")
# How a text looks and how wide it is, but not where it stands: nothing can be laid over the page.
_PROPERTIES = frozenset(
    "background background-color border border-bottom border-collapse border-left border-right border-top "
    "color display font-family font-size font-style font-weight height line-height margin max-width "
    "min-width opacity overflow overflow-x padding text-align text-decoration vertical-align white-space width".split()
)
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
    if name not in _FOR_ALL and name not in _ATTRIBUTES.get(tag, ()):
        return False
    return name not in _VALUES or _VALUES[name].fullmatch(value) is not None


_CLEANER = Cleaner(
    tags=_TAGS,
    attributes=_may_stay,
    protocols=("http", "https", "data"),
    css_sanitizer=CSSSanitizer(allowed_css_properties=_PROPERTIES),
)


def sanitize(text: str) -> str:
    """Keeps what only shapes a piece of HTML, and shows all other elements as text.

    Args:
        text: HTML of any origin.

    Returns:
        Well-formed HTML: every element that it opens it closes. No attribute has a "<".
    """
    return _CLEANER.clean(_STYLE.sub("", text))
