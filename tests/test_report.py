"""The report: a whole, safe, self-contained page whose words and numbers are those of the results."""

from __future__ import annotations

import copy
import json
import math
import re
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from sklearn import metrics as skm
from sklearn.calibration import calibration_curve
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression

from sparkimb.errors import SparkimbError
from sparkimb.report import plots, render
from sparkimb.report.drawing import DASHES, style_of
from sparkimb.report.explorer import CELLS, explorer
from sparkimb.report.formats import MISSING, decimal, percent, printable, short, signed, span
from sparkimb.report.metrics import GROUPS
from sparkimb.report.page import MAX_CLASSES, Scale, share_segments, shown_classes
from sparkimb.report.summary import noise_yardstick, summarise

VOID = {"meta", "link", "br", "hr", "img", "input", "path", "rect", "use", "circle", "line"}
HOSTILE = (
    "<script>alert('x')</script>\"'&amp; $\\frac{1}{0}$ \u202e\u05e9\u05dc\u05d5\u05dd 世界 🦓\x00\ud800 " + "w" * 400
)


def scored(name: str, steps: list[str], train: Any, valid: Any, test: Any, weights: Any = None) -> dict[str, Any]:
    """Train on `train`, choose the threshold of best F1 on `valid`, measure on `test`."""
    model = LogisticRegression(max_iter=1000).fit(*train, sample_weight=weights)
    precision, recall, cuts = skm.precision_recall_curve(valid[1], model.predict_proba(valid[0])[:, 1])
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    threshold = float(cuts[np.argmax(f1[:-1])])
    y, score = test[1], model.predict_proba(test[0])[:, 1]
    flagged = score >= threshold
    tn, fp, fn, tp = (int(n) for n in skm.confusion_matrix(y, flagged).ravel())
    precision, recall, cuts = skm.precision_recall_curve(y, score)
    fpr, tpr, _ = skm.roc_curve(y, score)
    observed, predicted = calibration_curve(y, score, n_bins=10)
    bins = Counter(np.minimum((score * 10).astype(int), 9).tolist())
    truePositives, falsePositives = (
        np.array([((score >= cut) & (y == kind)).sum() for cut in cuts]).tolist() for kind in (1, 0)
    )
    mean = np.ones(len(train[1])) if weights is None else weights
    n = {str(k): int((train[1] == k).sum()) for k in (0, 1)}
    mass = {str(k): float(mean[train[1] == k].sum()) for k in (0, 1)}
    recall_at, specificity = tp / (tp + fn), tn / (tn + fp)
    return {
        "name": name,
        "steps": steps,
        "rows": n,
        **({} if weights is None else {"weights": {k: mass[k] / n[k] for k in n}}),
        "priorsBefore": {"0": 0.97, "1": 0.03},
        "priorsAfter": {k: mass[k] / sum(mass.values()) for k in n},
        "seconds": 1.25,
        "threshold": threshold,
        "objective": "f1",
        "metrics": {
            "averagePrecision": float(skm.average_precision_score(y, score)),
            "areaUnderPR": float(skm.auc(recall, precision)),
            "areaUnderROC": float(skm.roc_auc_score(y, score)),
            "precision": tp / max(tp + fp, 1),
            "recall": recall_at,
            "f1": float(skm.f1_score(y, flagged)),
            "specificity": specificity,
            "gMean": math.sqrt(recall_at * specificity),
            "balancedAccuracy": (recall_at + specificity) / 2,
            "mcc": float(skm.matthews_corrcoef(y, flagged)),
            "brier": float(np.mean((score - y) ** 2)),
            "expectedCalibrationError": float(
                np.average(abs(observed - predicted), weights=[bins[b] for b in sorted(bins)])
            ),
        },
        "confusion": {"truePositive": tp, "falsePositive": fp, "falseNegative": fn, "trueNegative": tn},
        "curves": {
            "pr": {"recall": recall.tolist(), "precision": precision.tolist()},
            "roc": {"falsePositiveRate": fpr.tolist(), "truePositiveRate": tpr.tolist()},
            "calibration": {
                "predicted": predicted.tolist(),
                "observed": observed.tolist(),
                "rows": [bins[b] for b in sorted(bins)],
            },
            "threshold": {
                "threshold": cuts.tolist(),
                "precision": precision[:-1].tolist(),
                "recall": recall[:-1].tolist(),
                "f1": (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1].tolist(),
                "truePositives": truePositives,
                "falsePositives": falsePositives,
            },
        },
    }


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return make_results()


