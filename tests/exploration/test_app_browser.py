"""The explorer's page in a real browser: looked at, clicked, edited, tested, by mouse and by keyboard."""

import gc
import io
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from saev.exploration.app.serve import ExplorerServer
from saev.exploration.explorer import Explorer

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
WAIT = 90_000
"""Milliseconds: a busy machine is no fault of the page."""
SMALL = "\nsupport: {n_test_units: 5, n_discovery_units: 5}\ndraws: 19\n"


@pytest.fixture(scope="module")
def url(explorer: Explorer) -> Iterator[str]:
    with ExplorerServer(explorer) as server:
        yield server.url
    gc.collect()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def open_page(browser: Any, url: str, width: int = 1280) -> Any:
    page = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(WAIT)
    page.foreign = []
    page.on("request", lambda r: page.foreign.append(r.url) if foreign(r.url, url) else None)
    page.goto(url)
    for part in ("#ranking button.latent", "#picture svg image", "#gallery button.thumb"):
        page.wait_for_selector(part, state="attached")  # they are drawn one after the other
    return page


def foreign(asked: str, url: str) -> bool:
    return not asked.startswith((url.partition("?")[0], "data:", "blob:"))


def mark(page: Any, patch: int) -> None:
    page.locator(f"rect[data-patch='{patch}']").click()
    page.wait_for_function(
        "p => document.querySelector('#patches input, #patches textarea').value === p",
        arg=str(patch),
    )


def shown_picture(page: Any) -> str:
    return page.get_attribute("#picture svg image", "href")


def other_picture(page: Any, before: str) -> None:
    page.wait_for_function(
        "old => document.querySelector('#picture svg image').getAttribute('href') !== old",
        arg=before,
    )


def open_first(page: Any) -> str:
    button = page.locator("#ranking button.latent").first
    latent = button.inner_text()
    button.click()
    page.wait_for_function(
        "l => document.querySelector('#opened').innerText.includes('Latent ' + l)", arg=latent
    )
    return latent


def edit_it(page: Any) -> str:
    page.locator("#to-edit").click()
    page.wait_for_selector("#outcome .sentence")
    return page.inner_html("#outcome")


def new_outcome(page: Any, before: str) -> str:
    page.wait_for_function(
        "old => { const o = document.querySelector('#outcome');"
        " return o.querySelector('.sentence') && o.innerHTML !== old }",
        arg=before,
    )
    return page.inner_html("#outcome")


def test_from_a_picture_to_a_prediction_and_back_by_link(browser: Any, url: str) -> None:
    page = open_page(browser, url)
    shown = shown_picture(page)
    page.locator("#gallery button.thumb").nth(1).click()
    other_picture(page, shown)
    assert page.locator("#gallery button.thumb:nth-child(2)[aria-pressed=true]").count() == 1
    mark(page, 40)
    page.wait_for_function(
        "() => document.querySelector('#ranking').innerText.includes('1 marked patch')"
    )
    latent = open_first(page)
    page.wait_for_selector("#causes table")
    assert page.locator("#exemplars figure").count() == 8
    first = edit_it(page)
    assert "random latents" in first and "DiffMean" in first
    slider = page.locator("#amount-0 input[type=range]")
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    second = new_outcome(page, first)
    assert second != first
    page.get_by_role("tab", name="Keep").click()
    page.wait_for_selector("#kept a[href^='?view=']")
    link = page.get_attribute("#kept a[href^='?view=']", "href")
    again = open_page(browser, url + link)
    again.wait_for_function(
        "l => document.querySelector('#opened').innerText.includes('Latent ' + l)", arg=latent
    )
    assert again.locator("rect.marked").count() == 1
    again.get_by_role("tab", name="Edit").click()
    again.wait_for_selector("#outcome .sentence")
    assert page.foreign == [] and again.foreign == []


