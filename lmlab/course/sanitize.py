"""HTML that others wrote, made safe to show: nothing in it runs or loads, and links lead to known places."""

import functools
import html
import re
from collections.abc import Collection, Iterator

import tinycss2
from bleach.css_sanitizer import CSSSanitizer
from bleach.html5lib_shim import Filter
from bleach.sanitizer import Cleaner

_INLINE = frozenset("abbr b br code del em i ins kbd mark q s samp small span strong sub sup u var".split())
_TAGS = _INLINE | frozenset(
    "a blockquote caption col colgroup dd details div dl dt figcaption figure h1 h2 h3 h4 h5 h6 hr img li ol "
    "p pre progress summary table tbody td tfoot th thead tr ul".split()
)
_ATTRIBUTES = {
    "*": ["class", "style", "title"],
    "a": ["href"],
    "img": ["alt", "height", "src", "width"],
    "td": ["colspan", "rowspan"],
    "th": ["colspan", "rowspan", "scope"],
    "details": ["open"],
    "ol": ["start"],
    "progress": ["max", "value"],
    **{f"h{n}": ["id"] for n in range(1, 7)},
}
# how a text looks and how wide it is, but not where it stands: nothing can be laid over the page
_PROPERTIES = frozenset(
    "background background-color border border-bottom border-collapse border-left border-right border-top "
    "color display font-family font-size font-style font-weight height line-height margin max-width "
    "min-width opacity overflow overflow-x padding text-align text-decoration vertical-align white-space width".split()
)
# no url() and no strings
_PLAIN_VALUE = re.compile(r"(?:[\w\s#%.,!-]|\b(?:rgb|rgba|hsl|hsla)\([\d\s%.,/]+\))+")
_OWN_IMAGE = re.compile(r"figures/[\w-]+\.png|data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,[\w+/=\s]*")
_WEB_OR_ANCHOR = re.compile(r"https?://[^\s\\]+|#\S*")
_NOTEBOOK = re.compile(r"(?:\./)?([\w-]+)\.(?:ipynb|html)(#\S*)?")


def sanitize(text: str, pages: Collection[str] = (), inline: bool = False) -> str:
    """Keeps what only shapes a piece of HTML, and shows all other elements as text.

    Args:
        text: HTML of any origin.
        pages: Lessons that have a page; a link to the notebook of one becomes a link to its page.
        inline: Keep only what may stand inside a link, and drop the other tags.

    Returns:
        Well-formed HTML: every element that it opens it closes. No attribute has a "<".
    """
    # styles of whole pages, as pandas writes them above each table: our own style has rules for these
    text = re.sub(r"<style\b[^>]*>.*?</style\s*>", "", text, flags=re.DOTALL | re.IGNORECASE)
    return _cleaner(frozenset(pages), inline).clean(text)


@functools.cache
def _cleaner(pages: frozenset[str], inline: bool) -> Cleaner:
    return Cleaner(
        tags=_INLINE if inline else _TAGS,
        strip=inline,
        attributes=_ATTRIBUTES,
        protocols=("http", "https", "data"),
        css_sanitizer=_PlainStyle(),
        filters=[functools.partial(_KnownPlaces, pages=pages)],
    )


class _PlainStyle(CSSSanitizer):
    """Style attributes with known properties of plain values."""

    def sanitize_css(self, style: str) -> str:
        """The declarations of a style attribute that may stay."""
        declarations = tinycss2.parse_declaration_list(style, skip_comments=True, skip_whitespace=True)
        kept = []
        for part in declarations:
            if part.type == "declaration" and part.lower_name in _PROPERTIES:
                value = tinycss2.serialize(part.value).strip()
                if _PLAIN_VALUE.fullmatch(value):
                    kept.append(f"{part.lower_name}: {value}")
        return "; ".join(kept)


class _KnownPlaces(Filter):
    """Links lead to the web, to a heading or to a page of the site; images are the site's own or in the page.

    Another link keeps its words, another image is replaced by what it says it shows.
    """

    def __init__(self, source, pages: Collection[str]):
        super().__init__(source)
        self._pages = pages

    def __iter__(self) -> Iterator[dict]:
        for token in super().__iter__():
            name = token["name"] if token["type"] in ("StartTag", "EmptyTag") else ""
            if name == "a":
                self._lead(token["data"])
            if name == "img" and not _OWN_IMAGE.fullmatch(token["data"].get((None, "src"), "")):
                token = {"type": "Characters", "data": html.unescape(token["data"].get((None, "alt"), ""))}
            yield token

    def _lead(self, attributes: dict) -> None:
        # The link to a notebook of the course becomes one to its page, if this run has it.
        target = attributes.pop((None, "href"), None)
        notebook = _NOTEBOOK.fullmatch(target or "")
        if notebook and notebook[1] in self._pages:
            attributes[None, "href"] = f"{notebook[1]}.html{notebook[2] or ''}"
        elif target and _WEB_OR_ANCHOR.fullmatch(target):
            attributes[None, "href"] = target
        elif target:
            attributes[None, "title"] = "not in this run" if notebook else "not in this site"