def make_results() -> dict[str, Any]:
    """A rare class, and three treatments of it."""
    x, y = make_classification(
        12_000, n_features=8, n_informative=5, weights=[0.975], flip_y=0.004, class_sep=1.1, random_state=3
    )
    train, valid, test = ((x[a:b], y[a:b]) for a, b in ((0, 7000), (7000, 9000), (9000, 12_000)))
    rare = np.flatnonzero(train[1] == 1)
    copies = np.random.default_rng(0).choice(rare, int((train[1] == 0).sum()) - len(rare))
    grown = (np.vstack([train[0], train[0][copies]]), np.append(train[1], train[1][copies]))
    shares = np.bincount(train[1]) / len(train[1])
    return {
        "name": "card-fraud",
        "created": "2026-03-14T09:26:53+00:00",
        "seconds": 41.7,
        "versions": {"sparkimb": "0.1.0", "pyspark": "4.0.1", "python": "3.11.7"},
        "seed": 7,
        "command": "sparkimb balance conf/balance/card_fraud.yaml --output out/card-fraud",
        "config": "name: card-fraud\nseed: 7\ntreatments:\n  - natural\n  - name: copies\n",
        "learner": "logistic regression",
        "data": {
            "source": "data/card_fraud.parquet",
            "rows": len(y),
            "label": "is_fraud",
            "positive": "1",
            "numeric": [f"v{i}" for i in range(8)],
            "categorical": [],
            "id": ["transaction"],
        },
        "profile": {
            "rows": len(y),
            "imbalanceRatio": float((y == 0).sum() / (y == 1).sum()),
            "entropy": float(-(shares * np.log2(shares)).sum()),
            "entropyRatio": float(-(shares * np.log2(shares)).sum()),
            "duplicateRows": 12,
            "duplicateShare": 0.001,
            "classes": [
                {
                    "label": str(k),
                    "rows": int((y == k).sum()),
                    "share": float((y == k).mean()),
                    "effectiveNumber": (1 - 0.9999 ** int((y == k).sum())) / 0.0001,
                }
                for k in (0, 1)
            ],
            "nulls": {"v0": 17, "v1": 0},
        },
        "split": {
            part: {str(k): int((labels == k).sum()) for k in (0, 1)}
            for part, (_, labels) in (("train", train), ("validation", valid), ("test", test))
        },
        "treatments": [
            scored("natural", [], train, valid, test),
            scored("copies", ["RandomOverSampler(samplingStrategy='auto', seed=7)"], grown, valid, test),
            scored("class weights", ["ClassWeigher(scheme='balanced')"], train, valid, test, 0.5 / shares[train[1]]),
        ],
    }


def make_unmeasured(results: dict[str, Any]) -> dict[str, Any]:
    """The same run without a learner."""
    bare = copy.deepcopy(results)
    del bare["learner"]
    for treatment in bare["treatments"]:
        for key in ("threshold", "objective", "metrics", "intervals", "confusion", "curves", "weights"):
            treatment.pop(key, None)
    return bare


def make_hostile(results: dict[str, Any]) -> dict[str, Any]:
    """The same run, with a hostile text wherever the results may hold foreign text."""
    bad = copy.deepcopy(results)
    one = {"0": "0" + HOSTILE, "1": "1" + HOSTILE}

    def renamed(by_label: dict[str, Any]) -> dict[str, Any]:
        return {one[k]: v for k, v in by_label.items()}

    for key in ("name", "command", "config", "created", "learner"):
        bad[key] = key + HOSTILE
    bad["versions"] = {HOSTILE: HOSTILE, **dict.fromkeys(bad["versions"], HOSTILE)}
    bad["data"] |= {"source": HOSTILE, "label": HOSTILE, "positive": one["1"]}
    bad["data"] |= {kind: [HOSTILE, HOSTILE] for kind in ("numeric", "categorical", "id")}
    bad["profile"]["nulls"] = {HOSTILE: 3}
    for c in bad["profile"]["classes"]:
        c["label"] = one[c["label"]]
    bad["split"] = {part: renamed(rows) for part, rows in bad["split"].items()}
    for t in bad["treatments"]:
        t |= {"name": t["name"] + HOSTILE, "steps": [HOSTILE, HOSTILE], "objective": HOSTILE}
        t |= {key: renamed(t[key]) for key in ("rows", "weights", "priorsBefore", "priorsAfter") if key in t}
    return bad


