"""What a stranger wrote into a notebook or a run is refused or shown as text: nothing runs, nothing loads."""

import dataclasses
import http.server
import json
import re
import shutil
import threading
from functools import partial
from pathlib import Path
from unittest import mock

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from test_report import STATE, WIDE, WIDGET

import lmlab
from lmlab.course.mathml import formula
from lmlab.course.pages import markdown
from lmlab.course.report import build_site
from lmlab.course.sanitize import sanitize

# RUN stands for a script that marks the page, WEB for an address that notes who asks for it
VECTORS = [
    "<script>RUN</script>",
    "<ScRiPt >RUN</sCrIpT >",
    "<script/x>RUN</script>",
    "<script src=WEB/s.js></script>",
    "<script type=module>RUN</script>",
    "<scr<script>ipt>RUN</scr</script>ipt>",
    "<img src=x onerror=RUN>",
    "<img src=x onerror='RUN'",
    '"><img src=x onerror=RUN>',
    "'><img src=x onerror=RUN>",
    "<img/src=x/onerror=RUN>",
    "<img src=x:x onerror&#61;RUN onerror=RUN>",
    '<IMG """><SCRIPT>RUN</SCRIPT>">',
    "<img src=WEB/i.png>",
    "<img srcset='WEB/set.png 1x'>",
    "<picture><source srcset=WEB/p.png><img></picture>",
    "<body onload=RUN><body onpageshow=RUN>",
    "<svg onload=RUN>",
    "<svg/onload=RUN>",
    "<svg><script>RUN</script></svg>",
    "<svg><script href=data:text/javascript,RUN /></svg>",
    "<svg><animate onbegin=RUN attributeName=x dur=1s>",
    "<svg><a xlink:href=javascript:RUN><text y=20>x</text></a></svg>",
    "<svg><foreignObject><iframe srcdoc='<script>parent.RUN</script>'></iframe></foreignObject></svg>",
    "<svg><image href=WEB/svg.png /></svg>",
    "<svg><use href='data:image/svg+xml,<svg id=x xmlns=http://www.w3.org/2000/svg onload=RUN />#x' /></svg>",
    "<svg><style><img src=x onerror=RUN></style></svg>",
    '<svg></p><style><a id="</style><img src=1 onerror=RUN>">',
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=RUN&gt;">',
    '<math><mi//xlink:href="data:x,<script>RUN</script>"><a href=javascript:RUN>x</a></math>',
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=RUN></style></mglyph></form>",
    '<noscript><p title="</noscript><img src=x onerror=RUN>"></noscript>',
    "<template><script>RUN</script></template><template><img src=x onerror=RUN></template>",
    "<title><img title='</title><img src=x onerror=RUN>'></title>",
    "<textarea><img title='</textarea><img src=x onerror=RUN>'></textarea>",
    "<xmp><p title='</xmp><img src=x onerror=RUN>'></xmp>",
    "<!--><img src=x onerror=RUN>-->",
    "<!--<img src='--><img src=x onerror=RUN>'-->",
    "<![CDATA[<img src=x onerror=RUN>]]>",
    "<?xml version='1.0'?><img src=x onerror=RUN>",
    "<iframe src=javascript:parent.RUN></iframe>",
    "<iframe srcdoc='<script>parent.RUN</script>'></iframe>",
    "<iframe srcdoc='&lt;script&gt;parent.RUN&lt;/script&gt;'></iframe>",
    "<iframe src=WEB/frame></iframe>",
    "<frameset onload=RUN><frame src=WEB/f></frameset>",
    "<object data=WEB/o></object><object data=data:text/html,<script>RUN</script>></object>",
    "<embed src=WEB/e>",
    "<meta http-equiv=refresh content='0;url=WEB/meta'>",
    "<base href=WEB/base/><img src=under.png>",
    "<link rel=stylesheet href=WEB/l.css>",
    "<link rel=prefetch href=WEB/l2>",
    "<form action=WEB/form><button autofocus onfocus=RUN>x</button></form>",
    "<input autofocus onfocus=RUN><input type=image src=WEB/input.png>",
    "<details open ontoggle=RUN><summary>x</summary></details>",
    "<marquee onstart=RUN>x</marquee>",
    "<audio src=WEB/a onerror=RUN></audio><video poster=WEB/v.png><source onerror=RUN></video>",
    "<style>@import 'WEB/import.css'; body { background: url(WEB/bg.png) }</style>",
    "<style>*{background:url(WEB/bg2.png)}",
    "<div style='background:url(WEB/bg3.png)'>x</div>",
    "<div style=\"background-image: u\\72l('WEB/bg4.png')\">x</div>",
    "<div style='width: expression(RUN)'>x</div>",
    "<div style='background:#fff;position:fixed;inset:0;z-index:9'>x</div>",
    "<div style='list-style:url(WEB/li.png);display:list-item;content:url(WEB/c.png)'>x</div>",
    "<div style='color:red;/*x*/background:image-set(\"WEB/set2.png\" 1x)'>x</div>",
    "<table background=WEB/t.png><td background=WEB/td.png>x</table>",
    "<a href=javascript:RUN>x</a>",
    "<a href=' &#1; java&#x09;script&colon;RUN'>x</a>",
    "<a href='jav\tascript:RUN'>x</a>",
    "<a href=JaVaScRiPt:RUN target=_blank>x</a>",
    "<a href='data:text/html,<script>RUN</script>'>x</a>",
    "<a href=vbscript:RUN>x</a><a href=file:///etc/passwd>x</a><a href=//evil.invalid/>x</a>",
    "<a href=WEB ping=WEB/ping onclick=RUN>x</a>",
    "<p id=theme><p class=x onmouseover=RUN style='width:9999px'>",
    "</div></article></main><script>RUN</script><div>",
    "</pre></td></table></script></style><img src=x onerror=RUN>",
    "[x](javascript:RUN) [y](data:text/html;base64,PHNjcmlwdD4) ![z](WEB/md.png)",
    '[x](<java\nscript:RUN>) [`y`](vbscript:RUN "><img src=x onerror=RUN>")',
    '![x](x"onerror="RUN) <javascript:RUN>',
    '$x^2$ $"><img src=x onerror=RUN>$ $$</code><script>RUN</script>$$',
    "{{ 7 * 7 }}{% raw %}<script>RUN</script>",
    '\x1b[31m<img src=x onerror=RUN>\x1b[0m\x1b[38;5;"><script>RUN</script>m',
    '<span class=math><code>"><img src=x onerror=RUN></code></span>',
    "&lt;script&gt;RUN&lt;/script&gt;<div title='&lt;img src=x onerror=RUN&gt;'>",
    "\x00<scr\x00ipt>RUN</scr\x00ipt><img src=x onerr\x00or=RUN>",
]
LESSON = "01_data_analysis"
pytestmark = pytest.mark.filterwarnings("ignore:No lexer found", "ignore:Your element with mimetype")


