"""The report in a real browser, from the disk and without a network."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tomli_w
from test_report import HOSTILE, write_comparison, write_run

from celladapt.reporting import report

webdriver = pytest.importorskip("selenium.webdriver")


@pytest.fixture(scope="module")
def browser() -> Iterator["webdriver.Chrome"]:
    chrome = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not (chrome and driver):
        pytest.skip("Chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chrome
    for argument in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.fixture(scope="module", params=["run", "comparison"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    if request.param == "run":
        long_name = HOSTILE + "-a-name-that-is-long-and-has-no-place-to-break" * 2
        run = write_run(folder / "run", stems=(long_name, "b"), notes=[HOSTILE + ">"], command="x" * 300)
        write_run(run / "baseline", method="source_only", iou=0.6, stems=(long_name, "b"))
        return report(run)
    return report(write_comparison(folder / "bench", pairs=("grey-violet", "a-pair-whose-name-is-long-to-another-with-a-long-name"), link=False))


@pytest.mark.parametrize("width", [1280, 420])
def test_the_page_is_whole_at_any_width(browser: "webdriver.Chrome", page: Path, width: int) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False})
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.find_element("tag name", "h1").is_displayed()
    sizes = browser.execute_script("return Array.from(document.images, image => [image.complete, image.naturalWidth])")
    assert sizes
    assert all(complete and natural >= 320 for complete, natural in sizes)
    drawn = browser.execute_script("return Array.from(document.querySelectorAll('svg.curve'), svg => svg.getBoundingClientRect().height)")
    assert drawn
    assert min(drawn) > 80
    # The page's font is not the one that the figure was laid out with, so its words might not fit.
    outside = browser.execute_script(
        "return Array.from(document.querySelectorAll('svg.chart')).flatMap(svg => { const box = svg.getBoundingClientRect();"
        " return Array.from(svg.querySelectorAll('text'), text => [text.textContent, text.getBoundingClientRect()])"
        ".filter(([words, at]) => at.left < box.left - 1 || at.right > box.right + 1 || at.top < box.top - 1 || at.bottom > box.bottom + 1)"
        ".map(([words]) => words) })"
    )
    assert outside == []
    charts = browser.execute_script("return Array.from(document.querySelectorAll('svg.chart'), svg => svg.getBoundingClientRect().height)")
    assert len(charts) == page.parent.name.count("bench")
    assert min(charts, default=200) > 150
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return typeof window.hacked") == "undefined"
    assert browser.execute_script("return performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith('data:')).length") == 0
    assert browser.get_log("browser") == []


def test_the_page_follows_the_reader_s_colours(browser: "webdriver.Chrome", page: Path) -> None:
    def contrast(scheme: str) -> tuple[str, str]:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        browser.get(page.as_uri())
        look = "const look = getComputedStyle(document.body); return [look.color, look.backgroundColor]"
        ink, ground = browser.execute_script(look)
        return ink, ground

    assert contrast("light") == ("rgb(27, 36, 48)", "rgb(246, 247, 249)")
    assert contrast("dark") == ("rgb(230, 234, 239)", "rgb(18, 22, 28)")


SCRIPTS = (
    "<img src=x onerror=window.hacked=1>.png",
    '"><script>window.hacked=1</script>',
    "</script><script>window.hacked=1</script>",
    "' autofocus onfocus='window.hacked=1",
    "javascript:window.hacked=1",
    "<svg onload=window.hacked=1>",
    "]]></style></title><iframe srcdoc='<script>parent.hacked=1</script>'>",
    "&lt;b&gt;",
    "{{7*7}}{% raw %}",
    "<a href=javascript:window.hacked=1>$x^2$</a>",
)


def hostile(folder: Path, kind: str) -> Path:
    """A page of names, options, notes and errors that are scripts."""
    names = tuple(name.replace("/", "⁄") for name in SCRIPTS)  # a file's name has no slash; what is in a JSON has
    everything = "".join(SCRIPTS)
    about = {
        "notes": list(SCRIPTS), "command": everything, "method_doc": everything, "terms": {"seg": everything}, "parameters": {everything: 7},
        "fingerprint": {everything: everything}, "device": everything, "platform": everything, "group": everything,
    }  # fmt: skip
    if kind == "run":
        page = write_run(folder / "run", method="cellseguda", stems=names, pictures=3, **about)
        write_run(page / "baseline", method="source_only", iou=0.6, stems=names, pictures=3)
    else:
        page = write_comparison(folder / "bench", pairs=(names[0],))
        with open(page / "cells.csv", "a", newline="") as table:
            csv.writer(table).writerows(
                [[everything, script, number, "", "", "", 1, script, everything] for number, script in enumerate(SCRIPTS)]
                + [[names[0], f"cellseguda@10%:a={script}", 0, 0.5, 0.5, "", 1, "", ""] for script in SCRIPTS[:4]]
            )
    for run in [path.parent for path in page.rglob("run.json")]:
        rows = [{"step": step} | dict.fromkeys((*SCRIPTS, "seg"), 1 / step) for step in (1, 2, 40)]
        for log in ("log.jsonl", "validation.jsonl"):
            (run / log).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (run / "config.toml").write_text(tomli_w.dumps(dict.fromkeys(("source", "target", "method", "group", *SCRIPTS), everything)))
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps(record | about | {"selected": {"step": 40, "criterion": everything, "score": 0.3}}))
    return report(page)


@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_names_that_are_scripts_are_text(browser: "webdriver.Chrome", kind: str, tmp_path: Path) -> None:
    """Also without the page's own ban on scripts, which a program that embeds it may not keep."""
    page = hostile(tmp_path, kind)
    html = page.read_text(encoding="utf-8")
    unguarded = html.replace('http-equiv="Content-Security-Policy"', 'name="was"')
    assert unguarded != html
    page.write_text(unguarded, encoding="utf-8")
    browser.get_log("browser")
    browser.get(page.as_uri())
    found = browser.execute_script(
        """const all = Array.from(document.querySelectorAll('*'));
        all.forEach(one => { if (one.matches('a, summary')) one.focus(); });
        return {
          hacked: typeof window.hacked, text: document.documentElement.textContent.replace(/\\s+/g, ' '),
          tags: [...new Set(all.map(one => one.localName))],
          events: all.flatMap(one => one.getAttributeNames()).filter(name => name.startsWith('on') || name === 'srcdoc' || name === 'autofocus'),
          links: all.flatMap(one => ['href', 'xlink:href', 'src'].map(name => one.getAttribute(name))).filter(Boolean)
            .filter(link => !/^(#|data:image|data:,|\\.\\/|https:)/.test(link)),
          pictures: Array.from(document.images, image => image.naturalWidth > 0), alts: Array.from(document.images, image => image.alt)
        }"""
    )
    assert found["hacked"] == "undefined"
    assert not {"script", "iframe", "object", "embed", "form", "input", "base", "foreignobject"} & set(found["tags"])
    assert found["events"] == []
    assert found["links"] == []
    assert all(found["pictures"])
    for script in SCRIPTS:
        assert " ".join(script.split()) in found["text"], script
    if kind == "run":
        assert any("<img src=x onerror=" in alt for alt in found["alts"])
    assert browser.get_log("browser") == []
    for picture in page.parent.glob("*.svg"):
        root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
        assert not {"script", "foreignObject", "a", "img"} & {one.tag.rpartition("}")[2] for one in root.iter()}
