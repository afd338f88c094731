"""The report in Chromium: nothing is fetched or refused, text stays text, and the slider's numbers are the data's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import HOSTILE, make_hostile, make_results, make_unmeasured, with_intervals
from test_report_stream import make_crowd, make_hostile_stream, make_stream, only

from sparkimb.report import render, render_stream
from sparkimb.report.formats import count, decimal

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
Keys = webdriver.Keys

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="Chromium or its driver is missing (Debian: chromium, chromium-driver)"
)

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --force-prefers-reduced-motion"
)
POSITIVES, NEGATIVES = 40, 360
CELLS = ("truePositive", "falsePositive", "falseNegative", "trueNegative")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a report; what the browser logs while it is open is asserted to be clean."""
    page = tmp_path / "report.html"

    def opened(
        results: dict[str, Any], *, width: int = 1200, script: bool = True, media: str = "screen", made: Any = render
    ) -> Any:
        page.write_text(made(results), encoding="utf-8")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media})
        browser.get(page.as_uri())
        return browser

    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield opened
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert {url.split("?")[0] for url in sent if not url.startswith("data:")} == {page.as_uri()}
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def scores() -> tuple[np.ndarray, list[np.ndarray]]:
    """The truth of some test rows, and the scores of three treatments, with ties."""
    rng = np.random.default_rng(5)
    truth = rng.permutation(np.arange(POSITIVES + NEGATIVES) < POSITIVES)
    sharpness = (1.0, 1.4, 0.6)
    raw = [1 / (1 + np.exp(-(rng.normal(size=len(truth)) + 3 * k * (truth - 0.7)))) for k in sharpness]
    return truth, [np.round(score, 3) for score in raw]


@pytest.fixture(scope="module")
def results(scores: tuple[np.ndarray, list[np.ndarray]]) -> dict[str, Any]:
    """The report's results with matrices and threshold curves of the scores."""
    truth, columns = scores
    results = make_results()
    for t, score in zip(results["treatments"], columns, strict=True):
        cuts = np.unique(score)[::-1]
        found, alarms = (np.array([((score >= cut) & kind).sum() for cut in cuts]) for kind in (truth, ~truth))
        t["threshold"] = float(np.quantile(score, 0.9)) + 1e-9  # between two scores, as one chosen on other rows
        t["confusion"] = dict(zip(CELLS, matrix(truth, score, t["threshold"]), strict=True))
        t["curves"]["threshold"] = {
            "threshold": cuts.tolist(),
            "truePositives": found.tolist(),
            "falsePositives": alarms.tolist(),
            "precision": (found / (found + alarms)).tolist(),
            "recall": (found / POSITIVES).tolist(),
            "f1": (2 * found / (found + alarms + POSITIVES)).tolist(),
        }
    return results


def matrix(truth: np.ndarray, score: np.ndarray, threshold: float) -> tuple[int, int, int, int]:
    flagged = score >= threshold
    return tuple(int(np.sum(part)) for part in (flagged & truth, flagged & ~truth, ~flagged & truth, ~flagged & ~truth))


def at(page: Any, name: str) -> Any:
    return page.find_element("id", f"explorer-{name}")


def shown(page: Any, *names: str) -> tuple[str, ...]:
    return tuple(at(page, name).text for name in names)


def threshold(page: Any) -> float:
    """Return the threshold that the slider stands at, as the page holds it."""
    treatments = json.loads(at(page, "data").get_attribute("textContent"))
    found = treatments[int(at(page, "treatment").get_attribute("value"))]["threshold"]
    cut = found[int(at(page, "threshold").get_attribute("value"))]
    return np.inf if cut is None else cut


def assert_follows(page: Any, truth: np.ndarray, score: np.ndarray) -> None:
    tp, fp, fn, tn = matrix(truth, score, threshold(page))
    assert shown(page, "found", "alarms", "missed", "passed") == tuple(map(count, (tp, fp, fn, tn)))
    precision, f1 = tp / max(tp + fp, 1), 2 * tp / (2 * tp + fp + fn)
    numbers = (precision, tp / POSITIVES, f1, tn / NEGATIVES)
    assert shown(page, "precision", "recall", "f1", "specificity") == tuple(map(decimal, numbers))


@pytest.mark.parametrize(("media", "width"), [("screen", 400), ("screen", 1200), ("print", 720)])
@pytest.mark.parametrize("variant", ["measured", "hostile", "unmeasured"])
def test_it_renders_without_complaint_and_fits(
    variant: str, media: str, width: int, results: dict[str, Any], show: Any
) -> None:
    given = with_intervals(results)
    made = {"measured": given, "hostile": make_hostile(given), "unmeasured": make_unmeasured(given)}[variant]
    page = show(made, width=width, media=media)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return innerWidth") == width
    assert len(page.find_elements("css selector", "svg.plot")) == (0 if variant == "unmeasured" else 9)


@pytest.mark.parametrize(("media", "width"), [("screen", 400), ("screen", 1200), ("print", 720)])
@pytest.mark.parametrize("variant", ["drift", "hostile crowd", "nothing"])
def test_the_page_of_a_stream_renders_without_complaint_and_fits(
    variant: str, media: str, width: int, show: Any
) -> None:
    stream = make_stream(60, drift=30)
    hostile = make_hostile_stream(make_crowd(stream))
    given = {"drift": stream, "hostile crowd": hostile, "nothing": only(stream)}[variant]
    page = show(given, width=width, media=media, made=render_stream)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script("return innerWidth") == width
    figures = page.find_elements("css selector", "figure")
    assert len(figures) == len(page.find_elements("css selector", "svg.plot"))
    assert len(figures) == {"drift": 11, "hostile crowd": 12, "nothing": 0}[variant]
    assert all(figure.is_displayed() for figure in figures)