def armed(vector: str, web: str) -> str:
    return vector.replace("RUN", "__pwned=1").replace("WEB", web)


def hostile_notebook(vectors):
    cells = [new_markdown_cell("# 01 · " + " ".join(vectors).replace("\n", " "))]
    cells += [new_markdown_cell(f"${armed(tex, 'http://127.0.0.1:9')}$") for tex in TEX]
    for vector in vectors:
        cells += [
            new_markdown_cell(vector),
            new_markdown_cell(f"## {vector}\n\n| {vector} | b |\n|---|---|\n| 1 | 2 |"),
            new_markdown_cell(f"```{vector}\n{vector}\n```\n\n`{vector}`\n\n> - {vector}"),
        ]
        svg = f'<svg xmlns="http://www.w3.org/2000/svg">{vector}</svg>'
        outputs = [
            new_output("display_data", data={kind: vector})
            for kind in (
                "text/html",
                "text/markdown",
                "text/plain",
                "text/latex",
                "application/javascript",
                "image/svg+xml",
                "text/vnd.mermaid",
                "application/json",
            )
        ]
        outputs += [
            new_output("display_data", data={"image/svg+xml": svg}),
            new_output(
                "display_data", data={"text/html": vector}, metadata={"text/html": {"isolated": True}}
            ),
            new_output(
                "display_data",
                data={"image/png": WIDE},
                metadata={"image/png": {"alt": vector, "width": vector, "height": vector}},
            ),
            new_output(
                "display_data",
                data={"image/jpeg": vector},
                metadata={
                    "image/jpeg": {"alt": vector, "width": f"1 {vector}", "height": vector},
                    "filenames": {"image/jpeg": vector},
                },
            ),
            new_output("stream", text=vector),
            new_output("stream", name="stderr", text=vector),
            new_output("error", ename=vector, evalue=vector, traceback=[vector, vector]),
            new_output("display_data", data={WIDGET: {"model_id": vector}, "text/plain": vector}),
        ]
        cells += [
            new_code_cell(vector, outputs=outputs, metadata={"tags": [vector.replace(",", "")]}),
            new_code_cell(
                f'ax.set(title="""{vector}""")',
                outputs=[new_output("display_data", data={"image/png": WIDE})],
            ),
        ]
    widgets = {vector: {"state": {"_model_name": "HTMLModel", "value": vector}} for vector in vectors}
    language = {"name": vectors[0], "pygments_lexer": vectors[0]}
    return new_notebook(
        cells=cells, metadata={"widgets": {STATE: {"state": widgets}}, "language_info": language}
    )


