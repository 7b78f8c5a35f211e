"""How long the explorer's page takes in a browser: from opening it to the first ranking, and per click.

    python -m benchmarks.explorer_page http://127.0.0.1:7860/     beside a running python -m saev.explore

A click ends when the marked patch stands in the text field and the ranking has changed.
"""

import argparse
import shutil
import statistics
import time

from playwright.sync_api import sync_playwright

CLICK = """async (patch) => {
  const cell = document.querySelector(`rect[data-patch='${patch}']`);
  const box = cell.getBoundingClientRect();
  const field = document.querySelector("#patches input, #patches textarea");
  const ranking = document.querySelector("#ranking");
  const before = ranking.innerText;
  const at = { bubbles: true, cancelable: true, button: 0, clientX: box.x + 4, clientY: box.y + 4 };
  const began = performance.now();
  cell.dispatchEvent(new PointerEvent("pointerdown", at));
  window.dispatchEvent(new PointerEvent("pointerup", at));
  while (field.value !== String(patch) || ranking.innerText === before)
    await new Promise(requestAnimationFrame);
  return (performance.now() - began) / 1000;
}"""
N_PAGES, PATCHES = 5, (20, 66, 91, 30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    url = parser.parse_args().url
    loads, clicks = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for _ in range(N_PAGES):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            began = time.perf_counter()
            page.goto(url)
            page.wait_for_selector("#ranking button.latent")
            loads.append(time.perf_counter() - began)
            for patch in PATCHES:
                page.wait_for_timeout(700)
                clicks.append(page.evaluate(CLICK, patch))
        browser.close()
    for name, values in (("picture and ranking", loads), ("click", clicks)):
        print(f"{name}: median {statistics.median(values):.2f} s, most {max(values):.2f} s")


if __name__ == "__main__":
    main()