def test_a_drag_marks_several(browser: Any, url: str) -> None:
    page = open_page(browser, url)
    start, end = (page.locator(f"rect[data-patch='{p}']").bounding_box() for p in (13, 16))
    page.mouse.move(start["x"] + 5, start["y"] + 5)
    page.mouse.down()
    page.mouse.move(end["x"] + 5, end["y"] + 5, steps=12)
    page.mouse.up()
    page.wait_for_function(
        "() => document.querySelector('#patches input, #patches textarea').value === '13-16'"
    )


def test_a_hypothesis_is_made_and_run(browser: Any, url: str) -> None:
    page = open_page(browser, url)
    open_first(page)
    edit_it(page)
    page.get_by_role("tab", name="Test").click()
    page.locator("#make").click()
    page.wait_for_selector("#yaml-file a[download='hypothesis.yaml']")
    box = page.locator("#yaml textarea")
    text = "\n".join(
        line for line in box.input_value().splitlines() if not line.startswith(("draws:",))
    )
    from yaml import safe_dump, safe_load

    content = safe_load(text) | safe_load(SMALL)
    box.fill(safe_dump(content))
    page.locator("#run").click()
    page.wait_for_selector("#verdict a, #verdict .error", timeout=400_000)
    assert page.locator("#verdict .error").count() == 0, page.inner_text("#verdict")
    with page.context.expect_page() as opened:
        page.locator("#verdict a").click()
    opened.value.wait_for_selector("h1")
    assert "/verdict/" in opened.value.url


def test_two_people_do_not_mix(browser: Any, url: str) -> None:
    one, two = open_page(browser, url), open_page(browser, url)
    mark(one, 7)
    mark(two, 90)
    latent = open_first(one)
    assert latent not in two.inner_text("#opened")
    edit_it(one)
    assert two.locator("#outcome .sentence").count() == 0
    assert one.input_value("#patches input, #patches textarea") == "7"
    assert two.input_value("#patches input, #patches textarea") == "90"


def test_a_phone_needs_no_sideways_scrolling(browser: Any, url: str) -> None:
    page = open_page(browser, url, width=390)
    mark(page, 40)
    open_first(page)
    edit_it(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.body.scrollWidth") <= 390


def test_the_keyboard_is_enough(browser: Any, url: str) -> None:
    page = open_page(browser, url)

    def tab_to(selector: str, most: int = 120) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.closest(s) !== null", selector):
                return
        raise AssertionError(f"the tab key does not reach {selector}")

    tab_to("svg.patches")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.wait_for_function(
        "() => document.querySelector('#patches input, #patches textarea').value === '13'"
    )
    tab_to("#ranking button.latent")
    page.keyboard.press("Enter")
    page.wait_for_selector("#opened h3")
    tab_to("#to-edit")
    page.keyboard.press("Enter")
    page.wait_for_selector("#outcome .sentence")
    before = page.inner_html("#outcome")
    tab_to("#amount-0 input[type=range]")
    page.keyboard.press("ArrowRight")
    new_outcome(page, before)


@pytest.mark.parametrize("kind", ["grey", "cmyk", "transparent", "text"])
def test_uploads_are_shown_or_refused_in_a_sentence(browser: Any, url: str, kind: str) -> None:
    page = open_page(browser, url)
    file = io.BytesIO()
    if kind == "text":
        file.write(b"no picture at all")
    else:
        mode = {"grey": "L", "cmyk": "CMYK", "transparent": "RGBA"}[kind]
        Image.new(mode, (50, 40)).save(file, "tiff" if kind == "cmyk" else "png")
    before = shown_picture(page)
    chosen = {"name": f"{kind}.png", "mimeType": "image/png", "buffer": file.getvalue()}
    page.locator("input[type=file]").first.set_input_files(chosen)
    if kind == "text":
        page.wait_for_selector("#message .error")
        assert shown_picture(page) == before
    else:
        other_picture(page, before)
        assert page.locator("#message .error").count() == 0