def hostile_run(run, vectors, value):
    out = run / LESSON
    out.mkdir(parents=True)
    nbformat.write(hostile_notebook(vectors), run / f"{LESSON}.ipynb")
    settings = {vector: [vector] for vector in vectors} | {"seed": value}
    metrics = {vector: vector for vector in vectors} | {f"n{vector}": value for vector in vectors}
    (out / "metrics.json").write_text(
        json.dumps(
            {
                "recipe": vectors[8],
                "metrics": metrics,
                "settings": settings,
                "expected": {f"n{vector}": [0, 1] for vector in vectors},
            }
        )
    )
    entry = {
        "lesson": LESSON,
        "status": vectors[0],
        "seconds": 1.0,
        "peak_memory_gb": 1.0,
        "recipe": vectors[8],
        "error": " ".join(vectors),
    }
    (run / "run.json").write_text(json.dumps({"lessons": [entry, {**entry, "lesson": "03_hellaswag"}]}))
    return run


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """A server: as localhost it gives files; as 127.0.0.1, a stranger, it notes what was asked."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if self.headers["Host"].startswith("localhost"):
                return super().do_GET()
            server.asked.append(self.path)
            self.send_error(404)
            return None

        def log_message(self, *_):
            """Nothing: the test's output stays clean."""

    folder = tmp_path_factory.mktemp("served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    server.folder, server.asked, server.address = folder, [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def vectors(web):
    return [armed(vector, web.address) for vector in VECTORS]


@pytest.fixture(scope="module")
def site(vectors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        hostile_run(folder / f'{name}"><img src=x onerror=__pwned=1>', vectors, value)
        for name, value in (("a", 0.5), ("b", 0.75))
    ]
    return build_site(runs[0], folder / "site", runs[1]).parent


# without a browser ------------------------------------------------------------------------------------------

SUSPECT = {
    "script",
    "iframe",
    "frame",
    "frameset",
    "object",
    "embed",
    "form",
    "input",
    "button",
    "textarea",
    "meta",
    "link",
    "base",
    "style",
    "svg",
    "math",
    "template",
    "audio",
    "video",
    "source",
    "picture",
    "marquee",
    "foreignobject",
    "title",
    "use",
    "animate",
    "xmp",
}
SUSPECT_ATTRIBUTES = {
    "srcset",
    "ping",
    "background",
    "srcdoc",
    "poster",
    "action",
    "formaction",
    "xlink:href",
    "data",
}
KNOWN_LINK = re.compile(
    r"https?://\S+|#\S*|[\w-]+\.html(#\S*)?|figures/[\w-]+\.png|"
    r"data:image/(png|jpeg|svg\+xml);base64,[\w+/=]*"
)


# What a formula may consist of; none of it holds HTML, and none of the attributes an address.
MATHML = set(
    "math mfrac mi mn mo mover mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder".split()
)
MATHML_ATTRIBUTES = {
    "alttext",
    "display",
    "mathvariant",
    "mathcolor",
    "stretchy",
    "width",
    "scriptlevel",
    "displaystyle",
}


def live_parts(page: BeautifulSoup) -> list[str]:
    """What in a page could run, load or send something, but for what the templates write."""
    found = []
    for own in page.select("head, header"):
        own.decompose()
    for math in page.select(".math > math"):
        for tag in [math, *math.find_all(True)]:
            if tag.name not in MATHML or not set(tag.attrs) <= MATHML_ATTRIBUTES:
                found.append(str(tag)[:200])
        math.decompose()
    for tag in page.find_all(True):
        if tag.name in SUSPECT:
            found.append(str(tag)[:200])
        for name, value in tag.attrs.items():
            bad_link = name in ("href", "src") and not KNOWN_LINK.fullmatch(value)
            bad_style = name == "style" and re.search(r"url|expression|position|\\\\|image", value)
            if name.startswith("on") or name in SUSPECT_ATTRIBUTES or bad_link or bad_style:
                found.append(f"{tag.name} {name}={value}"[:200])
    return found


@pytest.mark.parametrize("vector", VECTORS)
def test_of_a_piece_only_what_shapes_it_is_left(vector):
    clean = sanitize(armed(vector, "http://evil.invalid"))
    for parser in ("html.parser", "lxml"):  # they read what is malformed in different ways
        assert live_parts(BeautifulSoup(clean, parser)) == []
    assert sanitize(clean) == clean, "once is enough"


TEX = [
    r"\text{<script>RUN</script>}",
    r"\text{<img src=x onerror=RUN>}",
    r"\text{</mtext></math><img src=x onerror=RUN>}",
    r"\text{<style><!--</style><img title='--&gt;&lt;img src=1 onerror=RUN&gt;'>}",
    r"\mathrm{\text{<mglyph><style></math><img src onerror=RUN></style></mglyph>}}",
    r"\href{javascript:RUN}{x}",
    r"\style{background:url(WEB/x.png)}{x} \class{contents}{y}",
    r"\color{red;background:url(WEB/y.png)}{x}",
    r"""\text{"><img src=x onerror=RUN>}""",
    r"x < y \text{&lt;script&gt;RUN&lt;/script&gt;}",
    r"\unicode{x3c}script\unicode{x3e}RUN",
    r"\begin{array}{<img onerror=RUN>} 1 \end{array}",
]


@pytest.mark.parametrize("tex", TEX)
def test_a_formula_is_mathml_and_nothing_else(tex):
    tex = armed(tex, "http://evil.invalid")
    for shown in (formula(tex), formula(tex, block=True), markdown(f"${tex}$"), markdown(f"$${tex}$$")):
        wrapped = shown if 'class="math"' in shown else f'<span class="math">{shown}</span>'
        for parser in ("html.parser", "lxml"):
            assert live_parts(BeautifulSoup(wrapped, parser)) == []
        assert not re.search(r"<(?!/?(?:math|m[a-z]+|code|span|div|p)\b)", shown), "no other element begins"


@pytest.mark.slow
def test_the_pages_keep_nothing_that_is_live(site):
    for file in site.glob("*.html"):
        page = BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")
        first = page.head.find_all(True)[:2]
        assert first[1]["http-equiv"] == "Content-Security-Policy", "before anything that it must forbid"
        scripts = {tag.get("src") for tag in page.find_all("script")}
        assert scripts <= {"site.js"}
        assert live_parts(page) == [], file.name


@pytest.mark.slow
def test_what_a_run_says_is_shown_as_text(site, vectors):
    index = BeautifulSoup((site / "index.html").read_text(encoding="utf-8"), "html.parser")
    names = [row.th.get_text() for row in index.select("details tr")]
    for vector in vectors:
        assert vector.replace("_", " ").replace("\r\n", "\n") in names
    assert index.select_one(".note .name").get_text() == 'a"><img src=x onerror=__pwned=1>'
    assert index.select_one(".error").get_text().split() == " ".join(vectors).split()
    assert index.select_one(".chips .bad").get_text() == vectors[0]


# in a browser -----------------------------------------------------------------------------------------------


def visit(page, address: str) -> bool:
    """Opens a page and does what a reader may do there; whether a script of a stranger ran."""
    page.requests.clear()
    page.open(address)
    title = page.js("document.title")
    page.js("""for (const one of document.querySelectorAll('details')) one.open = true;
        for (const one of document.querySelectorAll('*')) {
            if (one.closest('header, a[href^=http], a[href*=".html"]')) continue;
            one.scrollIntoView(); one.click?.(); one.focus?.();
            one.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}));
        }
        await new Promise(done => setTimeout(done, 500)); return 1""")
    assert page.js("document.title") == title
    assert page.js("location.href").split("#")[0].split("?")[0] == address.split("?")[0]
    return page.js("'__pwned' in window")


@pytest.mark.slow
def test_no_script_runs_and_nothing_is_asked_for(site, page, web):
    for file in sorted(site.glob("*.html")):
        assert not visit(page, file.as_uri()), file.name
        foreign = [url for url in page.requests if not url.startswith((site.as_uri() + "/", "data:"))]
        assert foreign == [], file.name
        assert page.errors == [], f"{file.name}: the policy had nothing to forbid"
        assert web.asked == []


@pytest.mark.slow
def test_no_script_runs_without_the_policy_either(site, page, web, tmp_path):
    """An old browser may not know it: the pages must be harmless by themselves."""
    shutil.copytree(site, tmp_path / "site")
    for file in sorted((tmp_path / "site").glob("*.html")):
        text, n = re.subn(
            r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", file.read_text(encoding="utf-8")
        )
        assert n == 1
        file.write_text(text, encoding="utf-8")
        assert not visit(page, file.as_uri()), file.name
        assert web.asked == []


@pytest.mark.slow
def test_the_policy_alone_stops_what_gets_through(site, page, web):
    """The raw pieces, each in a frame of its own: live without the site's policy, dead with it."""
    policy = re.search(
        r"<meta http-equiv=.Content-Security-Policy.[^>]*>", (site / "index.html").read_text()
    )[0]
    ran = {}
    for name, head in (("open", ""), ("strict", policy)):
        for n, vector in enumerate(VECTORS):
            if "refresh" not in vector:  # no policy forbids it
                piece = armed(vector, f"{web.address}/{n}")
                (web.folder / f"{name}-{n}.html").write_text(f"<!doctype html>{head}<main>{piece}</main>")
        frames = "".join(f"<iframe src={file.name}></iframe>" for file in web.folder.glob(f"{name}-*.html"))
        (web.folder / "frames.html").write_text(frames)
        web.asked.clear()
        page.open(f"http://localhost:{web.server_port}/frames.html")
        marked = page.js("""await new Promise(done => setTimeout(done, 2000));
            return [...document.querySelectorAll('iframe')].map(one => one.contentWindow)
                .filter(one => one.__pwned).map(one => one.location.pathname)""")
        ran[name] = {int(re.search(r"\d+", path)[0]) for path in [*marked, *web.asked]}
    web.asked.clear()
    assert {VECTORS[n] for n in ran["strict"]} == set()
    assert len(ran["open"]) > 40, "the pieces are no blanks"


# runs that are refused --------------------------------------------------------------------------------------

GOOD = {
    "lesson": LESSON,
    "status": "ok",
    "seconds": 1.0,
    "peak_memory_gb": 1.0,
    "recipe": "tiny",
    "error": "",
}


def plain_run(run, entries=(GOOD,), record=None):
    (run / LESSON).mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"lessons": list(entries)}))
    (run / LESSON / "metrics.json").write_text(
        json.dumps(record or {"recipe": "tiny", "metrics": {}, "expected": {}})
    )
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 01 · Fine")]), run / f"{LESSON}.ipynb")
    return run


