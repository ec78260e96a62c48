"""The pages in a real browser: nothing asked of the network, nothing broken, readable on a phone and on a wide screen.

Needs Chromium (Debian's package `chromium`, or CHROMIUM=/path/to/it); skipped, visibly, where there is none.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import os
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from fake_report import copy_fake_project
from loopback import listen
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lesion_utils.config.load import load_study
from lesion_utils.core.paths import Study
from lesion_utils.evaluation.intervals import wilson_interval
from lesion_utils.evaluation.literature import list_readers, read_published
from lesion_utils.report.index import build_site
from lesion_utils.report.notebook_pages import write_notebook_page
from lesion_utils.report.publish import publish_study

pytestmark = pytest.mark.slow

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
WIDTHS = (360, 1400)
CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const what = `${node.tagName} ${node.className} "${node.textContent.trim().slice(0, 30)}"`;
    if (ratio < 4.5) poor.push(`${what}: ${ratio.toFixed(2)}`);
  }
  return poor;
}
"""


@pytest.fixture(scope="module")
def chromium():
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium, or set CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: make env")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with a published study."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = copy_fake_project(tmp_path_factory.mktemp("browser"), monkeypatch)
        study = Study("demo")
        publish_study(study, load_study(study.params_dir))
        yield folder


@pytest.fixture(scope="module")
def address(project) -> str:
    """Where the project's parent folder is served: its pages lie under a sub-path, as on a forge."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with listen(functools.partial(Quiet, directory=project.parent)) as root:
        yield f"{root}{project.name}/"


PAGES = (
    "docs/index.html",
    "docs/demo/index.html",
    "docs/demo/html/03_resnet50_finetune.html",
    "docs/demo/explore.html",
)


class Visit:
    """A page, and what it said and asked for while it opened."""

    def __init__(self, chromium, url: str, **settings):
        self.page = chromium.new_page(**settings)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.wait_for_load_state("networkidle")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_) -> None:
        self.page.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_it_opens_without_complaint_or_request_and_fits_the_screen(chromium, address, name, width):
    with Visit(chromium, address + name, viewport={"width": width, "height": 800}) as visit:
        assert visit.complaints == []
        assert [url for url in visit.requests if not url.startswith("data:")] == [address + name]
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
        broken = "[...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.alt)"
        assert visit.page.evaluate(broken) == []


def test_every_link_of_what_is_published_leads_somewhere_under_a_sub_path(chromium, address):
    waiting, seen = [address + PAGES[0]], {}
    while waiting:
        url = waiting.pop()
        with Visit(chromium, url) as visit:
            seen[url] = set(visit.page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)"))
            found = set(visit.page.evaluate("[...document.querySelectorAll('a[href]')].map((a) => a.href)"))
            for link in found:
                target, _, anchor = link.partition("#")
                assert target.startswith(f"{address}docs/"), f"{link} leaves what is published"
                assert visit.page.request.get(target).ok, link
                assert target != url or anchor in seen[url] | {""}, link
                if target.endswith(".html") and target not in {*seen, *waiting}:
                    waiting.append(target)
    assert len(seen) == 8, "the list of studies, a study's page, its five notebooks and its page to explore"


@pytest.mark.parametrize("name", PAGES)
def test_it_can_be_read_by_keyboard_and_screen_reader(chromium, address, name):
    with Visit(chromium, address + name) as visit:
        page = visit.page
        assert page.locator("html").get_attribute("lang") == "en"
        assert page.locator("main").count() == page.locator("header").count() == page.locator("h1").count() == 1
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])")
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels)), levels
        assert all(image.get_attribute("alt").strip() for image in page.locator("img").all())
        names = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert sorted(names) == sorted(set(names))
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0, "the link shows when focused"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_text_stands_out_from_its_background(chromium, address, name, scheme):
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5 to 1."""
    with Visit(chromium, address + name, color_scheme=scheme) as visit:
        visit.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert visit.page.evaluate(CONTRAST) == []


