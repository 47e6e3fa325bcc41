"""The report in a real browser: it opens, sorts, filters, compares two cells and exports, and nothing of data runs."""

import json
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from page_cases import EVIL, FOUR_BYTES, HEBREW, LONG, report_of, study, write_cells, write_data

pytest.importorskip("selenium")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

SECONDS = 20
READY = "const set = document.documentElement.dataset; return Boolean(set.tables && (set.explorer || arguments[0]))"


class Page:
    """The report as a person uses it."""

    def __init__(self, driver: Any, path: Path, without_explorer: bool = False) -> None:
        self.driver = driver
        start = time.monotonic()
        driver.get(path.as_uri())
        self.until(lambda: driver.execute_script(READY, without_explorer))
        self.seconds = time.monotonic() - start

    def until(self, holds: Any) -> Any:
        return WebDriverWait(self.driver, SECONDS, poll_frequency=0.02).until(lambda _: holds())

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.get_attribute("textContent") for element in self.all(selector)]

    def choose(self, name: str, value: str) -> None:
        """A value of one of the explorer's lists, by its text."""
        choice = Select(self.one(f"#explorer-{name}"))
        if choice.first_selected_option.text != value:
            self.changing(lambda: choice.select_by_visible_text(value))

    def changing(self, act: Any) -> None:
        """Do something and wait until the explorer lists what follows from it."""
        before = self.turn()
        act()
        self.until(lambda: self.turn() > before)

    def open_question(self, number: int) -> None:
        """By script: the heading of the page may lie above the row."""
        self.driver.execute_script("arguments[0].click()", self.one(f"#listing tbody tr[data-question='{number}']"))

    def turn(self) -> int:
        return int(self.driver.execute_script("return document.documentElement.dataset.explorer || 0"))

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    config = study(folder)
    write_data(config)
    write_cells(config)
    return report_of(config)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(browser_of: Any, downloads: Path) -> Any:
    return browser_of(downloads=downloads)


@pytest.fixture
def page(driver: Any, report: Path) -> Page:
    return Page(driver, report)


def test_it_opens_without_errors_and_nothing_of_data_runs(page: Page) -> None:
    assert page.driver.title == "pages"
    assert page.errors() == []
    sections = [section.get_attribute("id") for section in page.all("main > section")]
    assert sections == ["verdicts", "tables", "figures", "diagnosis", "cost", "explorer", "provenance"]
    assert page.all("img") == []
    assert any(LONG in text for text in page.texts("#tables td.label"))
    assert "gpt-b/lora/nq/two/seed0" in page.one("#tables").get_attribute("textContent"), "what is missing is said"


def test_verdicts_come_first_and_lead_to_cells(page: Page) -> None:
    verdicts = {text[2:] for text in page.texts("#claims .badge")}
    assert verdicts <= {"supported", "contradicted", "undecided", "not testable here"}
    assert len(page.all("#claims tbody tr")) == 9
    page.driver.execute_script("document.querySelectorAll('#claims details').forEach((one) => { one.open = true; })")
    name = page.texts("#claims details button")[0]
    page.changing(lambda: page.driver.execute_script("arguments[0].click()", page.all("#claims details button")[0]))
    assert Select(page.one("#explorer-dataset")).first_selected_option.text == name.split("/")[2]