def refuse(run, tmp_path, match, other=None):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=match):
        build_site(run, tmp_path / "site", other)
    assert sorted(tmp_path.rglob("*")) == before, "nothing was written, and nothing is left of the try"


@pytest.mark.parametrize(
    "lesson",
    [
        "../../x",
        "/etc/passwd",
        "..",
        ".",
        "",
        "01_data_analysis/../../x",
        "01_data_analysis\x00",
        "01_data_analysis\n",
        "01_DATA_ANALYSIS",
        "C:\\x",
        "..\\x",
        "index",
        "<script>alert(1)</script>",
        None,
        1,
        ["01_data_analysis"],
        {},
        " 01_data_analysis",
        "０1_data_analysis",
        "https://x.org/x",
        "figures/x",
        "style.css\x00.html",
    ],
)
def test_a_lesson_that_the_course_does_not_have_is_refused(lesson, tmp_path):
    run = plain_run(tmp_path / "run", [{**GOOD, "lesson": lesson}])
    refuse(run, tmp_path, "lesson")
    refuse(plain_run(tmp_path / "fine"), tmp_path, "lesson", other=run)


@pytest.mark.parametrize(
    "record",
    [
        [],
        1,
        None,
        "x",
        {},
        {"lessons": {}},
        {"lessons": "x"},
        {"lessons": ["x"]},
        {"lessons": [None]},
        {"lessons": [{}]},
        {"lessons": [{"lesson": LESSON}]},
        {"lessons": [{**GOOD, "seconds": "<b>"}]},
        {"lessons": [{**GOOD, "peak_memory_gb": None}]},
    ],
)
def test_a_run_record_of_another_shape_is_refused(record, tmp_path):
    run = plain_run(tmp_path / "run")
    (run / "run.json").write_text(json.dumps(record))
    refuse(run, tmp_path, "run.json")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"lessons": [1e999, ]}'])
