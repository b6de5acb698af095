"""The report in headless Chromium: no error, no network, curves and filters work, a model's text stays text."""

import shutil

import pytest
from run_folders import EVIL, make_run

from trapo_analysis import report

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for alpha in (0.1, 1.0):
        for seed in (0, 1):
            make_run(
                folder / "sweep" / f"alpha={alpha},seed={seed}", alpha=alpha, seed=seed, reward=0.4 + alpha / 10, n=30
            )
    return report.make([folder / "sweep"], folder / "report.html", "trapo report sweep")


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright  # not at the top: `make test` collects this file without it

    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:  # without one of these, the one that playwright has installed
        found = playwright.chromium.launch(executable_path=where, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(params=["light", "dark"])
def page(request, browser, page_file):
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda found: asked.append(found.url))
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("html[data-ready=yes]")
    opened.theme = request.param
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def colors(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_page_follows_the_system_and_its_button(page):
    dark, light = "rgb(15, 18, 22)", "rgb(255, 255, 255)"
    assert colors(page) == (dark if page.theme == "dark" else light)
    page.click("#theme")
    assert colors(page) == (light if page.theme == "dark" else dark)
    line = "document.querySelector('.plot').data[1].line.color"
    back = "document.querySelector('.plot').layout.paper_bgcolor"
    seen = {(page.evaluate(back), page.evaluate(line))}
    page.click("#theme")
    seen.add((page.evaluate(back), page.evaluate(line)))
    assert seen == {("#ffffff", "#0072B2"), ("#0f1216", "#59a3cd")}  # a third lighter where the page is dark
    assert page.locator("h2").all_inner_texts() == [
        "Results",
        "Curves",
        "Figures",
        "Fairness ledger",
        "Rollouts",
        "Settings",
    ]


def test_tables_show_intervals_and_differences(page):
    text = page.locator("#results").inner_text()
    assert "alpha 0.1" in text and "0.410 (" in text and "0.500 (" in text and "base model" in text
    assert "0.410 (0.319 to 0.508)" in text and "0.100 (0.055 to 0.174)" in text  # the base's has an interval too
    assert "Differences to alpha 0.1, paired by seed" in text and "+0.090 (no error: one pair, or equal ones)" in text
    for head in page.locator("#results thead, #ledger thead").all_inner_texts():
        assert "forgetting" in head
    assert "-0.100" in page.locator("#results tbody tr").nth(0).inner_text()  # facts from .9 to .8
    marked = page.locator("#settings tr.differs td:first-child").all_inner_texts()
    assert marked == ["alpha", "seed", "output_dir"]
    assert "alpha 1" in page.locator("#ledger").inner_text()


def visible(page):
    shown = "p => p.data.filter(t => t.visible !== false).map(t => t.legendgroup)"
    return page.evaluate(f"[...document.querySelectorAll('.plot')].map({shown})")


def test_methods_can_be_switched_off_in_all_curves(page):
    before = visible(page)
    assert len(before) == 8 and all(set(groups) == {"alpha 0.1", "alpha 1"} for groups in before)
    page.uncheck("input[data-method='alpha 1']")
    assert all(set(groups) == {"alpha 0.1"} for groups in visible(page))
    page.check("input[data-method='alpha 1']")
    assert visible(page) == before
    boxes = [page.locator(".plot").nth(i).bounding_box() for i in range(8)]
    plots = [page.locator(".plot .main-svg").nth(i).bounding_box() for i in range(2)]
    assert all(plot["width"] <= boxes[0]["width"] + 1 for plot in plots)  # none is larger than its place


def test_figures_can_be_downloaded(page):
    with page.expect_download() as found:
        page.click("a[download='learning.png']")
    assert found.value.path().read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as found:
        page.click("a[download='learning.pdf']")
    assert found.value.path().read_bytes().startswith(b"%PDF")


def found(page):
    page.wait_for_timeout(250)  # a search begins when typing pauses
    return int(page.inner_text("#found").split()[0].replace(",", ""))


def test_the_browser_filters_and_searches(page):
    assert found(page) == 4 * 30 * 8
    page.select_option("#by-status", label="correct")
    assert found(page) == 480
    page.select_option("#by-kind", label="guided")
    assert found(page) == 240  # samples 5 and 7 of 4 to 7
    page.select_option("#by-run", label="alpha=0.1,seed=1")
    assert found(page) == 60
    for name in ("#by-status", "#by-kind", "#by-run"):
        page.select_option(name, "")
    page.select_option("#by-end", label="truncated")
    assert found(page) == 120
    page.select_option("#by-end", "")
    page.fill("#search", "what is 1")
    assert found(page) == 480
    page.fill("#search", "nothing like it")
    assert found(page) == 0 and "No sample is like that." in page.inner_text("#detail")


def test_keys_move_through_the_list(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Escape")
    first = page.inner_text("#detail h3 >> nth=0")
    page.keyboard.press("j")
    assert page.inner_text("#detail h3 >> nth=0") != first
    page.keyboard.press("k")
    assert page.inner_text("#detail h3 >> nth=0") == first
    assert page.locator("#list .row[aria-selected=true]").count() == 1


def test_a_models_text_is_text(page):
    assert EVIL in page.inner_text("#detail p.mono")
    assert page.evaluate("window.evil") is None and page.locator("#detail script, #detail img").count() == 0


def test_tokens_are_coloured_by_whose_they_are_and_shaded_by_probability(page):
    page.select_option("#by-kind", label="guided")
    page.wait_for_timeout(200)
    style = "[...document.querySelectorAll('#tokens span')].map(s => s.getAttribute('style'))"
    styles = page.evaluate(style)
    assert ["expert" in s for s in styles] == [True, True, False, False, False]
    assert ",0.72)" in styles[0] and ",0.12)" in styles[1]  # p = .05 and 1
    assert ",0.12)" in styles[2] and ",0.39)" in styles[3] and ",0.72)" in styles[4]  # 1, .55, 1e-4
    page.select_option("#shade", "w")
    assert ",0.39)" in page.evaluate(style)[0]  # a weight of .5


def test_the_same_prompt_elsewhere_is_a_click_away(page):
    before = page.inner_text("#detail h3 >> nth=0")
    page.click("#detail .same button >> nth=0")
    assert page.inner_text("#detail h3 >> nth=0") != before


def test_nothing_is_wider_than_a_phone(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator("#by-prompt").scroll_into_view_if_needed()
    box = page.locator("#by-prompt").bounding_box()
    assert box["x"] + box["width"] <= 370
