"""TeX formulas as MathML, which browsers draw themselves.

A formula may come from a stranger's notebook. latex2mathml builds an element tree, but writes it without
escaping (``\\text{<script>}`` would become an element) and lets ``\\href`` lead anywhere. So the tree is held
to a list of MathML's elements and attributes here, and written by ElementTree, which escapes every text and
attribute.
"""

import functools
import html
import re
from xml.etree import ElementTree

import yaml
from markupsafe import Markup

from lmlab.course.templates import WEB

_ALLOWED = yaml.safe_load((WEB / "allowed.yaml").read_text(encoding="utf-8"))["mathml"]
_ELEMENTS, _ATTRIBUTES = (frozenset(_ALLOWED[name].split()) for name in ("elements", "attributes"))
_PLAIN_VALUE = re.compile(r"[\w #%+.-]*")


@functools.cache
def formula(tex: str, block: bool = False) -> Markup:
    """A TeX formula as a ``math`` element; as code if it cannot be converted.

    Args:
        tex: Without its dollars.
        block: A formula of its own line, with limits above and below its sums.
    """
    from latex2mathml.converter import convert_to_element

    tex = tex.strip()
    try:
        math = convert_to_element(tex, display="block" if block else "inline")
        for element in math.iter():
            _restrict(element)
        math.set("alttext", tex)  # for screen readers, and for the search
        return Markup(ElementTree.tostring(math, encoding="unicode", short_empty_elements=False))
    # the library's errors have no common class, and deep nesting ends the recursion
    except Exception:
        return Markup("<code>{}</code>").format(tex)


def _restrict(element: ElementTree.Element) -> None:
    """Drops what is not in the lists above. Raises ValueError for an element that may not be there."""
    # latex2mathml writes operators as entities
    text = html.unescape(element.text or "")
    # \name: a command that it does not know
    if element.tag not in _ELEMENTS or re.match(r"\\\w", text):
        raise ValueError(f"{element.tag} with {text!r} is no MathML")
    element.text = text
    for name, value in list(element.attrib.items()):
        if name not in _ATTRIBUTES or not _PLAIN_VALUE.fullmatch(value):
            del element.attrib[name]