@pytest.mark.parametrize("name", ["run.json", f"{LESSON}/metrics.json", f"{LESSON}.ipynb"])
def test_a_file_that_is_no_json_is_named(text, name, tmp_path):
    run = plain_run(tmp_path / "run")
    (run / name).write_bytes(text)
    refuse(run, tmp_path, re.escape(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "record",
    [
        [],
        {"metrics": []},
        {"metrics": {}, "expected": []},
        {"metrics": {}, "settings": "x"},
        {"metrics": {"m": "<b>"}, "expected": {"m": [0, 1]}},
        {"metrics": {}, "expected": {"m": [0, 1]}},
        {"metrics": {"m": 1}, "expected": {"m": "01"}},
        {"metrics": {"m": 1}, "expected": {"m": [0]}},
    ],
)
def test_metrics_of_another_shape_are_refused(record, tmp_path):
    run = plain_run(tmp_path / "run")
    (run / LESSON / "metrics.json").write_text(json.dumps(record))
    refuse(run, tmp_path, "metrics.json")
    refuse(plain_run(tmp_path / "fine"), tmp_path, "metrics.json", other=run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "metrics",
    [{"m": float("nan")}, {"m": float("inf")}, {"m": 1e308}, {"m": True}, {"m": None}, {"m": {"a": [1]}}],
)
def test_odd_values_are_shown_as_text(metrics, tmp_path):
    shown = isinstance(metrics["m"], float | bool)
    record = {"metrics": metrics, "expected": {"m": [0, 1]} if shown else {}}
    runs = [plain_run(tmp_path / name, record=record) for name in "ab"]
    assert build_site(runs[0], tmp_path / "site", runs[1]).is_file()


@pytest.mark.parametrize("name", ["run.json", f"{LESSON}.ipynb", f"{LESSON}/metrics.json"])
def test_a_link_to_a_file_outside_the_run_is_refused(name, tmp_path):
    fine, run = plain_run(tmp_path / "fine"), plain_run(tmp_path / "run")
    link = run / name
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    secret = fine / name
    if not secret.exists():
        secret = fine / "run.json"
    link.symlink_to(secret)
    refuse(run, tmp_path, "leads out of the run", other=fine)


def test_a_whole_lesson_outside_the_run_is_refused(tmp_path):
    fine, run = plain_run(tmp_path / "fine"), plain_run(tmp_path / "run")
    shutil.rmtree(run / LESSON)
    (run / LESSON).symlink_to(fine / LESSON)
    refuse(run, tmp_path, "leads out of the run")


@pytest.mark.parametrize(
    "change",
    [
        {"cells": 1},
        {"cells": [{}]},
        {"cells": [{"cell_type": "markdown", "source": 1, "metadata": {}}]},
        {"nbformat": "x"},
        {"cells": [{"cell_type": "x", "source": "", "metadata": {}}]},
        {
            "cells": [
                {"cell_type": "code", "source": "", "metadata": {}, "execution_count": "<b>", "outputs": []}
            ]
        },
    ],
)
def test_a_malformed_notebook_is_named(change, tmp_path):
    run = plain_run(tmp_path / "run")
    view = {"output_type": "display_data", "metadata": {}, "data": {WIDGET: {"model_id": "box"}}}
    cells = [{"cell_type": "code", "source": "", "metadata": {}, "execution_count": 1, "outputs": [view]}]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4, **change}
    (run / f"{LESSON}.ipynb").write_text(json.dumps(notebook))
    refuse(run, tmp_path, f"{LESSON}.ipynb")


