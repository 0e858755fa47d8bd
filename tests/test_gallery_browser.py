"""The page to browse, in a real browser: what it shows, and what happens when it is used."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import record_factory as make
from PIL import Image

from sae_analysis import gallery
from sae_analysis.comparison import compare
from sae_analysis.gallery import write_gallery

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1400,900",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Return headless Chromium with nothing remembered."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver on the PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def page(browser, tmp_path):
    """Open the page of a run of three features, of which the search never fired the second."""
    pairs = [make.comparison_pair(), make.comparison_pair(synthetic_is_dead=True), make.comparison_pair(potential=20.0)]
    real, synthetic = make.results_of(pairs)
    comparison = compare(real, synthetic)
    names = [f"feature_{index}_{kind}" for index in range(3) for kind in ("comparison", "real", "synthetic")]
    for name in ("real_vs_synthetic_comparison", "statistics_real", *names):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    browser.get(write_gallery(tmp_path, [real, synthetic, comparison]).as_uri())
    return browser, comparison


def rows(browser):
    return [row.get_attribute("data-feature") for row in browser.find_elements("css selector", "#rows tr")]


def pictures(browser):
    """Return the names of the pictures shown; each must have been loaded."""
    script = "return Promise.all([...document.querySelectorAll('#pages img')].map(i => i.decode().then(() => i.alt)))"
    return browser.execute_script(script)


def click(browser, text):
    browser.find_element("xpath", f"//button[text()='{text}']").click()


def look_for(browser, words):
    box = browser.find_element("id", "search")
    box.clear()
    box.send_keys(words)


def test_it_opens_on_the_overview_without_a_word_of_complaint(page):
    browser, _ = page
    assert rows(browser) == ["0", "1", "2"]
    assert pictures(browser) == ["real_vs_synthetic_comparison.png"]
    assert browser.find_element("id", "count").text == "3 of 3 features"
    assert browser.get_log("browser") == []


def test_it_says_how_many_features_are_drawn_where_not_all_are(browser, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "feature_1_real.png")
    result = make.result([make.stats(index) for index in range(3)])
    browser.get(write_gallery(tmp_path, [result]).as_uri())
    assert browser.find_element("id", "count").text == "3 of 3 features, 1 of them drawn"


def test_it_opens_on_a_feature_that_is_drawn_and_says_what_is_missing_of_others(browser, tmp_path):
    """As after ``redraw --features 1``."""
    Image.new("RGB", (40, 30)).save(tmp_path / "feature_1_real.png")
    result = make.result([make.stats(index) for index in range(3)])
    address = write_gallery(tmp_path, [result]).as_uri()
    browser.get(address)
    assert pictures(browser) == ["feature_1_real.png"]
    browser.find_element("css selector", "#rows tr[data-feature='2']").click()
    said = "Feature 2 has no PNG page in this folder: redraw --features 2 makes one."
    assert (pictures(browser), browser.find_element("id", "pages").text) == ([], said)
    browser.refresh()
    assert browser.find_element("id", "pages").text == said
    (tmp_path / "feature_1_real.png").unlink()
    browser.get("about:blank")
    browser.get(write_gallery(tmp_path, [result]).as_uri())
    assert browser.find_element("id", "pages").text == said.replace("2", "0")


@pytest.mark.parametrize(("after", "shown"), [("x" * 60, "x" * 48 + "…"), ("x" * 47, "x" * 47), ("😀" * 30, "😀" * 30)])
def test_an_example_that_was_cut_at_its_end_says_so(browser, tmp_path, after, shown):
    stats = make.stats(0)
    best = replace(
        make.stats(0).examples[0], tokens=("before", "peak", after), token_ids=(1, 2, 3), activations=(0.0, 9.0, 0.0),
        max_activation=9.0, peak_position=1,
    )  # fmt: skip
    browser.get(write_gallery(tmp_path, [make.result([replace(stats, examples=(best,))])]).as_uri())
    assert browser.find_element("css selector", "#rows .example").text.endswith(f"peak{shown}")


def test_it_asks_for_nothing_but_its_pictures(page):
    browser, _ = page
    pictures(browser)
    named = "return [...document.querySelectorAll('[src], [href]')].map(one => one.src || one.href)"
    asked = browser.execute_script(named)
    assert asked
    assert all(name.startswith("file:///") and name.endswith(".png") for name in asked)
    assert "://" not in Path(gallery.__file__).with_name("page.html").read_text()


def test_columns_sort_both_ways_and_what_is_missing_stays_last(page):
    browser, comparison = page
    realised = {one.feature_idx: one.realised for one in comparison.features}
    assert realised[1] is None
    assert realised[2] < realised[0]
    head = browser.find_element("css selector", "th[data-name=realised]")
    click(browser, "realised")
    assert (rows(browser), head.get_attribute("aria-sort")) == (["0", "2", "1"], "descending")
    click(browser, "realised")
    assert (rows(browser), head.get_attribute("aria-sort")) == (["2", "0", "1"], "ascending")


def test_numbers_of_a_column_have_the_same_digits(browser, tmp_path):
    real, synthetic = make.results_of([make.comparison_pair()])
    result = compare(real, synthetic)
    values = {0.0: "0", 3.7: "3.70", 3.712: "3.71", 0.0712: "0.0712", 12345.0: "12,300"}
    features = [
        replace(result.features[0], feature_idx=at, real_max=value, realised=value) for at, value in enumerate(values)
    ]
    browser.get(write_gallery(tmp_path, [replace(result, features=tuple(features))]).as_uri())
    seen = [
        [cell.text for cell in row.find_elements("css selector", "td")]
        for row in browser.find_elements("css selector", "#rows tr")
    ]
    assert [row[1] for row in seen] == [*values.values()]
    assert [row[3] for row in seen] == ["0 %", "370 %", "371 %", "7.12 %", "1,230,000 %"]


def test_search_finds_numbers_tokens_and_verdicts(page):
    browser, comparison = page
    look_for(browser, "2")
    assert rows(browser) == ["2"]
    look_for(browser, "search failed")
    assert rows(browser) == ["1"]
    assert browser.find_element("id", "count").text == "1 of 3 features"
    look_for(browser, "no such word")
    assert rows(browser) == []
    look_for(browser, "")
    verdict = next(one.verdict_in_words for one in comparison.features if one.feature_idx == 2)
    browser.find_element("xpath", f"//option[text()='{verdict}']").click()
    assert rows(browser) == [str(one.feature_idx) for one in comparison.features if one.verdict_in_words == verdict]


def test_a_row_shows_its_pictures_and_a_link_to_it_comes_back(page):
    browser, _ = page
    browser.find_element("css selector", "#rows tr[data-feature='1']").click()
    expected = [f"feature_1_{kind}.png" for kind in ("comparison", "real", "synthetic")]
    assert pictures(browser) == expected
    assert browser.current_url.endswith("#1")
    browser.refresh()
    assert pictures(browser) == expected
    chosen = browser.find_elements("css selector", "#rows tr[aria-selected=true]")
    assert [row.get_attribute("data-feature") for row in chosen] == ["1"]
    browser.find_element("css selector", "#rows tr[data-feature='2']").send_keys("\ue007")  # Enter
    assert pictures(browser)[0] == "feature_2_comparison.png"
    click(browser, "the dictionary")
    assert pictures(browser) == ["statistics_real.png"]


@pytest.mark.parametrize("width", [1600, 1280, 1000])
def test_every_column_is_seen_whole_and_beside_nothing_else(browser, tmp_path, width):
    pairs = [make.comparison_pair(), make.comparison_pair(synthetic_is_dead=True), make.comparison_pair(potential=20.0)]
    real, synthetic = make.results_of(pairs)
    first, *others = real.features
    best = first.examples[0]
    tokens = ("unbroken" * 20, *best.tokens[1:])
    real = replace(real, features=(replace(first, examples=(replace(best, tokens=tokens),)), *others))
    Image.new("RGB", (2000, 2000)).save(tmp_path / "statistics_real.png")
    browser.set_window_size(width, 900)
    browser.get(write_gallery(tmp_path, [real, synthetic, compare(real, synthetic)]).as_uri())
    pictures(browser)
    page, table, shown = (browser.find_element("css selector", name) for name in ("main", ".table", "#pages"))
    for cell in browser.find_elements("css selector", "th, td"):
        assert cell.rect["x"] + cell.rect["width"] <= table.rect["x"] + table.rect["width"] + 0.5, cell.text
    beside = table.rect["x"] + table.rect["width"] <= shown.rect["x"]
    assert beside or table.rect["y"] + table.rect["height"] <= shown.rect["y"]
    assert shown.rect["x"] + shown.rect["width"] <= page.rect["x"] + page.rect["width"]
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(
    "token", ["</script><script>document.title='owned'</script>", "<img src=x onerror=document.title='owned'>", "&amp;"]
)
def test_a_token_is_text_and_never_markup(browser, tmp_path, token):
    stats = make.stats(0)
    best = stats.examples[0]
    tokens = tuple(token if at == best.peak_position else one for at, one in enumerate(best.tokens))
    hostile = replace(stats, examples=(replace(best, tokens=tokens), *stats.examples[1:]))
    browser.get(write_gallery(tmp_path, [make.result([hostile])]).as_uri())
    assert browser.find_element("css selector", "#rows mark").text == token
    assert browser.title == "SAE features"
