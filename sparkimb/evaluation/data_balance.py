"""How evenly rows, and positive labels, are spread over the values of sensitive columns: measures before any model.

Functions here look at the data that a model will learn from.  Values are compared as they stand, so bin numbers such as
an age first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import AtomicType, DoubleType, FloatType, NumericType, StringType

from sparkimb.columns import column, require_columns
from sparkimb.errors import SparkimbError
from sparkimb.evaluation.inputs import fault_code, is_positive, refuse_faults

# Values of one sensitive column that the driver takes in.  `feature_balance` compares every two of them: half a million
# pairs at 120 bytes, 60 MB.
MAX_VALUES = 1_000
# Combinations of values that the driver takes in for `aggregate_balance`: some 200 bytes each as rows of Python, 20 MB.
MAX_COMBINATIONS = 100_000

Numbers: TypeAlias = npt.NDArray[np.float64]
Groups: TypeAlias = dict[tuple[Any, ...], tuple[int, int]]  # rows and positive rows by the values of some columns


def feature_balance(
    dataset: DataFrame, sensitiveCols: Sequence[str], *, labelCol: str = "label", positiveLabel: Any = 1
) -> pd.DataFrame:
    """Compare how the positive label goes with every two values of each sensitive column.

    Parameters
    ----------
    sensitiveCols : sequence of str
        Of any atomic type with at most MAX_VALUES values each; never null or NaN.
    labelCol : str, default="label"
        String, boolean, integer or double; never null or NaN.
    positiveLabel : str, bool, int or float, default=1

    Returns
    -------
    pandas.DataFrame
        One row per column and pair of values, the larger first: sensitiveCol, valueA, valueB, positiveShareA,
        positiveShareB (the share of the value's rows that are positive), and the gaps, measure of A less measure of B.
        A gap of 0 is balance; above 0 the label goes with A.  With x a value, y the positive label and p the shares of
        rows, the measures are

        - demographicParity: p(y|x)
        - pmi: ln p(x,y) / (p(x) p(y)), pointwise mutual information [1]_
        - pmiSquared: ln p(x,y)^2 / (p(x) p(y))
        - nPmiY: pmi / -ln p(y), at most 1
        - nPmiXY: pmi / -ln p(x,y), in [-1, 1] [2]_; -1 where no row of the value is positive
        - sorensenDice: 2 p(x,y) / (p(x) + p(y))
        - jaccard: p(x,y) / (p(x) + p(y) - p(x,y))
        - logLikelihoodRatio: ln p(x|y)
        - kendallTau: Kendall's tau-b of "has the value" and "is positive", in [-1, 1]
        - tTest: (p(x,y) - p(x) p(y)) / sqrt(p(x) p(y)) [3]_

        Where one value of the two has no positive row, gaps of logarithms are infinite; where both have none, 0.

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; nulls or NaN (with the number of rows); more than MAX_VALUES values; no
        rows; no positive row, or no other.

    Notes
    -----
    Cost: one action, one shuffle of one row per value and partition, for all columns together.  The measures are those
    of SynapseML's FeatureBalanceMeasure after [4]_, by their definitions in the literature.  Its sdc is half of
    sorensenDice; its n_pmi_y has the other sign; its n_pmi_xy has the other sign and leaves out p(y); its krc is not 0
    for a value that is independent of the label.

    References
    ----------
    .. [1] Church and Hanks, "Word association norms, mutual information, and lexicography", Computational Linguistics
           16, 1990, 22-29.
    .. [2] Bouma, "Normalized (pointwise) mutual information in collocation extraction", GSCL, 2009, 31-40.
    .. [3] Curran, "From distributional to semantic similarity", PhD thesis, University of Edinburgh, 2004.
    .. [4] Aka, Burke, Bauerle, Greer and Mitchell, "Measuring model biases in the absence of ground truth", AIES, 2021.

    Examples
    --------
    >>> feature_balance(train, ["sex", "ageBand"], labelCol="is_fraud")   # doctest: +SKIP
    """
    _check_columns(dataset, sensitiveCols, labelCol)
    found = _each_column(dataset, sensitiveCols, is_positive(dataset, labelCol, positiveLabel), labelCol)
    rows, positives = (sum(counts[i] for counts in next(iter(found.values())).values()) for i in (0, 1))
    if not 0 < positives < rows:
        raise SparkimbError(
            f"Of {rows} rows {positives} have {labelCol} = {positiveLabel!r}. Gaps need rows with the positive label "
            "and rows without: check positiveLabel, or take more rows."
        )
    tables = [_gaps(name, groups, rows, positives) for name, groups in found.items()]
    # pandas warns of joining empty tables: those of columns with one value.
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


def distribution_balance(
    dataset: DataFrame,
    sensitiveCols: Sequence[str],
    *,
    reference: Mapping[str, Mapping[Any, float]] | None = None,
) -> pd.DataFrame:
    """Compare how rows spread over the values of each sensitive column with how they should.

    Parameters
    ----------
    sensitiveCols : sequence of str
        Of any atomic type with at most MAX_VALUES values each; never null or NaN.
    reference : dict of str to dict of value to float, optional
        The wanted shares of a column's values, of sum 1: `{"sex": {"f": 0.51, "m": 0.49}}`.  Columns that are not named
        get equal shares of the values that occur.  Values that occur and are not in the reference have share 0 there,
        and the reverse.

    Returns
    -------
    pandas.DataFrame
        One row per column: sensitiveCol, rows, values (number of those that occur or are in the reference), and, with p
        the found shares and q the wanted ones,

        - klDivergence: sum of p ln p/q, in [0, inf]; infinite if a value occurs that should not
        - jensenShannonDistance: root of the Jensen-Shannon divergence with natural logarithms, in [0, 0.833]
        - infinityNorm: largest |p - q|, in [0, 1]
        - totalVariation: half the sum of |p - q|, in [0, 1]: the share of rows that would have to change
        - wasserstein: earth mover's distance.  Numbers move by their difference, in the column's unit; other values all
          lie 1 apart, which makes it the total variation
        - chiSquare: Pearson's statistic of the counts, in [0, inf]
        - chiSquarePValue: chance of such a statistic or a larger one if rows were drawn with the wanted shares, in
          [0, 1]; 1 if only one value is wanted and occurs

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; nulls or NaN (with the number of rows); more than MAX_VALUES values; no
        rows; a reference of another column, or with shares that are negative or of another sum.

    Notes
    -----
    Cost: one action, one shuffle of one row per value and partition, for all columns together.  The measures are those
    of SynapseML's DistributionBalanceMeasure.  Its Wasserstein distance is the mean of |p - q|; of values in the
    reference that do not occur it knows nothing; its p-value where a value occurs that should not is 1, and here 0.

    References
    ----------
    .. [1] Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on Information Theory 37, 1991,
           145-151.
    """
    _check_columns(dataset, sensitiveCols)
    wanted = reference or {}
    _check_reference(dataset, sensitiveCols, wanted)
    table = []
    for name, groups in _each_column(dataset, sensitiveCols).items():
        counts: Mapping[Any, int] = Counter({value: rows for (value,), (rows, _) in groups.items()})
        shares = wanted.get(name) or dict.fromkeys(counts, 1 / len(counts))
        values = sorted({*counts, *shares})
        found = np.array([counts.get(value, 0) for value in values], dtype=float)
        numeric = isinstance(dataset.schema[name].dataType, NumericType)
        places = np.array(values, dtype=float) if numeric else None
        q = np.array([shares.get(value, 0.0) for value in values], dtype=float)
        size = {"rows": int(found.sum()), "values": len(values)}
        table.append({"sensitiveCol": name, **size, **_apart(found, q, places)})
    return pd.DataFrame(table)


def aggregate_balance(dataset: DataFrame, sensitiveCols: Sequence[str], *, epsilon: float = 1.0) -> pd.DataFrame:
    """Measure how unequal the combinations of values of the sensitive columns are in rows.

    Combinations that do not occur have no part in it: 0 rows would make two of the measures infinite.

    Parameters
    ----------
    sensitiveCols : sequence of str
        Of any atomic type with at most MAX_COMBINATIONS combinations of values; never null or NaN.
    epsilon : float in [0, inf), default=1.0
        How much the Atkinson index minds small combinations; at 0 it is 0.

    Returns
    -------
    pandas.DataFrame
        One row: combinations (number of those that occur), rows, and, with x the rows of a combination over their mean,

        - atkinsonIndex: 1 - mean(x^(1 - epsilon))^(1 / (1 - epsilon)), at epsilon 1 its limit 1 - exp(mean(ln x)); in
          [0, 1) [1]_
        - theilLIndex: mean of -ln x, in [0, inf) [2]_
        - theilTIndex: mean of x ln x, in [0, ln combinations] [2]_

        All are 0 where every combination has as many rows.

    Raises
    ------
    SparkimbError
        Columns missing or of a wrong type; nulls or NaN (with the number of rows); more than MAX_COMBINATIONS; no rows;
        epsilon out of its range.

    Notes
    -----
    Cost: one action, one shuffle of one row per combination and partition.  The measures are those of SynapseML's
    AggregateBalanceMeasure.

    References
    ----------
    .. [1] Atkinson, "On the measurement of inequality", Journal of Economic Theory 2, 1970, 244-263.
    .. [2] Theil, "Economics and Information Theory", North-Holland, 1967.
    """
    _check_columns(dataset, sensitiveCols)
    if not 0 <= epsilon < math.inf:
        raise SparkimbError(f"epsilon is {epsilon}. Give a finite number of 0 or more: more minds small groups more.")
    too_many = (
        f"sensitiveCols {list(sensitiveCols)} have more than {MAX_COMBINATIONS} combinations of values. "
        "Bin the columns with many values, or take fewer columns."
    )
    (groups,) = _group(dataset, sensitiveCols, [range(len(sensitiveCols))], MAX_COMBINATIONS, too_many)
    rows = np.array([rows for _, (rows, _) in sorted(groups.items())], dtype=float)
    x = rows / rows.mean()
    return pd.DataFrame(
        {
            "combinations": [len(x)],
            "rows": [int(rows.sum())],
            "atkinsonIndex": [1 - math.exp(_log_of_power_mean(np.log(x), 1 - epsilon))],
            "theilLIndex": [float(np.log(1 / x).mean())],
            "theilTIndex": [float((x * np.log(x)).mean())],
        }
    )


def _check_columns(dataset: DataFrame, sensitiveCols: Sequence[str], labelCol: str | None = None) -> None:
    if isinstance(sensitiveCols, str):
        raise TypeError(f"sensitiveCols is the string {sensitiveCols!r}. Give a list of column names.")
    if not sensitiveCols or len(set(sensitiveCols)) < len(sensitiveCols):
        raise SparkimbError(f"sensitiveCols is {list(sensitiveCols)}. Name one column or more, each once.")
    require_columns(dataset, sensitiveCols=sensitiveCols, labelCol=labelCol)
    for name in sensitiveCols:
        found = dataset.schema[name].dataType
        if not isinstance(found, AtomicType):
            raise SparkimbError(
                f"sensitiveCols '{name}' is of type {found.simpleString()}. Give columns of single values, such as "
                "strings or whole numbers."
            )


def _check_reference(
    dataset: DataFrame, sensitiveCols: Sequence[str], reference: Mapping[str, Mapping[Any, float]]
) -> None:
    unknown = [name for name in reference if name not in sensitiveCols]
    if unknown:
        raise SparkimbError(f"reference names {unknown}, but sensitiveCols are {list(sensitiveCols)}. Name those.")
    for name, shares in reference.items():
        text = isinstance(dataset.schema[name].dataType, StringType)
        if any(isinstance(value, str) != text for value in shares):
            raise SparkimbError(
                f"reference of '{name}' has the values {list(shares)[:10]}, but the column is of type "
                f"{dataset.schema[name].dataType.simpleString()}. Give the values as they stand in the column."
            )
        total = math.fsum(shares.values())
        if not (all(share >= 0 for share in shares.values()) and abs(total - 1) <= 1e-9):
            raise SparkimbError(
                f"reference of '{name}' has shares from {min(shares.values(), default=0):g}, of sum {total:g}. "
                "Give shares of 0 or more that sum to 1."
            )


def _each_column(
    dataset: DataFrame, sensitiveCols: Sequence[str], positive: Column | None = None, labelCol: str = ""
) -> dict[str, Groups]:
    """Count the rows of each value of each column: one job."""
    too_many = (
        f"One of sensitiveCols {list(sensitiveCols)} has more than {MAX_VALUES} values. "
        "Is it a continuous column or an id? Bin it, or leave it out."
    )
    alone = [[i] for i in range(len(sensitiveCols))]
    found = _group(dataset, sensitiveCols, alone, MAX_VALUES, too_many, positive, labelCol)
    return dict(zip(sensitiveCols, found, strict=True))


def _group(
    dataset: DataFrame,
    sensitiveCols: Sequence[str],
    sets: Sequence[Sequence[int]],
    most: int,
    too_many: str,
    positive: Column | None = None,
    labelCol: str = "",
) -> list[Groups]:
    """Count the rows, and positive rows, by each set of the columns, of at most `most` groups each: one job."""
    names = [f"value{i}" for i in range(len(sensitiveCols))]
    rows = dataset.select(
        *(column(given).alias(name) for given, name in zip(sensitiveCols, names, strict=True)),
        (F.lit(False) if positive is None else positive).alias("positive"),
    )
    faults = {
        f"null or NaN sensitiveCols '{given}'": _unknown(rows, name)
        for given, name in zip(sensitiveCols, names, strict=True)
    }
    faults[f"null or NaN labelCol '{labelCol}'"] = F.col("positive").isNull()
    # Values of rows with faults are left out, so that all such rows are one group for each fault.
    sound = [F.when(F.col("fault") == 0, F.col(name)).alias(name) for name in names]
    grouped = (
        rows.withColumn("fault", fault_code(faults))
        .select("fault", "positive", *sound)
        .groupingSets([["fault", *(names[i] for i in chosen)] for chosen in sets], "fault", *names)
        .agg(
            F.count("*").alias("rows"),
            F.count_if("positive").alias("positives"),
            *(F.grouping(name).alias(f"not_{name}") for name in names),
        )
    )
    limit = len(sets) * (most + len(faults))
    found = grouped.limit(limit + 1).toArrow().to_pylist()
    places = {tuple(chosen): i for i, chosen in enumerate(sets)}
    groups: list[Groups] = [{} for _ in sets]
    codes: Counter[int] = Counter()
    for row in found:
        chosen = tuple(i for i, name in enumerate(names) if not row[f"not_{name}"])
        if row["fault"] == 0:
            groups[places[chosen]][tuple(row[names[i]] for i in chosen)] = row["rows"], row["positives"]
        if places[chosen] == 0:
            codes[row["fault"]] += row["rows"]
    if len(found) > limit or any(len(group) > most for group in groups):
        raise SparkimbError(too_many)
    refuse_faults(faults, codes)
    return groups


def _unknown(rows: DataFrame, name: str) -> Column:
    unknown = F.col(name).isNull()
    return unknown | F.isnan(name) if isinstance(rows.schema[name].dataType, DoubleType | FloatType) else unknown


def _gaps(name: str, groups: Groups, rows: int, positives: int) -> pd.DataFrame:
    """Return a row for every two values of a column."""
    values = sorted(groups)
    counts = np.array([groups[value] for value in values], dtype=float)
    a, b = np.tril_indices(len(values), -1)
    table = {
        "sensitiveCol": [name] * len(a),
        "valueA": [values[i][0] for i in a],
        "valueB": [values[i][0] for i in b],
        "positiveShareA": (counts[:, 1] / counts[:, 0])[a],
        "positiveShareB": (counts[:, 1] / counts[:, 0])[b],
    }
    for measure, of in _associations(counts[:, 0] / rows, positives / rows, counts[:, 1] / rows).items():
        with np.errstate(invalid="ignore"):  # -inf less -inf
            table[measure] = np.where(of[a] == of[b], 0.0, of[a] - of[b])
    return pd.DataFrame(table)


def _associations(x: Numbers, y: float, xy: Numbers) -> dict[str, Numbers]:
    """Return how each value goes with the label, of the shares p(x), p(y) and p(x,y)."""
    with np.errstate(divide="ignore", invalid="ignore"):  # logarithms of 0
        pmi = np.log(xy / (x * y))
        return {
            "demographicParity": xy / x,
            "pmi": pmi,
            "pmiSquared": np.log(xy * xy / (x * y)),
            "nPmiY": pmi / -math.log(y),
            "nPmiXY": np.where(xy > 0, pmi / -np.log(xy), -1.0),
            "sorensenDice": 2 * xy / (x + y),
            "jaccard": xy / (x + y - xy),
            "logLikelihoodRatio": np.log(xy / y),
            "kendallTau": (xy - x * y) / np.sqrt(x * (1 - x) * y * (1 - y)),
            "tTest": (xy - x * y) / np.sqrt(x * y),
        }


def _apart(found: Numbers, q: Numbers, places: Numbers | None) -> dict[str, float]:
    """Measure how far counts are from wanted shares; `places` are the values, rising, where these are numbers."""
    rows = found.sum()
    p = found / rows
    middle, gap = (p + q) / 2, np.abs(p - q)
    total_variation = float(gap.sum() / 2)
    moved = total_variation if places is None else float(np.abs(np.cumsum(p - q)[:-1]) @ np.diff(places))
    with np.errstate(divide="ignore", invalid="ignore"):  # values that are not wanted
        statistic = float(np.where(p == q, 0.0, rows * (p - q) ** 2 / q).sum())
    return {
        "klDivergence": _relative_entropy(p, q),
        "jensenShannonDistance": math.sqrt(max(_relative_entropy(p, middle) + _relative_entropy(q, middle), 0.0) / 2),
        "infinityNorm": float(gap.max()),
        "totalVariation": total_variation,
        "wasserstein": moved,
        "chiSquare": statistic,
        "chiSquarePValue": chi_square_tail(statistic, int(np.count_nonzero(q)) - 1),
    }


def _relative_entropy(p: Numbers, q: Numbers) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(p > 0, p * np.log(p / q), 0.0).sum())


def chi_square_tail(statistic: float, freedom: int) -> float:
    """Return the chance that a chi-square variable of so many degrees of freedom is at least `statistic`.

    With whole degrees of freedom the incomplete gamma function is a finite sum of positive terms.  Without any, what
    is not 0 is rounding.

    References
    ----------
    .. [1] Abramowitz and Stegun, "Handbook of Mathematical Functions", 1964, 26.4.4 and 26.4.5.
    """
    if math.isinf(statistic):
        return 0.0
    if statistic == 0 or freedom == 0:
        return 1.0
    half, odd = statistic / 2, freedom % 2
    powers = (odd / 2 + i for i in range(freedom // 2))
    terms = (math.exp(power * math.log(half) - half - math.lgamma(power + 1)) for power in powers)
    return min(math.fsum([math.erfc(math.sqrt(half)) if odd else 0.0, *terms]), 1.0)


def _log_of_power_mean(logs: Numbers, power: float) -> float:
    """Return ln(mean(x^power)^(1/power)) of the logarithms of x: accurate near power 0, and without overflow."""
    if abs(power) < 1e-100:  # as good as 0, and products with it could lose their digits
        return float(logs.mean())
    scaled = power * logs
    top = scaled.max()
    return float(top + np.log1p(np.expm1(scaled - top).mean())) / power