@pytest.mark.slow
@pytest.mark.parametrize("name", ['a","b":"', "a\\n", "{{ 7 * 7 }}", "<b>", "a b", "ü"])
def test_a_run_of_any_name_is_shown_under_it(name, tmp_path):
    run = plain_run(tmp_path / name)
    text = f"saved in {run.resolve()}/x"
    nbformat.write(
        new_notebook(cells=[new_code_cell("", outputs=[new_output("stream", text=text)])]),
        run / f"{LESSON}.ipynb",
    )
    build_site(run, tmp_path / "site")
    page = BeautifulSoup((tmp_path / "site" / f"{LESSON}.html").read_text(encoding="utf-8"), "html.parser")
    assert f"saved in {name}/x" in page.get_text()
    index = BeautifulSoup((tmp_path / "site" / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert index.select_one(".note .name").get_text() == name


@pytest.mark.slow
def test_lone_surrogates_and_deep_nesting_do_not_stop_a_report(tmp_path):
    run = plain_run(tmp_path / "run")
    cells = [
        new_markdown_cell("a \ud800 b"),
        new_markdown_cell("<div>" * 2000),
        new_markdown_cell("> " * 500 + "deep"),
        new_markdown_cell("$" + "{" * 3000 + "x" + "}" * 3000 + "$"),
        new_markdown_cell("[" * 3000),
    ]
    (run / f"{LESSON}.ipynb").write_text(json.dumps(new_notebook(cells=cells)))
    assert build_site(run, tmp_path / "site").is_file()


# the folder that is replaced -------------------------------------------------------------------------------


def test_neighbors_of_a_site_stay(tmp_path):
    run = plain_run(tmp_path / "run")
    for name in ("site.old", "site.new", "site.partial", ".site-x", "site.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    before = set(tmp_path.rglob("*"))
    build_site(run, tmp_path / "site")
    build_site(run, tmp_path / "site")
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "site")} == before


@pytest.mark.slow
@pytest.mark.parametrize("stranger", ["notes.html", ".git/config", "figures/mine.png", "index.html.bak"])
def test_what_a_reader_put_into_a_site_is_not_deleted(stranger, tmp_path):
    run = plain_run(tmp_path / "run")
    build_site(run, tmp_path / "site")
    (tmp_path / "site" / stranger).parent.mkdir(exist_ok=True)
    (tmp_path / "site" / stranger).write_text("mine")
    refuse(run, tmp_path, re.escape(stranger))


def test_a_file_and_a_folder_of_others_are_refused(tmp_path):
    run = plain_run(tmp_path / "run")
    (tmp_path / "site").write_text("a letter")
    refuse(run, tmp_path, "site")
    (tmp_path / "site").unlink()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<title>my own page</title>")
    refuse(run, tmp_path, "index.html")


def test_an_empty_folder_and_an_older_report_are_replaced(tmp_path):
    run = plain_run(tmp_path / "run")
    (tmp_path / "site").mkdir()
    build_site(run, tmp_path / "site")
    (run / f"{LESSON}.ipynb").unlink()
    build_site(run, tmp_path / "site")
    assert not (tmp_path / "site" / f"{LESSON}.html").exists()


def test_a_report_that_fails_leaves_the_older_one(tmp_path):
    run = plain_run(tmp_path / "run")
    build_site(run, tmp_path / "site")
    before = (tmp_path / "site" / "index.html").read_bytes()
    (run / f"{LESSON}.ipynb").write_text("{")
    refuse(run, tmp_path, LESSON)
    assert (tmp_path / "site" / "index.html").read_bytes() == before


def test_a_site_is_reached_through_a_link_and_readable_by_others(tmp_path):
    run = plain_run(tmp_path / "run")
    (tmp_path / "served").mkdir()
    (tmp_path / "site").symlink_to(tmp_path / "served")
    build_site(run, tmp_path / "site")
    assert (tmp_path / "site").is_symlink() and (tmp_path / "served" / "index.html").is_file()
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "served").stat().st_mode == (tmp_path / "plain").stat().st_mode


