"""Claims of the sources are judged by intervals, and printed numbers by two deviations."""

import csv
import math

import numpy as np
import pytest
from scipy import stats

from experiments import index, reproduced
from experiments.common import claims

RESULTS = index.ROOT / reproduced.RESULTS


def row(values):
    return {"mean": np.mean(values), "std": np.std(values, ddof=1), "seeds": len(values)}


def as_text(entry):
    return {name: str(value) for name, value in entry.items()}


def test_a_difference_has_welchs_interval():
    one, other = np.array([0.95, 0.96, 0.98, 0.97, 0.91]), np.array([0.90, 0.93, 0.91])
    found = claims.difference(as_text(row(one)), as_text(row(other)), 100)
    wanted = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert found.mean == pytest.approx(100 * (one.mean() - other.mean()))
    assert (found.low, found.high) == pytest.approx((100 * wanted.low, 100 * wanted.high))


def test_the_same_seeds_are_compared_one_by_one(tmp_path):
    one, other = [0.95, 0.90, 0.85], [0.94, 0.88, 0.85]
    lines = ["branch,level,density,mean,std,seeds,diverged,split"]
    seeds = ["branch,level,density,seed,value"]
    for branch, values in (("ticket", one), ("reinit", other)):
        found = row(values)
        lines.append(f"{branch},1,0.2,{found['mean']},{found['std']},3,0,test")
        seeds += [f"{branch},1,0.2,{n},{value}" for n, value in enumerate(values)]
        # another level, which must not be mixed in
        seeds += [f"{branch},2,0.1,{n},0.1" for n in range(3)]
    (tmp_path / "final.csv").write_text("\n".join(lines))
    entry = {"one": {"branch": "ticket", "density": 0.2}}
    entry["other"] = {"branch": "reinit", "density": 0.2}
    apart = claims.measured(tmp_path, entry)
    (tmp_path / "final_by_seed.csv").write_text("\n".join(seeds))
    found = claims.measured(tmp_path, entry)
    wanted = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert found.mean == pytest.approx(apart.mean) == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((100 * wanted.low, 100 * wanted.high))
    assert found.high < apart.high
    # with other seeds there is nothing to pair
    (tmp_path / "final_by_seed.csv").write_text("\n".join(seeds[:-6]))
    assert claims.measured(tmp_path, entry) == pytest.approx(apart)


def test_differences_seed_by_seed_have_students_interval():
    gaps = np.array([0.3, 0.1, 0.4])
    entry = {"difference": gaps.mean(), "std": gaps.std(ddof=1), "seeds": 3}
    wanted = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert claims.paired(as_text(entry), 1) == pytest.approx((gaps.mean(), *wanted))


@pytest.mark.parametrize(
    ("effect", "least", "most", "verdict"),
    [
        ((0.5, 0.1, 0.9), 0, math.inf, "reproduced"),
        ((0.5, -0.1, 1.1), 0, math.inf, "cannot be told"),
        ((-0.5, -0.9, -0.1), 0, math.inf, "not reproduced"),
        ((0.5, 0.1, 0.9), -1, 1, "reproduced"),
        ((0.5, 0.1, 0.9), -math.inf, 0, "not reproduced"),
        ((0.5, math.nan, math.nan), 0, math.inf, "cannot be told"),
    ],
)
def test_verdicts(effect, least, most, verdict):
    assert claims.Effect(*effect).judged(least, most) == verdict