def with_intervals(results: dict[str, Any], width: float = 0.1) -> dict[str, Any]:
    """The same run with an interval around every metric."""
    wide = copy.deepcopy(results)
    for t in wide["treatments"]:
        t["intervals"] = {key: [max(v - width, 0.0), min(v + width, 1.0)] for key, v in t["metrics"].items()}
    return wide


def make_many_classes(results: dict[str, Any], n: int) -> dict[str, Any]:
    """The same run with n - 2 classes more."""
    many = copy.deepcopy(results)
    for k in range(2, n):
        label, rows = f"class {k}", 10 * k
        many["profile"]["classes"].append({"label": label, "rows": rows, "share": 0.001, "effectiveNumber": rows - 0.5})
        for t in many["treatments"]:
            t["rows"][label] = rows
    return many


class Page(HTMLParser):
    """Checks that tags nest, and collects text, ids, attributes and tags."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids.update(value or "" for name, value in attrs if name == "id")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


@pytest.fixture(scope="module")
def html(measured: dict[str, Any]) -> str:
    return render(measured)


VARIANTS = {
    "measured": lambda r: r,
    "unmeasured": make_unmeasured,
    "hostile": make_hostile,
    "many classes": lambda r: make_many_classes(r, 45),
    "natural alone": lambda r: {**r, "treatments": r["treatments"][:1]},
    "intervals": with_intervals,
    "from JSON": lambda r: json.loads(json.dumps(r)),
}


@pytest.fixture(scope="module", params=VARIANTS)
def page(request: pytest.FixtureRequest, measured: dict[str, Any]) -> Page:
    return Page(render(VARIANTS[request.param](measured)))


class TestEveryPage:
    """What holds for every page, whatever the results."""

    def test_is_a_whole_document(self, page: Page) -> None:
        assert page.html.startswith("<!DOCTYPE html>")
        assert all(page.tags[tag] == 1 for tag in ("html", "head", "title", "body", "main", "h1"))
        assert {name: value for tag, name, value in page.attributes if tag == "html"}["lang"] == "en"

    def test_ids_are_unique_and_references_resolve(self, page: Page) -> None:
        assert max(page.ids.values()) == 1
        wanted = set(re.findall(r"url\(#([^)]+)\)", page.html))
        wanted |= {v[1:] for _, name, v in page.attributes if name == "href" and v.startswith("#")}
        wanted |= {v for _, name, v in page.attributes if name == "aria-labelledby"}
        assert wanted <= set(page.ids)

    def test_runs_its_own_script_alone(self, page: Page) -> None:
        policy = next(
            v for tag, name, v in page.attributes if (tag, name) == ("meta", "content") and "default-src" in v
        )
        scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page.html, flags=re.DOTALL)
        assert [attributes for attributes, _ in scripts] in ([], [' type="application/json" id="explorer-data"', ""])
        hashes = re.findall(r"script-src '(sha256-[^']+)';", policy)
        assert hashes == ["sha256-" + b64encode(sha256(text.encode()).digest()).decode() for _, text in scripts[1:]]
        assert "default-src 'none'" in policy
        for _, text in scripts[:1]:
            assert not re.search("[A-Za-z]", re.sub('"[a-zA-Z]+":|null|e-', "", text)), "numbers alone"

    def test_loads_nothing(self, page: Page) -> None:
        assert "http://" not in page.html
        assert "https://" not in page.html
        assert not {"img", "iframe", "object", "embed", "foreignobject"} & set(page.tags)
        targets = [v for _, name, v in page.attributes if name in ("href", "src", "srcset", "xlink:href", "action")]
        assert all(v.startswith("#") or v == "data:," for v in targets)
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]
        assert not re.search(r"@import|url\((?!#)", page.html)

    def test_plots_are_well_formed_and_described(self, page: Page) -> None:
        svgs = re.findall(r"<svg.*?</svg>", page.html, flags=re.DOTALL)
        for svg in svgs:
            assert ElementTree.fromstring(svg).get("aria-hidden") == "true"
        described = [v for tag, name, v in page.attributes if (tag, name) == ("div", "aria-label")]
        assert len(described) >= page.html.count('<svg class="plot"')

    def test_is_small_and_utf8(self, page: Page) -> None:
        assert len(page.html.encode("utf-8")) < 1_500_000
        assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", page.html)


def test_same_results_give_the_same_page(measured: dict[str, Any], html: str) -> None:
    assert render(copy.deepcopy(measured)) == html


def test_results_are_left_alone(measured: dict[str, Any]) -> None:
    before = json.dumps(measured)
    render(measured)
    assert json.dumps(measured) == before


def test_hostile_text_is_shown_as_text(measured: dict[str, Any]) -> None:
    page = Page(render(make_hostile(measured)))
    start = HOSTILE[:18]
    # title, h1, source, label, positive, every treatment, step, column, version … : far more than a dozen places
    assert page.text.count(start) > 40
    assert any(start in v for _, name, v in page.attributes if name == "title")
    assert "世界 🦓\ufffd\ufffd" in page.text  # whole in the command and the configuration


def test_no_foreign_text_reaches_the_plots(measured: dict[str, Any]) -> None:
    for plain, bad in zip(measured["treatments"], make_hostile(measured)["treatments"], strict=True):
        assert plots.calibration_curve(plain, series=1) == plots.calibration_curve(bad, series=1)
        assert plots.threshold_curves(plain, series=1) == plots.threshold_curves(bad, series=1)
    both = (measured["treatments"], make_hostile(measured)["treatments"])
    assert len({plots.pr_curves(t, prevalence=0.03) for t in both}) == 1
    assert len({plots.roc_curves(t) for t in both}) == 1
    assert len({plots.calibration_curves(t) for t in both}) == 1


def test_numbers_are_those_of_the_results(measured: dict[str, Any], html: str) -> None:
    exact = {float(v) for tag, name, v in Page(html).attributes if (tag, name) == ("data", "value")}
    for t in measured["treatments"]:
        assert {float(v) for v in [*t["metrics"].values(), *t["confusion"].values(), *t["rows"].values()]} <= exact
        assert t["threshold"] in exact
    assert {float(c[k]) for c in measured["profile"]["classes"] for k in ("rows", "share", "effectiveNumber")} <= exact
    assert {float(n) for part in measured["split"].values() for n in part.values()} <= exact
    text = Page(html).text
    for t in measured["treatments"]:
        assert all(decimal(v) in text for v in t["metrics"].values())
    for fact in (
        "12,000",
        "2026-03-14",
        measured["command"],
        "sparkimb 0.1.0",
        "pyspark 4.0.1",
        "treatments: - natural",
    ):
        assert fact in text


def test_every_metric_of_the_contract_has_a_row(measured: dict[str, Any]) -> None:
    assert {m.key for _, group in GROUPS for m in group} == set(measured["treatments"][0]["metrics"])


def test_the_best_value_is_marked_and_lower_is_better_for_errors(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    for t, ap, brier in zip(results["treatments"], (0.1, 0.7, 0.7), (0.3, 0.2, 0.1), strict=True):
        t["metrics"] |= {"averagePrecision": ap, "brier": brier}
    html = render(results)

    def marked(metric: str) -> list[bool]:
        row = re.search(rf'<th scope="row">{metric}.*?</tr>', html, re.DOTALL)
        assert row
        return ["best" in cell for cell in re.findall(r"<td.*?</td>", row.group(), re.DOTALL)]

    assert marked("Average precision") == [False, True, True]
    assert marked("Brier score") == [False, False, True]


def test_without_a_learner_nothing_measured_is_shown(measured: dict[str, Any]) -> None:
    page = Page(render(make_unmeasured(measured)))
    assert {"data", "treatments", "compare", "reading", "made"} <= set(page.ids)
    assert not {"metrics", "thresholds", "calibration", "explorer"} & set(page.ids)
    assert "no model trained" in page.text
    assert "No learner was configured" in page.text


@pytest.mark.parametrize("undefined", [None, math.nan, math.inf])
def test_undefined_metrics_are_shown_as_missing(measured: dict[str, Any], undefined: Any) -> None:
    results = copy.deepcopy(measured)
    for t in results["treatments"]:
        t["metrics"] = dict.fromkeys(t["metrics"], undefined)
        t["curves"]["threshold"]["precision"][-1] = undefined
    text = Page(render(results)).text
    assert MISSING in text
    assert "No metrics could be measured" in text
    assert not re.search(r"\b(nan|inf|None)\b", text)


def test_ranking_metrics_of_many_classes_are_explained(measured: dict[str, Any], html: str) -> None:
    sentence = "for the positive class “1” against all the others together"
    assert sentence not in Page(html).text
    text = Page(render(make_many_classes(measured, 3))).text
    assert "3 classes." in text
    assert sentence in text


def test_a_crowd_of_classes_is_cut_to_both_ends_and_the_positive(measured: dict[str, Any]) -> None:
    classes = make_many_classes(measured, 45)["profile"]["classes"]
    shown = shown_classes(classes, "class 20")
    rows = [c["rows"] for c in shown]
    assert len(shown) == MAX_CLASSES + 1
    assert "class 20" in {c["label"] for c in shown}
    assert rows == sorted(rows, reverse=True)
    assert {max(c["rows"] for c in classes), min(c["rows"] for c in classes)} <= set(rows)
    assert "24 in between are left out" in Page(render(make_many_classes(measured, 45))).text


def with_metrics(measured: dict[str, Any], key: str, values: tuple[float, ...], positives: int = 75) -> dict[str, Any]:
    results = copy.deepcopy(measured)
    results["split"]["test"] = {"0": 2925, "1": positives}
    for t, value in zip(results["treatments"], values, strict=True):
        t["metrics"][key] = value
    return results


@pytest.mark.parametrize(
    ("values", "positives", "words"),
    [
        ((0.5, 0.4, 0.3), 75, "No treatment ranks better than the untouched data"),
        ((0.5, 0.5, 0.5), 75, "No treatment ranks better than the untouched data"),
        ((0.40, 0.42, 0.41), 75, "“copies” ranks best, but within what chance could do"),
        ((0.40, 0.41, 0.42), 75, "“class weights” ranks best, but within what chance could do"),
        ((0.1, 0.2, 0.6), 75, "“class weights” ranks best in this one split"),
        ((0.40, 0.42, 0.41), 40_000, "“copies” ranks best in this one split"),
        ((0.1, 0.2, 0.6), 0, "“class weights” ranks best, but within what chance could do"),
    ],
)
def test_headline_names_the_best_ranking(
    measured: dict[str, Any], values: tuple[float, ...], positives: int, words: str
) -> None:
    results = with_metrics(measured, "averagePrecision", values, positives)
    assert summarise(results).headline == words
    text = Page(render(results)).text
    assert words in text
    assert ("single split" if positives else "no positive row") in text


@pytest.mark.parametrize(
    ("values", "width", "headline", "words"),
    [
        (
            (0.50, 0.40, 0.30),
            0.1,
            "No treatment ranks better than the untouched data",
            "overlap: no treatment is clearly",
        ),
        (
            (0.90, 0.40, 0.30),
            0.1,
            "No treatment ranks better than the untouched data",
            "lie apart: no treatment is clearly",
        ),
        ((0.40, 0.42, 0.55), 0.1, "No treatment is clearly better than doing nothing: move the threshold", "overlap"),
        (
            (0.40, 0.42, 0.70),
            0.1,
            "“class weights” ranks clearly better than the untouched data",
            "lie apart. They tell",
        ),
        ((0.40, 0.42, 0.41), 0.001, "“copies” ranks clearly better than the untouched data", "lie apart. They"),
    ],
)
def test_intervals_decide_whether_a_treatment_is_clearly_better(
    measured: dict[str, Any], values: tuple[float, ...], width: float, headline: str, words: str
) -> None:
    results = with_intervals(with_metrics(measured, "averagePrecision", values), width)
    summary = summarise(results)
    assert summary.headline == headline
    said = " ".join(summary.sentences)
    assert words in said
    assert f"{decimal(values[0] - width)} to {decimal(values[0] + width)} for the untouched data" in said
    assert "by chance alone" not in said
    assert ("so move the threshold" in said) == ("clearly better than the" not in headline)


def test_a_clear_winner_is_named_though_another_without_certainty_scores_higher(measured: dict[str, Any]) -> None:
    results = with_metrics(measured, "averagePrecision", (0.4, 0.6, 0.7))
    for t, ends in zip(results["treatments"], ([0.35, 0.45], [0.55, 0.65], [0.3, 0.9]), strict=True):
        t["intervals"] = {"averagePrecision": ends}
    summary = summarise(results)
    assert summary.headline == "“copies” ranks clearly better than the untouched data"
    assert "0.550 to 0.650 for “copies”, lie apart" in " ".join(summary.sentences)


@pytest.mark.parametrize("broken", [None, [None, 0.5], [math.nan, 0.5]])
def test_without_an_interval_of_the_untouched_data_the_yardstick_decides(measured: dict[str, Any], broken: Any) -> None:
    results = with_intervals(measured)
    results["treatments"][0]["intervals"]["averagePrecision"] = broken
    assert "by chance alone" in " ".join(summarise(results).sentences)
    assert "averagePrecision" not in render(results)


def test_intervals_stand_under_their_values(measured: dict[str, Any], html: str) -> None:
    results = with_intervals(measured)
    text = Page(render(results)).text
    assert "95% interval" not in Page(html).text
    for t in results["treatments"]:
        for key, ends in t["intervals"].items():
            assert f"95% interval: {span(*ends)}" in text, key
    assert "without intervals" not in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.5, 0.5, 0.4), "at least as good here"),
        ((0.5, 0.55, 0.4), "about as good here"),
        ((0.3, 0.4, 0.7), "not as good here"),
    ],
)
def test_doing_nothing_is_compared_with_the_best_treatment(
    measured: dict[str, Any], values: tuple[float, ...], words: str
) -> None:
    said = " ".join(summarise(with_metrics(measured, "f1", values)).sentences)
    assert f"(to {decimal(measured['treatments'][0]['threshold'])}) is {words}" in said
    best = ("copies", "class weights")[values[2] > values[1]]
    assert f"F1 {decimal(values[0])} against {decimal(max(values[1:]))} for the best treatment, “{best}”" in said


def test_lost_calibration_is_said_only_when_it_is_lost(measured: dict[str, Any]) -> None:
    key = "expectedCalibrationError"
    assert "costs calibration" in " ".join(summarise(with_metrics(measured, key, (0.01, 0.02, 0.3))).sentences)
    assert "costs calibration" not in " ".join(summarise(with_metrics(measured, key, (0.01, 0.015, 0.01))).sentences)


def test_noise_yardstick_covers_the_binomial_spread() -> None:
    draws = np.random.default_rng(1).binomial(75, 0.5, 20_000) / 75
    assert np.mean(abs(draws - 0.5) <= noise_yardstick(75)) > 0.93


def test_no_two_treatments_look_alike() -> None:
    styles = [style_of(i) for i in range(37)]
    assert len(set(styles)) == 37
    assert all((colour == 0) == (dashes == 0) == (i == 0) for i, (colour, dashes) in enumerate(styles))
    assert all(d < len(DASHES) for _, d in styles)


def test_thinning_keeps_the_ends_and_stays_near_the_curve() -> None:
    rng = np.random.default_rng(0)
    x = np.sort(rng.random(50_000))
    y = np.sort(rng.random(50_000)) ** 5
    thin_x, thin_y = plots.thin(x.tolist(), y.tolist())
    assert len(thin_x) <= plots.MAX_POINTS
    assert (thin_x[0], thin_y[0], thin_x[-1], thin_y[-1]) == (x[0], y[0], x[-1], y[-1])
    assert np.max(abs(np.interp(x, thin_x, thin_y) - y)) < 0.01
    assert plots.thin([0.5] * 1000, [0.5] * 1000) == ([0.5, 0.5], [0.5, 0.5])


def test_long_curves_keep_the_page_small(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    grid = np.linspace(0, 1, 20_000)
    wild = (0.5 + 0.5 * np.sin(grid * 300)).tolist()
    first = results["treatments"][0]
    first["curves"]["pr"] = {"recall": grid.tolist(), "precision": wild}
    first["curves"]["roc"] = {"falsePositiveRate": grid.tolist(), "truePositiveRate": wild}
    first["curves"]["threshold"] = {"threshold": grid.tolist(), "precision": wild, "recall": wild, "f1": wild}
    results["treatments"] = [first] * 15
    page = render(results)
    assert len(page) < 1_500_000


def test_the_explorer_stops_at_every_positive_row_and_at_the_chosen_threshold() -> None:
    rng = np.random.default_rng(2)
    truth = rng.random(100_000) < CELLS / 100_000
    score = rng.random(len(truth)) + truth
    order = np.argsort(-score)
    tp, fp = np.cumsum(truth[order]), np.cumsum(~truth[order])
    chosen, positives = 0.9, int(truth.sum())
    found, alarms = ((score >= chosen) & truth).sum(), ((score >= chosen) & ~truth).sum()
    curve = {"threshold": score[order].tolist(), "truePositives": tp.tolist(), "falsePositives": fp.tolist()}
    treatment = {
        "threshold": chosen,
        "confusion": {
            "truePositive": int(found),
            "falsePositive": int(alarms),
            "falseNegative": positives - int(found),
            "trueNegative": len(truth) - positives - int(alarms),
        },
        "curves": {"threshold": curve},
    }
    (stops,) = explorer([treatment])
    cuts = np.array(stops["threshold"][:-1])
    assert stops["threshold"][-1] is None
    assert len(cuts) <= 2 * CELLS + 2
    assert np.all(np.diff(cuts) > 0)
    assert cuts[stops["chosen"]] == chosen
    assert set(score[truth]) <= set(cuts)
    for name, kind in (("truePositives", truth), ("falsePositives", ~truth)):
        assert stops[name] == [*(((score >= cut) & kind).sum() for cut in cuts), 0]


def test_a_treatment_without_counts_has_no_explorer(measured: dict[str, Any]) -> None:
    results = copy.deepcopy(measured)
    del results["treatments"][0]["curves"]["threshold"]["truePositives"]
    assert [e["series"] for e in explorer(results["treatments"])] == [1, 2]
    for t in results["treatments"]:
        t.pop("confusion")
    assert explorer(results["treatments"]) == []
    assert "<script" not in render(results)


def test_shares_fill_the_bar_with_the_positive_class_first() -> None:
    for shares in ({"a": 0.97, "b": 0.03}, {"a": 0.9999, "b": 0.0001}, {"a": 1.0}, {str(i): 1 / 90 for i in range(90)}):
        segments = share_segments(shares, "b")
        assert segments[0][1] == (0 if "b" not in shares else max(round(100 * shares["b"], 2), 0.6))
        assert len(segments) <= MAX_CLASSES + 1
        ends = [start + width for start, width in segments]
        assert ends[-1] == pytest.approx(100, abs=0.01)
        assert [start for start, _ in segments[1:]] == pytest.approx(ends[:-1], abs=0.02)


def test_bars_grow_with_rows_and_fill_the_scale() -> None:
    for counts in ([3, 40, 50_000], [90, 100], [1, 1_000_000_000], [7]):
        scale = Scale.of(counts)
        widths = [scale.width(n) for n in [0, *counts]]
        assert widths == sorted(widths)
        assert widths[0] == 0 < widths[1]
        assert widths[-1] <= 100
        assert scale.logarithmic == (max(counts) > 20 * min(counts))
        assert [at for at, _ in scale.ticks()] == sorted(at for at, _ in scale.ticks())
    assert Scale.of([]).width(0) == 0


def test_formats() -> None:
    assert (decimal(0.12345), decimal(0.0), decimal(4.2e-5), decimal(None)) == ("0.123", "0.000", "4.2e-05", MISSING)
    assert (signed(0.0301), signed(-0.2), signed(1e-9)) == ("+0.030", "\N{MINUS SIGN}0.200", "±0")
    assert (percent(0), percent(1), percent(0.975), percent(0.00172)) == ("0%", "100%", "97.5%", "0.17%")
    assert printable("a\x00b\ud800c\n\té🦓") == "a\ufffdb\ufffdc\n\té🦓"
    assert short("x" * 60) == "x" * 60
    assert len(short("x" * 61)) == 60


def test_matplotlib_settings_come_back_and_do_not_matter(measured: dict[str, Any], html: str) -> None:
    import matplotlib

    with matplotlib.rc_context(
        {"font.size": 40, "lines.linewidth": 9, "axes.facecolor": "red", "svg.fonttype": "path"}
    ):
        before = dict(matplotlib.rcParams)
        assert render(measured) == html
        assert dict(matplotlib.rcParams) == before


def test_missing_keys_are_named_all_at_once() -> None:
    with pytest.raises(SparkimbError, match=r"(?s)'profile', 'split', 'treatments'.*\['name'\].*metrics\.json"):
        render({"name": "x"})


def test_a_run_without_treatments_is_refused(measured: dict[str, Any]) -> None:
    with pytest.raises(SparkimbError, match="no treatment"):
        render({**measured, "treatments": []})


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(
    package: str, measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*sparkimb\[jobs\]"):
        render(measured)


def test_importing_the_report_loads_neither_package() -> None:
    code = "import sys, sparkimb.report; print([m for m in ('jinja2', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