def test_the_keys_move_the_slider_and_the_matrix_follows_the_data(
    results: dict[str, Any], scores: tuple[np.ndarray, list[np.ndarray]], show: Any
) -> None:
    truth, columns = scores
    page = show(results)
    seen = set()
    for i, treatment in enumerate(results["treatments"]):
        at(page, "treatment").send_keys(treatment["name"])
        assert float(at(page, "exact").text.removeprefix("exactly ")) == threshold(page) == treatment["threshold"]
        for keys in ([], [Keys.ARROW_RIGHT], [Keys.ARROW_LEFT] * 9, [Keys.PAGE_UP], [Keys.HOME], [Keys.END]):
            at(page, "threshold").send_keys(*keys)
            assert_follows(page, truth, columns[i])
            seen.add((i, threshold(page)))
        assert shown(page, "at", "exact") == ("above every score", "")
        at(page, "reset").send_keys(Keys.ENTER)
        assert threshold(page) == treatment["threshold"]
        assert at(page, "threshold").get_attribute("aria-valuetext").startswith(decimal(treatment["threshold"]))
    assert len(seen) == 18


def test_every_control_has_a_name_and_its_key_stop(results: dict[str, Any], show: Any) -> None:
    page = show(results)
    controls = page.find_elements("css selector", "#explorer :is(input, select, button)")
    assert len(controls) == 5 + len(results["treatments"])
    for control in controls:
        assert control.accessible_name
        page.execute_script("arguments[0].focus()", control)
        assert page.switch_to.active_element == control


def test_the_untouched_data_are_compared_at_the_same_recall(
    results: dict[str, Any], scores: tuple[np.ndarray, list[np.ndarray]], show: Any
) -> None:
    truth, columns = scores
    page = show(results)
    assert at(page, "same").text == ""
    at(page, "treatment").send_keys("copies")
    found = int(at(page, "found").text)
    cut = np.sort(columns[0][truth])[::-1][found - 1]  # the highest threshold that finds so many
    _, alarms, *_ = matrix(truth, columns[0], cut)
    said = at(page, "same").text
    assert said.endswith(f" {decimal(cut)}. False alarms there: {alarms}; here: {at(page, 'alarms').text}.")


@pytest.mark.parametrize("costs", [(1, 10), (2.5, 0.5), (0, 1), (3, 0)])
def test_the_lowest_cost_is_that_of_all_thresholds(
    costs: tuple[float, float], results: dict[str, Any], scores: tuple[np.ndarray, list[np.ndarray]], show: Any
) -> None:
    truth, columns = scores
    page = show(results)
    for name, cost in zip(("alarm-cost", "miss-cost"), costs, strict=True):
        at(page, name).clear()
        at(page, name).send_keys(str(cost))

    def cost_at(i: int, cut: float) -> float:
        _, alarms, missed, _ = matrix(truth, columns[i], cut)
        return costs[0] * alarms + costs[1] * missed

    lowest = [min(cost_at(i, cut) for cut in [*np.unique(s), np.inf]) for i, s in enumerate(columns)]
    for i, treatment in enumerate(results["treatments"]):
        row = at(page, f"best-{i}")
        cells = [cell.text for cell in row.find_elements("tag name", "td")]
        star = "★ " if lowest[i] == min(lowest) else ""
        plain = [f"{x:,.1f}".removesuffix(".0") for x in (cost_at(i, treatment["threshold"]), lowest[i])]
        assert cells[:2] == [plain[0], star + plain[1]]
        row.find_element("tag name", "button").click()
        assert at(page, "treatment").get_attribute("value") == str(i)
        assert cost_at(i, threshold(page)) == lowest[i]
        assert at(page, "cost").text == plain[1]


def test_costs_that_are_no_costs_are_not_counted(results: dict[str, Any], show: Any) -> None:
    page = show(results)
    at(page, "miss-cost").clear()
    at(page, "miss-cost").send_keys("-4")
    assert at(page, "cost").text == "–"  # noqa: RUF001
    assert not page.find_element("css selector", "#explorer-best-0 button").is_enabled()


def test_without_scripts_the_chosen_threshold_is_shown(
    results: dict[str, Any], scores: tuple[np.ndarray, list[np.ndarray]], show: Any
) -> None:
    page = show(results, script=False)
    assert "needs JavaScript" in page.find_element("id", "explorer").text
    assert not any(c.is_displayed() for c in page.find_elements("css selector", "#explorer :is(input, select, button)"))
    expected = matrix(scores[0], scores[1][0], results["treatments"][0]["threshold"])
    assert shown(page, "found", "alarms", "missed", "passed") == tuple(map(count, expected))


def test_hostile_text_is_text_in_the_explorer_too(results: dict[str, Any], show: Any) -> None:
    page = show(make_hostile(results))
    assert len(page.find_elements("css selector", "script")) == 2
    names = [option.text for option in page.find_elements("css selector", "#explorer option")]
    assert [name.split(HOSTILE[:18])[0] for name in names] == [t["name"] for t in results["treatments"]]
    page.find_element("css selector", "#explorer option:last-child").click()
    assert HOSTILE[:18] in page.find_element("css selector", "#explorer-best-2 th").text