def test_a_table_of_seeds_is_compared_by_a_column(tmp_path):
    lines = ["seed,level,density,branch,early_stop_step,accuracy"]
    steps = {("ticket", 1): [1650, 1800, 1500], ("reinit", 1): [5100, 5000, 5500]}
    for (branch, level), values in steps.items():
        lines += [f"{n},{level},0.2,{branch},{step},0.9" for n, step in enumerate(values)]
    (tmp_path / "early_stop.csv").write_text("\n".join(lines))
    entry = {"table": "early_stop.csv", "column": "early_stop_step", "scale": 1}
    entry |= {name: {"branch": name, "density": 0.2} for name in ("ticket", "reinit")}
    entry |= {"one": entry.pop("ticket"), "other": entry.pop("reinit")}
    found = claims.measured(tmp_path, entry)
    wanted = stats.ttest_rel(*steps.values()).confidence_interval(0.95)
    assert found == pytest.approx((-3550, wanted.low, wanted.high))
    assert str(found).startswith("\u22123,550 [\u22124,")
    # a network that never stopped
    (tmp_path / "early_stop.csv").write_text("\n".join([*lines[:-1], "2,1,0.2,reinit,,"]))
    assert claims.measured(tmp_path, entry).judged(-math.inf, 0) == "cannot be told"
    # a seed that only one of the two has
    (tmp_path / "early_stop.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="each seed must have one row of both"):
        claims.measured(tmp_path, entry)


def test_one_seed_and_lost_networks_tell_nothing():
    # as jt.speed.over_seeds writes them
    one, five = ({"mean": "0.9", "std": "0", "seeds": n, "diverged": "0"} for n in "15")
    lost = {"mean": "0.8", "std": "0.01", "seeds": "5", "diverged": "1"}
    for pair in ((one, one), (one, five), (five, one), (five, lost)):
        effect = claims.difference(*pair, 100)
        assert not math.isnan(effect.mean) and math.isnan(effect.low)
        assert effect.judged(0, math.inf) == "cannot be told"
    effect = claims.paired({"difference": "", "std": "", "seeds": "3"}, 1)
    assert effect.judged(0, math.inf) == "cannot be told"
    assert claims.difference(five, five, 100) == (0, 0, 0)


def test_barriers_are_read_in_points(tmp_path):
    (tmp_path / "verdicts.csv").write_text(
        "branch,level,at,density,barrier_mean,barrier_low,barrier_high\nticket,0,5,1,0.1,0.05,0.2\n"
    )
    entry = {"barrier": {"branch": "ticket", "at": 5}}
    assert claims.measured(tmp_path, entry) == pytest.approx((10, 5, 20))


def test_one_row_is_found():
    rows = [
        {"branch": branch, "density": density, "mean": branch + density}
        for branch in ("ticket", "reinit")
        for density in ("0.5", "0.25")
    ]
    assert claims.found(rows, {"branch": "ticket", "density": 0.26})["mean"] == "ticket0.25"
    for asked in ({"branch": "ticket"}, {"branch": "ticket", "density": 0.1}, {"branch": "lrr"}):
        with pytest.raises(ValueError, match="rows of the table"):
            claims.found(rows, asked)


def test_the_claims_lie_in_published_results():
    found = claims.read()
    assert len(found) >= 15
    assert {claim.verdict for claim in found} <= set(claims.VERDICTS)
    assert all((RESULTS / claim.table).is_file() for claim in found)
    (claim,) = [c for c in found if c.text.startswith("RigL is above static")]
    with (RESULTS / claim.table).open(encoding="utf-8") as file:
        mean = {
            line["branch"]: float(line["mean"])
            for line in csv.DictReader(file)
            if line["split"] == "test" and abs(float(line["density"]) - 0.0915) < 0.002
        }
    assert claim.effect.mean == pytest.approx(100 * (mean["rigl"] - mean["static"]))


def test_all_printed_numbers_are_kept():
    found = claims.printed()
    assert [int(number.row["number"]) for number in found] == list(range(1, 217))
    for number in found:
        measured = bool(number.row["results"])
        assert measured == bool(number.row["branch"]) == bool(number.row["at"])
        assert measured != math.isnan(number.mean)


@pytest.mark.parametrize(
    ("mean", "std", "near"),
    [
        (98.2, 0.1, "within 2 deviations"),
        (97.4, 0.1, "within 1 point"),
        (96.9, 0.1, ""),
        (96.9, 0.8, "within 2 deviations"),
    ],
)
def test_how_near_a_printed_number_is(mean, std, near):
    number = claims.Printed({"value": "98.3\u00b10.1"}, mean, std, 5)
    assert number.away == pytest.approx(mean - 98.3) and number.near == near


def test_the_page_has_every_claim():
    page = (index.ROOT / reproduced.PAGE).read_text(encoding="utf-8")
    found = claims.read()
    assert f"Of {len(found)} claims" in page
    for claim in found:
        (line,) = [
            line for line in page.splitlines() if f"| {claim.text} | {claim.setting} |" in line
        ]
        assert str(claim.effect) in line and line.endswith(f"| {claim.verdict} |")
