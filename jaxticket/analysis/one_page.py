"""`jt.overview`: methods judged on one page, by verdicts and by all that was measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jaxticket import _stats, results
from jaxticket._check import instance, nearest, one_of, several, text, whole
from jaxticket.analysis.criteria import CRITERIA, Criterion
from jaxticket.analysis.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

    Tables: TypeAlias = pd.DataFrame | Iterable[pd.DataFrame]

REMEDY = "pass what jt.measure returns, or tables with these columns"
# what tells two numbers of one method apart
NUMBER = ["branch", "level", "seed", "metric", "index"]
# densities that differ by less than this share are one density
SAME_DENSITY = 0.05
# a method is among the best unless another is better by so many pooled standard deviations
DEVIATIONS = 2.0


def overview(
    verdicts: Iterable[Verdict] | Mapping[str, Verdict] | None = None,
    *,
    measures: Tables | Mapping[str, Tables] | None = None,
    criteria: Sequence[str | Criterion] | None = None,
    level: int | None = None,
) -> pd.DataFrame:
    """Judge methods on one page: Table 1 of KD-LTS, next to everything that was measured.

    Without `measures` it is Table 1 alone. With them each criterion has a column with its mean over
    seeds and one with its standard deviation, and methods without a verdict have a row too. Whether
    higher or lower is better is in `jt.CRITERIA`; `jt.plots.overview` draws the page.

    Args:
      verdicts: one per row, or by the name of the method that `measures` have.
      measures: what `jt.measure` gave of trained networks, and other tables with the columns
        branch, level, density, seed, metric and value, such as `jt.speed.final(runs.table())`, or
        those of `jt.speed.generalization_gap`: one or several, in which methods are branches, or by
        method. By method, "ticket" is the method and another branch its control, such as
        "snip_reinit". Level 0 of "ticket" is the dense network everywhere.
      criteria: which, in this order: names in `jt.CRITERIA`, and `jt.Criterion` objects of your
        own. None for all in `jt.CRITERIA` that the tables have.
      level: the level at which `measures` are taken. None for that of each verdict's density; of
        methods without one, for the sparsest level that all methods have.

    Returns:
      A row per method: method, density, what verdicts say (stable, sensitive, beats, at_init,
      tuned, wins, cost_epochs; None for methods without one), and with `measures` level, seeds,
      diverged (seeds that are left out), for each criterion METRIC and METRIC_std (nan for one
      seed), and best: the criteria by which no other method is better by a clear gap, two pooled
      standard deviations over seeds (with one seed, by which none is better). "dense" comes first
      and is there to compare with: it is never among the best.

    Warns:
      UserWarning: where the methods are compared at densities that differ by more than a twentieth.

    Raises:
      ValueError: for tables with two values of one network, verdicts on what was not measured, and
        criteria that no table has.

    Examples:
      >>> import jaxticket as jt
      >>> import pandas as pd
      >>> names = ["branch", "level", "density", "seed", "metric", "value"]
      >>> ece = pd.DataFrame([("snip", 1, 0.2, 0, "ece", 0.02), ("kd_lts", 1, 0.2, 0, "ece", 0.01)],
      ...                    columns=names)
      >>> jt.overview(measures=ece)[["method", "ece", "best"]].values.tolist()
      [['snip', 0.02, ''], ['kd_lts', 0.01, 'ece']]

    Reference: KD-LTS, Table 1, and appendix C for the criteria.
    """
    if measures is None:
        for name, value in (("criteria", criteria), ("level", level)):
            if value is not None:
                raise ValueError(f"`{name}` is of `measures`, which are not given, got {value!r}")
        return results.frame(_judged(verdicts).values())
    judged = {} if verdicts is None else _judged(verdicts)
    rows = _rows(measures)
    asked = _chosen(criteria, rows)
    rows = rows.loc[rows["metric"].isin([one.metric for one in asked])]
    _check_repeated(rows)
    places = _places(rows, judged, level)
    columns = list(next(iter(judged.values()), {}))
    page, samples = [], {}
    for method, at in places.items():
        own = rows.loc[(rows["branch"] == method) & (rows["level"] == at)]
        found = {one.metric: _values(own, one) for one in asked}
        lost = [int(np.count_nonzero(~np.isfinite(x))) for x in found.values()]
        row = {"method": method, "density": float(np.median(own["density"]))}
        row |= dict.fromkeys(columns) | {"method": method, "density": row["density"]}
        row |= judged.get(method, {})
        row |= {"level": at, "seeds": max(map(len, found.values())), "diverged": max(lost)}
        samples[method] = {metric: _stats.finite(x) for metric, x in found.items()}
        for metric, x in samples[method].items():
            deviation = float(x.std(ddof=1)) if len(x) > 1 else float("nan")
            row |= {metric: _stats.mean(x), f"{metric}_std": deviation}
        page.append(row)
    best = _best(samples, asked)
    return results.frame([{**row, "best": ", ".join(best[str(row["method"])])} for row in page])


def _judged(verdicts: object) -> dict[str, dict[str, object]]:
    """The rows of Table 1 by method; of a list by the number of the verdict where names repeat."""
    if isinstance(verdicts, Mapping):
        if not verdicts:
            raise ValueError("`verdicts` is empty; pass at least one, such as {'snip': verdict}")
        return {
            text("verdicts", name): {**_of_verdict("verdicts", one).summary(), "method": name}
            for name, one in verdicts.items()
        }
    given = several("verdicts", verdicts, _of_verdict, like="[jt.verdict(runs, level=8)]")
    rows: dict[str, dict[str, object]] = {}
    for i, one in enumerate(given):
        rows[f"{one.method} {i}" if one.method in rows else one.method] = {**one.summary()}
    return rows


def _of_verdict(argument: str, value: object) -> Verdict:
    return instance(argument, value, Verdict, "verdicts, as jt.verdict returns them")


def _rows(measures: Tables | Mapping[str, Tables]) -> pd.DataFrame:
    """All numbers of all tables; the branch is the method, "dense" of the dense network."""
    if isinstance(measures, Mapping):
        if not measures:
            raise ValueError("`measures` is empty; pass tables by method, such as {'snip': table}")
        parts = [
            _renamed(table, text("measures", name))
            for name, tables in measures.items()
            for table in results.tables("measures", tables)
        ]
    else:
        parts = results.tables("measures", measures)
    return results.concat(map(_tidy, parts))


def _renamed(table: pd.DataFrame, name: str) -> pd.DataFrame:
    results.check_table(table, ("branch", "level"), argument="measures", remedy=REMEDY)
    controls = f"{name}_" + table["branch"].astype(str)
    pruned = (table["level"] > 0) & (table["branch"] != "dense")
    own = controls.mask(table["branch"] == "ticket", name)
    return table.assign(branch=table["branch"].mask(pruned, own))


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """One row per number: branch, level, density, seed, metric, index, value."""
    if "metric" not in table.columns and "gap" in table.columns:
        table = table.assign(metric="gap", value=table["gap"])
    needed = ("branch", "level", "density", "seed", "metric", "value")
    results.check_table(table, needed, argument="measures", remedy=REMEDY)
    dense = (table["branch"] == "ticket") & (table["level"] == 0)
    table = table.assign(branch=table["branch"].mask(dense, "dense"))
    # tables with and without an index were joined: one number per network has index 0
    index = table["index"].fillna(0) if "index" in table.columns else 0
    table = table.assign(index=index)
    return table.loc[:, [*NUMBER, "density", "value"]]


def _chosen(
    criteria: Sequence[str | Criterion] | None, rows: pd.DataFrame
) -> tuple[Criterion, ...]:
    """The criteria that are asked for, all of which the tables have."""
    known = [str(name) for name in rows["metric"].unique()]
    if criteria is None:
        found = tuple(one for name, one in CRITERIA.items() if name in known)
        if not found:
            raise ValueError(
                f"`measures` have none of the metrics of jt.CRITERIA, only {known[:9]}; pass "
                "criteria=(jt.Criterion('my_metric', 'lower'),)"
            )
        return found
    asked = several("criteria", criteria, _of_criterion, like="('ece', 'nll')", distinct=True)
    for one in asked:
        if one.metric not in known:
            near = nearest(one.metric, known)
            raise ValueError(f"`criteria` has {one.metric!r}, `measures` do not; {near}")
    return asked


def _of_criterion(argument: str, value: object) -> Criterion:
    if isinstance(value, Criterion):
        return value
    return CRITERIA[one_of(argument, text(argument, value), tuple(CRITERIA))]


def _check_repeated(rows: pd.DataFrame) -> None:
    """Raise where one number has two values that differ by more than rounding."""
    first = rows.groupby(NUMBER)["value"].transform("first")
    same = np.isclose(rows["value"], first, rtol=1e-5, atol=1e-9) | ~np.isfinite(rows["value"])
    if not same.all():
        one = rows.loc[~same].iloc[0]
        raise ValueError(
            f"`measures` have two values of {one['metric']!r} for {one['branch']!r}, level "
            f"{one['level']}, seed {one['seed']}; drop one of them, such as that of fewer examples"
        )


def _places(
    rows: pd.DataFrame, judged: Mapping[str, Mapping[str, object]], level: int | None
) -> dict[str, int]:
    """The level of each method, "dense" first."""
    names = [str(name) for name in rows["branch"].unique()]
    names.sort(key=lambda name: name != "dense")
    unknown = [name for name in judged if name not in names]
    if unknown:
        raise ValueError(
            f"`verdicts` has {unknown[0]!r}, `measures` have {names}; name both alike: pass "
            "verdicts as {'snip': verdict}"
        )
    own = {name: rows.loc[rows["branch"] == name] for name in names}
    density = {
        name: {int(at): float(np.median(x)) for at, x in part.groupby("level")["density"]}
        for name, part in own.items()
    }
    free = [name for name in names if name != "dense" and name not in judged]
    shared = set.intersection(*(set(density[name]) for name in free)) if free else set()
    if level is not None:
        whole("level", level)
    elif free and not shared:
        have = {name: sorted(density[name]) for name in free}
        raise ValueError(f"`level` is needed: the methods of `measures` share none, {have}")
    places = {}
    for name in names:
        if name == "dense":
            places[name] = min(density[name])
            continue
        places[name] = max(shared) if level is None and name in free else level
        if name in judged:
            places[name] = _of_density(name, float(str(judged[name]["density"])), density, level)
        elif places[name] not in density[name]:
            raise ValueError(
                f"`level` {level} is not measured of {name!r}, which has {sorted(density[name])}"
            )
    found = {name: density[name][at] for name, at in places.items() if name != "dense"}
    if found and max(found.values()) > (1 + SAME_DENSITY) * min(found.values()):
        kept = ", ".join(f"{name} {100 * share:.3g}%" for name, share in found.items())
        warnings.warn(
            f"methods are compared at different densities: {kept} of the weights. `level` chooses "
            "among what `measures` have; measure levels of one density",
            stacklevel=3,
        )
    return places


def _of_density(
    name: str, asked: float, density: Mapping[str, Mapping[int, float]], level: int | None
) -> int:
    """The level of a method at which its verdict is."""
    known = density[name]
    near = [at for at, d in known.items() if abs(d - asked) <= SAME_DENSITY * asked]
    if level is not None:
        near = [at for at in near if at == level]
    if not near:
        where = "" if level is None else f" and `level` {level}"
        raise ValueError(
            f"`measures` have {name!r} at the densities {sorted(known.values())}, its verdict is "
            f"on {asked:.4g}{where}; measure the level that was judged"
        )
    return min(near, key=lambda at: abs(known[at] - asked))


def _values(own: pd.DataFrame, criterion: Criterion) -> np.ndarray:
    """One value per seed of a method at its level; nan where it diverged."""
    rows = own.loc[(own["metric"] == criterion.metric) & (own["index"] == criterion.index)]
    return rows.drop_duplicates(NUMBER)["value"].to_numpy(float)


def _best(
    samples: Mapping[str, Mapping[str, np.ndarray]], criteria: Sequence[Criterion]
) -> dict[str, list[str]]:
    """The criteria by which each method is among the best."""
    best: dict[str, list[str]] = {name: [] for name in samples}
    for one in criteria:
        values = {
            name: one.sign * found[one.metric]
            for name, found in samples.items()
            if name != "dense" and len(found[one.metric])
        }
        if len(values) < 2:
            # nothing to be better than
            continue
        for name, ours in values.items():
            if not any(_better(theirs, ours) for theirs in values.values()):
                best[name].append(one.metric)
    return best


def _better(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether the mean of one sample is above that of another, of several seeds by a clear gap."""
    if ours.mean() <= theirs.mean():
        return False
    if min(len(ours), len(theirs)) < 2:
        return True
    return _stats.clear_gap(ours, theirs, gap=0.0, deviations=DEVIATIONS)[2]


__all__ = ["overview"]


def __dir__() -> list[str]:
    return __all__
