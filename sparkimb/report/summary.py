"""What the results say, in plain sentences.  Text only: the page escapes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sparkimb.report.formats import count, decimal, percent, ratio, short
from sparkimb.report.metrics import interval, value

Treatment = Mapping[str, Any]


class Summary(NamedTuple):
    """A headline and the sentences under it."""

    headline: str
    sentences: tuple[str, ...]


def quoted(text: object) -> str:
    """Return foreign text between quotation marks, short enough for a sentence."""
    return f"“{short(text, 40)}”"


def noise_yardstick(positives: int) -> float:
    """Return how far a share measured on so many rows moves by chance alone, at worst.

    Two standard errors of a proportion of one half: 2 · sqrt(0.25 / positives).  Rough on purpose: treatments share
    one test set, which makes their differences steadier; average precision and F1 are not plain proportions.
    """
    return 1 / math.sqrt(positives) if positives > 0 else math.inf


def best(treatments: Sequence[Treatment], key: str) -> Treatment | None:
    """Return the treatment with the highest value of a metric, the first of equals; None if none has it."""
    scored = [t for t in treatments if value(t, key) is not None]
    return max(scored, key=lambda t: t["metrics"][key]) if scored else None


def clearly_better(others: Sequence[Treatment], natural: Treatment, key: str) -> list[Treatment] | None:
    """Return the treatments whose 95 % interval of a metric lies above that of the untouched data.

    None where the untouched data or all treatments lack the interval.  Apart is more than significant: the treatments
    share one test set, so that intervals which overlap a little may still hide a difference.
    """
    base, ours = interval(natural, key), _with_interval(others, key)
    if base is None or not ours:
        return None
    return [t for t, (low, _) in ours if low > base[1]]


def _with_interval(treatments: Sequence[Treatment], key: str) -> list[tuple[Treatment, tuple[float, float]]]:
    found = ((t, interval(t, key)) for t in treatments if value(t, key) is not None)
    return [(t, ends) for t, ends in found if ends is not None]


def summarise(results: Mapping[str, Any]) -> Summary:
    """Return the outcome of a run in words, no stronger than one split allows."""
    treatments = results["treatments"]
    natural, others = treatments[0], treatments[1:]
    data = (_data_sentence(results),)
    if "learner" not in results:
        return Summary(
            f"{_number_of(others)} prepared, no model trained",
            (*data, "No learner was configured, so this page describes the data, the split and the class counts only."),
        )
    if best(treatments, "averagePrecision") is None:
        return Summary(
            "No metrics could be measured", (*data, "Average precision is undefined for every treatment of this run.")
        )
    positives = results["split"]["test"].get(results["data"]["positive"], 0)
    return Summary(
        _headline(natural, others, positives),
        (
            *data,
            *_ranking_sentences(results, natural, others, positives),
            *_decision_sentences(natural, others, positives),
            *_calibration_sentences(natural, others),
        ),
    )


def _number_of(others: Sequence[Treatment]) -> str:
    return f"{len(others)} treatment{'' if len(others) == 1 else 's'}"


def _data_sentence(results: Mapping[str, Any]) -> str:
    profile, positive = results["profile"], results["data"]["positive"]
    shares = {c["label"]: c["share"] for c in profile["classes"]}
    return (
        f"Of {count(profile['rows'])} rows, {percent(shares.get(positive, 0.0))} are of the positive class "
        f"{quoted(positive)}; the most common class has {ratio(profile['imbalanceRatio'])} rows for each row of "
        "the rarest."
    )


def _difference(treatment: Treatment, natural: Treatment, key: str) -> float | None:
    ours, theirs = value(treatment, key), value(natural, key)
    return None if ours is None or theirs is None else ours - theirs


def _headline(natural: Treatment, others: Sequence[Treatment], positives: int) -> str:
    winner = best([natural, *others], "averagePrecision")
    if winner is natural:
        return "No treatment ranks better than the untouched data" if others else "The untouched data, measured alone"
    assert winner is not None
    name = quoted(winner["name"])
    better = clearly_better(others, natural, "averagePrecision")
    if better is not None:
        above = best(better, "averagePrecision")
        if above is None:
            return "No treatment is clearly better than doing nothing: move the threshold"
        return f"{quoted(above['name'])} ranks clearly better than the untouched data"
    gain = _difference(winner, natural, "averagePrecision")
    if gain is None:
        return f"{name} ranks best; the untouched data has no measure to compare with"
    if gain < noise_yardstick(positives):
        return f"{name} ranks best, but within what chance could do"
    return f"{name} ranks best in this one split"


def _ranking_sentences(
    results: Mapping[str, Any], natural: Treatment, others: Sequence[Treatment], positives: int
) -> list[str]:
    winner = best([natural, *others], "averagePrecision")
    assert winner is not None
    rows = sum(results["split"]["test"].values())
    no_skill = f" (guessing would give {decimal(positives / rows)})" if rows else ""
    if winner is natural:
        rival = best(others, "averagePrecision")
        first, second = "the untouched data", quoted(rival["name"]) if rival else ""
    else:
        rival = natural
        first, second = quoted(winner["name"]), "the untouched data"
    against = f", against {decimal(value(rival, 'averagePrecision'))} for {second}" if rival else ""
    sentences = [
        f"Average precision, the first number to read for a rare class, is highest for {first}: "
        f"{decimal(value(winner, 'averagePrecision'))}{against}{no_skill}."
    ]
    if others:
        sentences.append(_interval_sentence(natural, others) or _noise_sentence(winner, rival, positives))
    return sentences


def _interval_sentence(natural: Treatment, others: Sequence[Treatment]) -> str | None:
    key = "averagePrecision"
    better, base = clearly_better(others, natural, key), interval(natural, key)
    shown = best(better or [t for t, _ in _with_interval(others, key)], key)
    ours = None if shown is None else interval(shown, key)
    if better is None or base is None or shown is None or ours is None:
        return None
    relation = "overlap" if ours[0] <= base[1] and base[0] <= ours[1] else "lie apart"
    held = (
        f"The 95% intervals, {decimal(base[0])} to {decimal(base[1])} for the untouched data and {decimal(ours[0])} to "
        f"{decimal(ours[1])} for {quoted(shown['name'])}, {relation}"
    )
    if not better:
        return f"{held}: no treatment is clearly better than doing nothing, so move the threshold."
    return f"{held}. They tell the chance in the test rows, not that of the split: repeat it with other seeds."


def _noise_sentence(winner: Treatment, rival: Treatment | None, positives: int) -> str:
    if positives == 0:
        return "The test set holds no positive row, so none of the differences means anything."
    yardstick = noise_yardstick(positives)
    held = (
        f"The test set holds {count(positives)} positive row{'' if positives == 1 else 's'}; a share measured on so "
        f"many can move by about {decimal(yardstick)} by chance alone"
    )
    gap = None if rival is None else _difference(winner, rival, "averagePrecision")
    if gap is None:
        return f"{held}. This is a single split without intervals."
    if gap < yardstick:
        return f"{held}, so the difference of {decimal(gap)} may be noise. This is a single split without intervals."
    return (
        f"{held}. The difference of {decimal(gap)} is larger, but it comes from a single split without intervals: "
        "repeat it with other seeds before relying on it."
    )


def _decision_sentences(natural: Treatment, others: Sequence[Treatment], positives: int) -> list[str]:
    rival = best(others, "f1")
    f1 = value(natural, "f1")
    if rival is None or f1 is None:
        return []
    gain = rival["metrics"]["f1"] - f1
    at = f" (to {decimal(natural['threshold'])})" if "threshold" in natural else ""
    compared = f"F1 {decimal(f1)} against {decimal(value(rival, 'f1'))} for the best treatment, {quoted(rival['name'])}"
    moved = (
        f"recall goes from {decimal(value(natural, 'recall'))} to {decimal(value(rival, 'recall'))} and precision "
        f"from {decimal(value(natural, 'precision'))} to {decimal(value(rival, 'precision'))}"
    )
    better = clearly_better([rival], natural, "f1")
    close = gain < noise_yardstick(positives) if better is None else not better
    verdict = "at least as good" if gain <= 0 else "about as good" if close else "not as good"
    return [
        f"Doing nothing to the data and only moving the threshold{at} is {verdict} here: {compared}.",
        f"With {quoted(rival['name'])} instead, {moved}.",
    ]


def _calibration_sentences(natural: Treatment, others: Sequence[Treatment]) -> list[str]:
    key = "expectedCalibrationError"
    base, worst = value(natural, key), best(others, key)
    # Twice the error of the untouched data, and a gap a reader would notice: anything less is not worth a sentence.
    if base is None or worst is None or worst["metrics"][key] < max(2 * base, base + 0.01):
        return []
    return [
        f"Treatment costs calibration: for {quoted(worst['name'])} predicted and observed shares differ by "
        f"{decimal(worst['metrics'][key])} on average (untouched data: {decimal(base)}), so its scores cannot be "
        "read as probabilities.",
    ]
