"""Names are text wherever they land, and a page runs and reaches nothing but what lies beside it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from saev.atlas.pages import overview
from saev.atlas.pages.overview import KEYS
from saev.comparison import page as comparison_page
from saev.pages.render import fill_template
from saev.pages.site import Site

ROOT = Path(__file__).parents[2]
RUNS = "document.title='RAN'"
HOSTILE = (
    f"<img src=x onerror={RUNS}>",
    f"<svg onload={RUNS}>",
    f'"><script>{RUNS}</script>',
    f"'-{RUNS}-'",
    f"</script><script>{RUNS}</script>",
    f"<iframe srcdoc='<script>parent.{RUNS}</script>'>",
    f"javascript:{RUNS}",
    "{{ 7 * 7 }}{% raw %}",
)
"""Names of classes, concepts and images as nobody should choose them."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def overview_of(folder: Path) -> Path:
    """The overview of an atlas whose names, proposers and concepts are ``HOSTILE``."""
    site = Site(folder, HOSTILE[0], Path(overview.__file__).parent)
    numbers = dict.fromkeys(KEYS, 0.5)
    rows = [
        {**numbers, "latent": n, "name": name, "proposer": name, "best_concept": name}
        for n, name in enumerate(HOSTILE)
    ]
    table = [[*row.values(), row["name"]] for row in rows]
    site.overview_data([*KEYS, "proposals"], table, range(len(rows)))
    axes = [("ms_corrected", HOSTILE[1])]
    site.page(
        "atlas_index.html.j2", "index.html", n_latents="8", n_alive="8", n_images="8", n_named="8",
        n_pages="8", all_paged=True, axes=axes, baselines=None, baseline_images=0, stability=[],
    )  # fmt: skip
    return folder / "index.html"


def comparison_of(folder: Path) -> Path:
    """The table of a comparison between dictionaries with such names, without the rest of its page."""
    site = Site(folder, HOSTILE[0], Path(comparison_page.__file__).parent)
    names = {"a": dict(enumerate(HOSTILE)), "b": dict(enumerate(HOSTILE))}
    keys = ["latent_a", "latent_b", "exemplar_partner", "correlation", "correlation_null", "q",
            "mutual", "jaccard", "exemplar_jaccard", "exemplar_null", "exemplar_q"]  # fmt: skip
    rows = [[n, n, n, *[0.5] * 8] for n in range(len(HOSTILE))]
    site.script(
        "comparison",
        {"keys": keys, "pairs": [{"a": "a", "b": "b", "rows": rows}], "names": names, "fdr": 0.05,
         "pages": {"a": [], "b": []}, "roots": {"a": "x", "b": "x"}},
    )  # fmt: skip
    page = site.environment.from_string(
        '{% extends "atlas_base.html.j2" %}{% block head %}'
        '<script src="assets/tabulator.min.js" defer></script>'
        '<script src="assets/comparison.data.js" defer></script>'
        '<script src="assets/compare.js" defer></script>{% endblock %}'
        '{% block main %}<select id="pair"></select><input id="search"><input id="significant">'
        '<span id="count"></span><div id="table"></div>{% endblock %}'
    )
    (folder / "index.html").write_text(page.render(root="", subject=HOSTILE[0]))
    return folder / "index.html"


def opened(page: Path) -> str:
    """What Chromium makes of a page, after its scripts have run."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
               "--disable-background-networking", "--virtual-time-budget=4000", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("make", [overview_of, comparison_of])
def test_names_are_text_in_a_browser(make, tmp_path: Path) -> None:
    dom = opened(make(tmp_path))
    assert "tabulator-row" in dom, "its own scripts ran"
    assert "<title>RAN" not in dom
    table = dom[dom.index("tabulator-row") :]
    assert not re.search(r"<(img|svg|iframe|script)[^>]*RAN", table)
    assert table.count("&lt;img src=x onerror=") >= 2


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_script_that_got_into_a_page_does_not_run(tmp_path: Path) -> None:
    page = overview_of(tmp_path)
    html = page.read_text().replace(
        "<h1>", f"<script>{RUNS}</script><img src=x onerror={RUNS}><h1>"
    )
    page.write_text(html)
    assert "<title>RAN" not in opened(page)
    page.write_text(re.sub(r"<meta http-equiv[^>]*>", "", html))
    assert "<title>RAN" in opened(page), "it is the policy that holds it back"


@pytest.mark.parametrize(
    "template", sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("saev/**/*.html.j2"))
)
def test_every_page_has_the_policy(template: str) -> None:
    text = (ROOT / template).read_text()
    if "<head>" in text:
        assert re.search(r"<head>\n.*charset.*\n.*include \"policy.html.j2\"", text)
        assert not re.search(r"<script(?! src=)|\son\w+=", text), "the policy runs nothing inline"
    assert "| safe" not in text.replace("l.histogram | safe", "")


def test_only_pages_with_scripts_may_run_any(tmp_path: Path) -> None:
    (tmp_path / "page.html.j2").write_text('<p>{% include "policy.html.j2" %}')
    alone = fill_template(tmp_path / "page.html.j2", {})
    assert "default-src 'none'" in alone and "script-src" not in alone
    assert "script-src 'self' file:" in overview_of(tmp_path / "site").read_text()


@pytest.mark.parametrize("script", ["saev/atlas/pages/overview.js", "saev/comparison/compare.js"])
def test_no_formatter_gives_the_table_a_name_as_html(script: str) -> None:
    """What a column with a name in it shows is a text node, or Tabulator's own escaped default."""
    columns = re.findall(
        r"field: \"(name\w*|proposer|best_concept)\"(.*)", (ROOT / script).read_text()
    )
    assert len(columns) >= 2
    assert all("formatter" not in rest or "formatter: words(" in rest for _, rest in columns)
