"""The report in a real browser, from the disk and without a network."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
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