# what the package itself shows in a notebook ---------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "`<b onclick=x>`",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "</td></table><iframe srcdoc='<script>alert(1)</script>'>",
]


class Words:
    """A tokenizer whose tokens are given texts."""

    all_special_ids, eos_token_id = [0], 0

    def __init__(self, text):
        self.text = text

    def decode(self, ids, **_):
        return self.text


def shown_by(text):
    """What every class of the package that shows itself as HTML makes of a reader's text: name -> HTML."""
    import numpy as np

    from lmlab import hardware, recipes
    from lmlab.course import lesson, results
    from lmlab.data import preflight, token_view
    from lmlab.evaluation.hellaswag import HellaSwagScores
    from lmlab.exercises.judging import Verdict
    from lmlab.viz import blind, display, hellaswag_browser, widgets

    machine = dataclasses.replace(hardware.gpu("T4"), device_name=text, reasons=(text,))
    recipe = recipes.load_recipe("01_data_analysis").model_copy(
        update={"tokenizer": text, "name": text, "datasets": [text]}
    )
    tokens = token_view.token_view([{"input_ids": [0, 1], "labels": [-100, 1]}] * 2, Words(text))
    scores = HellaSwagScores(*(np.ones((1, 4)),) * 4, labels=np.zeros(1, int))
    with mock.patch.object(display, "is_interactive", return_value=True):
        browser = hellaswag_browser.hellaswag_browser([{"ctx": text, "endings": [text] * 4}], scores)
    test = blind.BlindTest([blind.Item(text, text, {text: text, "b": text})], Path("/nowhere/x"), 0)

    def fail(**_):
        raise ValueError(text)

    return {
        "machine": machine._repr_html_(),
        "recipe": recipe._repr_html_(),
        "lesson": lesson.Lesson(recipe, machine, Path(text), None, False, None, 0.0)._repr_html_(),
        "tokens": tokens._repr_html_(),
        "expectations": results.expectation_table({text: text, "b": 1.0}, {"b": [0, 1]})._repr_html_(),
        "preflight": preflight.Preflight((preflight.Check(text, False, text),), tokens)._repr_html_(),
        "blind table": test.table()._repr_html_(),
        "blind panel": test.panel().children[0].value,
        "item": browser.children[-1].value,
        "error": widgets.control_box({}, fail).children[-1].value,
        "verdict": Verdict(text, text, text, (text,))._repr_html_(),
    }


@pytest.mark.parametrize("text", HOSTILE)
def test_what_notebooks_show_escapes_a_readers_text(text):
    plain = "safe words"
    tags = {
        name: [tag.name for tag in BeautifulSoup(shown, "html.parser").find_all(True)]
        for name, shown in shown_by(plain).items()
    }
    for name, shown in shown_by(text).items():
        page = BeautifulSoup(shown, "html.parser")
        extra = 2 if name == "verdict" and text[0] == "`" else 0  # its message and its hint may have `code`
        assert len(page.find_all(True)) == len(tags[name]) + extra, name
        said = page.get_text().replace("␣", " ")
        assert text in said or extra, name
        assert not any(key.startswith("on") for tag in page.find_all(True) for key in tag.attrs), name


def test_every_class_that_shows_itself_is_tried():
    sources = Path(lmlab.__file__).parent.rglob("*.py")
    n = sum(source.read_text(encoding="utf-8").count("def _repr_html_") for source in sources)
    assert n == 7, "a new one? add it to shown_by"