def test_tables_sort_filter_hide_columns_and_export(page: Page, downloads: Path) -> None:
    table = page.one("#tables .table")
    rows = lambda: [row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody tr")]  # noqa: E731
    in_order, heads = rows(), table.find_elements(By.CSS_SELECTOR, "thead th")
    assert len(in_order) == 12
    score = next(head for head in heads if "quality" in head.text)
    at = heads.index(score)
    score.click()
    column = [
        cell.get_attribute("data-order")
        for cell in table.find_elements(By.CSS_SELECTOR, f"tbody td:nth-child({at + 1})")
    ]
    assert [float(value) for value in column] == sorted(
        map(float, column), reverse=float(column[0]) > float(column[-1])
    )
    search = table.find_element(By.CSS_SELECTOR, "input[type=search]")
    search.send_keys("zeroshot")
    page.until(lambda: len(rows()) == 4)
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys(Keys.DELETE)
    page.until(lambda: len(rows()) == 12)
    buttons = {button.text.strip(): button for button in table.find_elements(By.CSS_SELECTOR, ".dt-buttons button")}
    buttons["CSV"].click()
    page.until(lambda: list(downloads.glob("scores-by-model-and-method*.csv")))
    assert len(next(downloads.glob("scores*.csv")).read_text(encoding="utf-8").splitlines()) >= 13
    next(button for name, button in buttons.items() if name.startswith("Columns")).click()
    page.until(lambda: page.all(".dt-button-collection button"))[0].click()
    page.until(lambda: len(table.find_elements(By.CSS_SELECTOR, "thead th")) == len(heads) - 1)
    assert page.errors() == []


def test_a_number_leads_to_questions_passages_and_both_answers(page: Page) -> None:
    number = next(one for one in page.all("#tables button.number") if "retro-b/lora/nq" in one.get_attribute("title"))
    page.changing(lambda: page.driver.execute_script("arguments[0].click()", number))
    assert Select(page.one("#explorer-a")).first_selected_option.text == "retro-b, lora, seed 0"
    page.choose("b", "gpt-a, zeroshot, seed 0")
    assert len(page.all("#listing tbody tr")) == 12
    assert page.texts("#listing td.label")[:2] == [EVIL, HEBREW]
    page.open_question(1)
    page.until(lambda: HEBREW in (page.texts("#explorer-detail h3") or [""])[0])
    assert page.texts("#explorer-detail mark").count("Right  1") == 1, "the passage's, in other case and spacing"
    tags = page.texts("#explorer-detail .passage .tag")
    assert {"A: prompt", "A: encoder", "B: prompt"} <= set(tags)
    assert len(page.all("#explorer-detail .answer")) == 2
    assert any("Question:" in text for text in page.texts("#explorer-detail details"))
    page.open_question(4)
    page.until(lambda: "3 tokens of passages cut" in page.texts("#explorer-detail .tag"))
    assert page.driver.title == "pages"
    assert page.errors() == []


def test_questions_are_found_by_score_disagreement_and_text(page: Page, downloads: Path) -> None:
    page.choose("dataset", "quality")
    page.choose("a", "gpt-a, zeroshot, seed 0")
    page.choose("b", "retro-b, lora, seed 0")
    counts = {}
    for name in (
        "all questions",
        "A better than B",
        "B better than A",
        "A and B score differently",
        "both wrong",
        "both right",
    ):
        page.choose("filter", name)
        counts[name] = len(page.all("#listing tbody tr"))
    assert counts["all questions"] == 12
    assert counts["A better than B"] + counts["B better than A"] == counts["A and B score differently"] > 0
    assert counts["A and B score differently"] + counts["both wrong"] + counts["both right"] == 12
    page.choose("filter", "all questions")
    page.changing(lambda: page.one("#explorer-search").send_keys(FOUR_BYTES))
    assert page.texts("#listing td.label") == [f"Who is {FOUR_BYTES}?"]
    page.one("#explorer-csv").click()
    page.until(lambda: list(downloads.glob("answers*.csv")))
    assert FOUR_BYTES in next(downloads.glob("answers*.csv")).read_text(encoding="utf-8")
    page.changing(lambda: page.one("#explorer-search").send_keys("nobody asks this"))
    assert page.all("#listing tbody tr") == []
    assert page.one("#explorer-summary").text.startswith("0 of 12 questions")


def test_figures_are_drawn_when_they_come_into_view(page: Page) -> None:
    frames = page.all(".figure")
    assert len(frames) >= 5
    for frame in frames:
        page.driver.execute_script("arguments[0].scrollIntoView()", frame)
        page.until(lambda shown=frame: shown.get_attribute("data-drawn"))
    assert page.all(".figure details summary"), "a menu saves each figure"
    assert page.errors() == []
    for width in (1300, 500):
        page.driver.set_window_size(width, 900)
        wide = page.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, "figures and tables scroll, and not the page"
    page.driver.set_window_size(1300, 900)


def test_a_browser_that_cannot_open_texts_says_so(browser_of: Any, report: Path) -> None:
    driver = browser_of()
    source = {"source": "delete window.DecompressionStream"}
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
    page = Page(driver, report, without_explorer=True)
    assert "no DecompressionStream" in page.one("#explorer .warning").text
    assert page.all("#tables table"), "the rest of the page is there"
    assert page.errors() == []


def test_studies_with_nothing_and_with_one_cell(browser_of: Any, tmp_path: Path) -> None:
    config = study(tmp_path)
    write_data(config)
    page = Page(browser_of(), report_of(config), without_explorer=True)
    assert "No cell of this study has answers yet" in page.one("#explorer").text
    assert page.errors() == []
    write_cells(config, lambda cell, example, _: example.answers[0] if cell.name == "gpt-a/lora/nq/two/seed0" else None)
    page = Page(page.driver, report_of(config))
    assert Select(page.one("#explorer-a")).first_selected_option.text == "lora, seed 0"
    assert page.errors() == []


def test_a_hundred_thousand_predictions(browser_of: Any, tmp_path: Path) -> None:
    """24 cells of 4,500 questions: 108,000 predictions, of which the page holds 100,000 at most."""
    questions = 4500
    config = study(tmp_path)
    write_data(config, questions)
    write_cells(config, questions=questions)
    path = report_of(config)
    page = Page(browser_of(), path)
    index = json.loads(page.driver.execute_script("return document.getElementById('explorer-index').textContent"))
    held = sum(index["datasets"][cell["dataset"]]["questions"] for cell in index["cells"])
    assert 95_000 < held <= 100_000
    assert f"The explorer holds {held:,}" in page.one("#explorer").text
    processes = psutil.Process(page.driver.service.process.pid).children(recursive=True)
    renderers = [process for process in processes if "--type=renderer" in process.cmdline()]
    resident = max(renderer.memory_info().rss for renderer in renderers)
    measured = f"{path.stat().st_size / 1e6:.1f} MB, ready in {page.seconds:.2f} s, renderer {resident / 1e6:.0f} MB"
    assert path.stat().st_size < 25e6, measured
    assert resident < 500e6, measured
    # other tests run beside this one: the best of three
    assert min([page.seconds, *(Page(page.driver, path).seconds for _ in range(2))]) < 3, measured
