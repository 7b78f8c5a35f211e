"""The site of an atlas: nothing stale, no pictures where there must be none, and it works in a browser."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.fakes.commands import SMALL, in_process

pytestmark = pytest.mark.slow


def describe(sae: Path, out: Path, *overrides: str) -> None:
    assert in_process("describe", f"sae={sae}", f"hydra.run.dir={out}", *SMALL, *overrides) is None


@pytest.fixture(scope="module")
def site(sae_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("atlas")
    describe(sae_dir, out, "pages.contact_sheets=true")
    return out / "latents"


def test_pictures_stand_once_and_are_all_shown(site: Path) -> None:
    stored = {path.name for path in (site / "thumbs").iterdir()}
    pages = [*site.glob("latent/*.html"), *site.glob("concept/*.html")]
    text = "".join(page.read_text() for page in pages)
    assert stored and all(name in text for name in stored)
    assert {"contact_random.png", "scatter.png"} <= {path.name for path in site.glob("*.png")}


def test_json_holds_what_the_page_shows(site: Path) -> None:
    page = min(site.glob("latent/*.html"))
    record = json.loads(page.with_suffix(".json").read_text())
    assert {"exemplars", "neighbours", "proposals", "effects", "concepts", "ms_null"} <= set(record)
    roles = pd.DataFrame(record["exemplars"])
    shown = pd.read_parquet(site / "exemplars.parquet").query(f"latent == {record['latent']}")
    assert set(roles["image_id"]) <= set(shown["image_id"])
    assert record["neighbours"][0]["latent"] != record["latent"]


def test_the_most_important_latents_show_where_their_evidence_lies(site: Path) -> None:
    table = pd.read_parquet(site / "latents.parquet").sort_values("importance", ascending=False)
    important = set(table["latent"].head(2))
    for path in site.glob("latent/*.json"):
        causal = json.loads(path.read_text())["causal_map"]
        page = path.with_suffix(".html").read_text()
        assert ("Where its evidence lies" in page) == (int(path.stem) in important)
        assert (causal is not None) == (int(path.stem) in important)
        if causal is None:
            continue
        patches = torch.tensor(causal["patches"])
        change = causal["value"] - causal["baseline_value"]
        gap = causal["gap_share"] * abs(change)
        rounding = 1e-4 * (abs(causal["value"]) + abs(causal["baseline_value"]))  # five digits
        assert abs(float(patches.sum()) - change) <= gap + rounding
        assert causal["peak"] == list(divmod(int(patches.argmax()), patches.shape[1]))
        strongest = pd.read_parquet(site / "exemplars.parquet").query(
            f"latent == {path.stem} and role == 'max' and `rank` == 0"
        )
        assert causal["image_id"] == strongest["image_id"].item()


def test_export_without_pictures_leaves_none_behind(
    site: Path, sae_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "export"
    shutil.copytree(site.parent, out)
    describe(
        sae_dir, out, "pages.thumbnails=false", "pages.contact_sheets=true", "pages.n_latents=5"
    )
    folder = out / "latents"
    pictures = [p for p in folder.rglob("*") if p.suffix in (".webp", ".jpg", ".png")]
    assert [path.name for path in pictures] == ["scatter.png"]
    assert not (folder / "thumbs").exists()
    assert len(list(folder.glob("latent/*.html"))) == 5, "pages of the earlier run are gone"
    page = next(folder.glob("latent/*.html")).read_text()
    assert "Where its evidence lies" not in page
    assert "thumbs/" not in page and "data:image/png" in page, (
        "maps stay: they are codes, not images"
    )


@pytest.fixture(scope="module")
def browser(site: Path) -> Iterator:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    found = webdriver.Chrome(options=options, service=service)
    found.set_window_size(1280, 1600)
    yield found
    found.quit()


def until(condition, seconds: float = 10.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("the page did not get there")


def test_click_through(site: Path, browser) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    def rows() -> list:
        return browser.find_elements(By.CSS_SELECTOR, ".tabulator-row")

    browser.get(f"{(site / 'index.html').as_uri()}")
    until(rows)
    assert "96 of 96" in until(lambda: browser.find_element(By.ID, "count").text)
    assert browser.find_elements(By.CSS_SELECTOR, "#scatter canvas")
    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    search = browser.switch_to.active_element
    assert search.get_attribute("id") == "search"
    latent = int(next(site.glob("latent/*.html")).stem)
    search.send_keys(str(latent))
    until(lambda: "96 of 96" not in browser.find_element(By.ID, "count").text)
    assert f"q={latent}" in browser.current_url
    browser.refresh()
    until(lambda: browser.find_element(By.ID, "search").get_attribute("value") == str(latent))
    until(lambda: rows() and "96 of 96" not in browser.find_element(By.ID, "count").text)
    browser.find_element(By.CSS_SELECTOR, ".tabulator-row a").click()
    until(lambda: "/latent/" in browser.current_url)
    broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    first = browser.current_url
    browser.find_element(By.CSS_SELECTOR, ".neighbours a").click()
    until(lambda: browser.current_url != first)
    second = browser.current_url
    key = (
        Keys.ARROW_RIGHT
        if browser.find_elements(By.CSS_SELECTOR, "a[rel=next]")
        else Keys.ARROW_LEFT
    )
    browser.find_element(By.TAG_NAME, "body").send_keys(key)
    until(lambda: browser.current_url != second)
    browser.find_element(By.TAG_NAME, "body").send_keys("u")
    until(lambda: browser.current_url.split("#")[0].endswith("index.html"))
    browser.find_element(By.LINK_TEXT, "Concepts").click()
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "tbody th a"))[0].click()
    until(lambda: "/concept/" in browser.current_url)
    assert browser.find_elements(By.CSS_SELECTOR, "figure.tile")
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not severe, severe