def test_code_shows_on_request_and_at_the_address_with_code(chromium, address):
    url = address + PAGES[2]
    shown = "document.querySelectorAll('details.code[open]').length"
    with Visit(chromium, url) as visit:
        assert visit.page.evaluate(shown) == 0
        visit.page.get_by_role("button", name="Show code").click()
        assert visit.page.evaluate(shown) == 2
        visit.page.get_by_role("button", name="Show code").click()
        assert visit.page.evaluate(shown) == 0
    with Visit(chromium, url + "#code") as visit:
        assert visit.page.evaluate(shown) == 2
        assert visit.complaints == []


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.45, 0.5, 0.9])
def test_the_page_to_explore_counts_as_the_predictions_do(chromium, address, project, threshold):
    own = pd.read_csv(project / "docs/demo/predictions/vgg19.csv")
    called, malignant = own["probability"] > threshold, own["target"] == 1
    missed, alarms = int((malignant & ~called).sum()), int((called & ~malignant).sum())
    with Visit(chromium, address + "docs/demo/explore.html") as visit:
        page = visit.page
        page.get_by_role("combobox", name="Model").select_option("vgg19, finetune")
        page.get_by_label("Threshold (number)").fill(str(threshold))
        assert (
            page.locator("#said").inner_text() == f"Threshold {threshold:.3f}: {missed} missed, {alarms} false alarms."
        )
        assert page.locator("#missed li").count() == missed
        assert page.locator("#alarms li").count() == alarms
        low, high = wilson_interval(malignant.sum() - missed, malignant.sum(), confidence=0.95)
        assert f"{low:.3f} to {high:.3f}" in page.locator("#counts").inner_text()
        page.get_by_label("Threshold (slider)").focus()
        page.keyboard.press("End")
        assert page.locator("#missed li").count() == malignant.sum(), "above the highest score, every lesion is missed"
        assert visit.complaints == []


def test_the_page_to_explore_shows_the_published_readers_of_these_images(chromium, address, project):
    ((label, (sensitivity, specificity)),) = list_readers(read_published()).items()
    with Visit(chromium, address + "docs/demo/explore.html") as visit:
        box = visit.page.locator("#roc path").evaluate("path => { const { x, y } = path.getBBox(); return [x, y]; }")
        assert box == pytest.approx([100 * (1 - specificity) - 2.5, 100 * (1 - sensitivity) - 2.5])
        assert f"The cross: {label}." in visit.page.locator("#point").inner_text()


def test_a_hostile_output_reaches_nobody(chromium, tmp_path):
    """Whatever a notebook printed, its page runs no script of it, and a server that it names hears nothing."""
    heard = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            heard.append(self.path)
            self.send_error(404)

    with listen(Listener) as address:
        html = (
            "<script>alert(1)</script>"
            f"<img src='{address}image' alt='x' onerror='alert(2)'><iframe src='{address}frame'></iframe>"
            f"<link rel='stylesheet' href='{address}style'><style>@import '{address}import';</style>"
        )
        output = new_output("display_data", {"text/html": html})
        cells = [new_markdown_cell("# T <img src=x alt=x onerror=alert(3)>"), new_code_cell("show()", outputs=[output])]
        nbformat.write(new_notebook(cells=cells), tmp_path / "x.ipynb")
        page = write_notebook_page(tmp_path / "x.ipynb", tmp_path / "x.html", study="demo")
        with Visit(chromium, page.as_uri()) as visit:
            assert not {"1", "2", "3"} & set(visit.complaints), "a script ran"
    assert heard == []


def test_printed_it_is_paper(chromium, address):
    with Visit(chromium, address + PAGES[1], color_scheme="dark") as visit:
        visit.page.emulate_media(media="print")
        assert not visit.page.locator("nav").is_visible()
        assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert visit.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert visit.page.evaluate(CONTRAST) == []
        assert len(visit.page.pdf(format="A4")) > 10_000


def test_a_very_long_word_does_not_widen_the_page(chromium, project):
    study = Study("other")
    sidecar = study.figures / "01_eda_curve.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"caption": "x" * 300}))
    page = build_site(study, load_study(study.params_dir))
    with Visit(chromium, page.as_uri(), viewport={"width": 360, "height": 800}) as visit:
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
