"""What the benchmarks compute besides time: agreement of labels, operations by the book."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks import gpu_check, search_race, winner_noise
from benchmarks.flops import step_flops
from benchmarks.label_noise import agreement
from benchmarks.luck import compared, drawn
from benchmarks.pruning_replay import judged, ours, read, replay, replay_rule
from benchmarks.race.picture import curves, draw
from benchmarks.race.score import best_by, corpora, epochs_by, of_race, reached, score
from benchmarks.race.table import MARKED, USUAL_ROWS, rewritten, tables
from benchmarks.race.task import Task
from model.config import ModelShape
from tests.postgres import binaries


def test_agreement_is_counted_by_position_and_in_any_order() -> None:
    """One triple missing at the front shifts all later ones, which any order forgives; a spurious verb costs its kind alone."""
    dog, red, cat, see = ("dog", "type", "dog"), ("dog", "has_property", "red"), ("cat", "type", "cat"), ("cat", "see", "dog")
    found = agreement([[red, cat], [cat, see]], [[dog, red, cat], [cat]])
    assert found["entity"] == pytest.approx(2 / 4)
    assert found["relation"] == pytest.approx(1 / 4)
    assert found["exact"] == pytest.approx(1 / 4)
    assert found["triple_f1"] == pytest.approx(2 * 3 / (4 + 4))
    assert found["f1"] == {"type": pytest.approx(2 * 2 / 5), "has_property": 1.0, "verb": 0.0}


def test_operations_by_the_book_grow_with_what_is_real() -> None:
    """Twice the sentences cost twice as much; pads and slots are no part of it; a larger table costs its products alone."""
    shape = ModelShape(hidden_dim=64)
    once, twice = step_flops(shape, 1000, 400, 80, 12, 2.5), step_flops(shape, 1000, 800, 160, 12, 2.5)
    assert twice == pytest.approx(2 * once, rel=1e-6)
    more = step_flops(shape, 2000, 400, 80, 12, 2.5)
    assert more - once == pytest.approx(2 * 7 * 64 * 1000 * (400 + 3 * 80), rel=1e-6)


def recorded(number: int, steps: int) -> np.ndarray:
    """Losses that fall to levels of their own, some late, some to NaN."""
    generator = np.random.default_rng(3)
    low, start = generator.uniform(0.1, 0.69, (number, 1)), generator.integers(0, 20, (number, 1))
    fallen = 1 - np.exp(-np.maximum(0, np.arange(steps)[None] - start) / 6)
    curves = 0.69 - (0.69 - low) * fallen + generator.normal(0, 0.005, (number, steps))
    curves[::9, 15:] = np.nan
    return curves


@pytest.mark.parametrize("cohort", [1, 16])
def test_a_rule_alone_spends_what_its_pruner_spends(cohort: int) -> None:
    """The replay without a study, by which thresholds are chosen, and the one through a real pruner."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = recorded(48, 40)
    spent = replay_rule(curves, ours(40).rule, cohort)
    assert np.array_equal(spent, replay(curves, ours(40), cohort))
    assert 40 < spent.sum() < 0.6 * curves.size


def test_regret_budget_and_the_best_that_were_stopped_are_counted_by_hand() -> None:
    """Three curves that end at 0.1, 0.2 and 0.4; the best was stopped after one of two evaluations."""
    curves = np.array([[0.5, 0.1], [0.5, 0.2], [0.5, 0.4]])
    regret, budget, stopped = judged(curves, np.array([1, 2, 2]))
    assert regret == pytest.approx((0.2 - 0.1) / (0.2 - 0.1))
    assert budget == pytest.approx(5 / 6)
    assert stopped == pytest.approx(1 / 3)


def test_regret_where_the_median_says_nothing() -> None:
    """All alike: no pick is worse than another. Most diverged: only the best is right, and what diverged is none of the best ten."""
    alike = np.full((5, 3), 0.5)
    assert judged(alike, np.array([3, 3, 1, 1, 1])) == (0.0, pytest.approx(9 / 15), pytest.approx(3 / 5))
    diverged = np.array([[0.5, 0.1], [0.5, 0.2], *([[0.5, np.nan]] * 4)])
    assert judged(diverged, np.full(6, 2)) == (0.0, 1.0, 0.0)
    assert judged(diverged, np.array([1, 2, 2, 2, 2, 2]))[0] == 1.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([{"valid": {"accuracy": [1.0]}}], r"not a list of .* KeyError 'loss'"),
        ([{"valid": {"loss": [0.5, 0.4]}}, {"valid": {"loss": [0.5]}}], r"curves of \[1, 2\] evaluations"),
        ([{"valid": {"loss": [0.5, 0.4]}}, {"valid": {"loss": [None, 0.4]}}], r"record 1 has a value after one that is missing"),
    ],
)
def test_curves_of_another_form_are_refused(content: list[object], said: str, tmp_path: Path) -> None:
    """With what is wrong with them, rather than figures that mean nothing."""
    (tmp_path / "curves.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=said):
        read(tmp_path / "curves.json")


def test_the_race_counts_what_had_ended_by_when() -> None:
    """Two seeds each; who never reaches the target counts with the whole time; a row that failed says so."""
    seen = {"busy_share": 0.9, "peak_mb": 500, "error": "", "pick": {"test": {"component_accuracy": 0.7}}}
    fast = {
        **seen,
        "searcher": "fast",
        "machine": {"ms_a_step": 20.0},
        "ends": [[10.0, 0.5], [30.0, 0.8]],
        "epochs": [[5.0, 3], [29.0, 20], [31.0, 22]],
    }
    slow = {**seen, "searcher": "slow", "ends": [[20.0, 0.6]], "epochs": [[20.0, 9]], "error": "Traceback", "pick": None}
    assert reached(fast, 0.7) == 30.0
    assert reached(slow, 0.7) is None
    assert [epochs_by(fast, second) for second in (1, 6, 30, 99)] == [0, 3, 20, 22]
    found = score([fast, {**fast, "ends": [[20.0, 0.79]]}, slow, slow], 2)
    assert found["target"] == pytest.approx(0.784)
    ahead, behind = found["searchers"]["fast"], found["searchers"]["slow"]
    assert ahead["seconds_to_target"]["mean"] == 25.0
    assert ahead["seconds_to_share"]["0.98"] == 25.0
    assert behind["seconds_to_share"] == dict.fromkeys(("0.92", "0.94", "0.96", "0.98"), 120)
    assert list(ahead["best_by_second"]) == ["30", "60", "90", "120"]
    assert ahead["best_by_second"]["30"] == pytest.approx((0.79 + best_by(fast, 30)) / 2)
    assert ahead["seconds_to_target"]["high"] - 25 == pytest.approx(12.706 * 5, rel=1e-3)  # t of one degree, an error of five
    assert (ahead["reached"], behind["reached"]) == (2, 0)
    assert behind["seconds_to_target"]["mean"] == 120
    assert (list(ahead["anytime"])[:2], len(ahead["anytime"]), behind["anytime"]["120"]["mean"]) == (["5", "10"], 24, 0.6)
    assert behind["test"]["mean"] is None
    assert behind["errors"] == ["Traceback", "Traceback"]
    assert ahead["overhead"]["mean"] == pytest.approx(0.1)
    assert (ahead["ms_a_step"]["mean"], behind["ms_a_step"]["mean"]) == (20.0, None)


def test_a_searcher_that_came_to_no_epoch_is_no_slow_one() -> None:
    """It says so in the table, and counts with the whole time."""
    seen = {"searcher": "syne-asha", "task": {"seed": 0}, "busy_share": 0.0, "peak_mb": 0, "error": "", "pick": None}
    rows = [
        {**seen, "ends": [[20.0, 0.6]], "epochs": [[20.0, 9]]},
        {**seen, "ends": [], "epochs": [], "error": "No module named 'syne_tune'"},
    ]
    assert "| Syne Tune, ASHA | 1 of 2, 1 without an epoch | 20, - | 70 |" in tables(rows, 2)


def test_the_anytime_curve_is_the_mean_over_seeds_with_its_interval(tmp_path: Path) -> None:
    """What ends best first; no interval before all seeds have ended a trial, nor of two seeds. A picture also where nothing has ended."""
    rows = [{"searcher": "random", "ends": [[20.0 + seed, 0.5 + seed / 10]]} for seed in range(3)]
    rows += [{"searcher": "tuner", "ends": [[10.0, 0.7]]}, {"searcher": "tuner", "ends": [[30.0, 0.9]]}]
    nothing = [{"searcher": "syne-asha", "ends": []}]
    ours, other, none = curves([*nothing, *rows], 1)
    assert [curve.name for curve in (ours, other, none)] == ["tuner", "random", "syne-asha"]
    assert [ours.mean[second] for second in (9, 10, 60)] == pytest.approx([0.0, 0.35, 0.8])
    assert (ours.band, none.band, min(other.band)) == ({}, {}, 22)
    assert other.band[60] == pytest.approx((0.6 - 4.303 * 0.1 / 3**0.5, 0.6 + 4.303 * 0.1 / 3**0.5), abs=1e-3)
    for number, raced in enumerate(([*nothing, *rows], nothing)):
        draw(raced, 1, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes()[:4] == b"\x89PNG"


def row_of(seed: int, corpus: str, epochs: list[list[float]]) -> dict[str, object]:
    """As much of a row as tells whose it is."""
    task = {"stories": 100, "epochs": 10, "minutes": 4.0, "seed": seed, "device": "cpu", "corpus": corpus}
    return {"searcher": "tuner", "task": task, "epochs": epochs}


def test_the_race_runs_what_is_missing_of_its_own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of other data are others', and one that did not come to an epoch is run again in its place."""
    options = argparse.Namespace(
        **{"rows": tmp_path / "rows.jsonl", "first_seed": 0, "seeds": 3, "searchers": ["tuner"], "data": Path("here.jsonl")},
        **{"stories": 100, "epochs": 10, "minutes": 4.0, "device": "cpu"},
    )
    there = [row_of(0, "here-1", [[1.0, 1]]), row_of(1, "here-1", []), row_of(2, "away-2", [[1.0, 1]])]
    options.rows.write_text("".join(json.dumps(row) + "\n" for row in there))
    run = list[int]()

    def ran(_: str, task: Task, corpus: str) -> dict[str, object]:
        run.append(task.seed)
        return row_of(task.seed, corpus, [[2.0, 2]])

    monkeypatch.setattr(search_race, "run", ran)
    search_race.play(options, "here-1")
    assert run == [1, 2]
    kept = search_race.played(options.rows)
    assert sorted((row["task"]["corpus"], row["task"]["seed"]) for row in kept) == [("away-2", 2), *(("here-1", seed) for seed in range(3))]
    assert all(row["epochs"] for row in kept)


def test_the_tables_of_the_race_are_what_its_rows_say() -> None:
    """Each between its marks; written anew by `python -m benchmarks.search_race --count --results benchmarks/RESULTS.md`."""
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    results = (folder / "RESULTS.md").read_text()
    marked = MARKED.findall(results)
    assert len(marked) >= 2
    emptied = MARKED.sub(r"\1\6", results)
    for name in {mark[4] or USUAL_ROWS for mark in marked}:
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        assert rewritten(results, rows, name) == results
        emptied = rewritten(emptied, rows, name)
    assert emptied == results, "what stands between the tables is left"


def test_every_row_that_is_kept_can_be_counted() -> None:
    """Those of a GPU too, of which no table is."""
    files = sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("race_*.jsonl"))
    assert len(files) >= 3
    for path in files:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        races = {tuple(row["task"].get(name, "cpu") for name in ("stories", "epochs", "minutes", "device")) for row in rows}
        for race in races:
            own = [row for row in rows if of_race(row, *race, corpora(rows)[0])] or [row for row in rows if of_race(row, *race)]
            assert score(own, race[2])["searchers"], (path.name, race)


@pytest.mark.usefixtures("one_thread")
def test_what_only_a_gpu_can_show_runs_without_one_too() -> None:
    """In small, on the CPU: slots train as alone to 1e-9 in float64, the real search ends, and what has no meaning here is null."""
    found = gpu_check.measure(argparse.Namespace(device="cpu", dim=16, stories=20, searched=20, trials=2, epochs=2, seconds=0.1))
    assert found["parity_float64"] < 1e-9
    assert found["parity_float32"] < 1e-3
    assert found["replayed_beside_as_it_stands"] == 0
    assert found["throughput"]["widths"]["1"]["trial_steps_per_second"] > 0
    assert sum(found["search"]["trials"].values()) == 2
    assert (found["device"], found["waits_an_epoch"], found["short_of_memory"]) == ("cpu", None, None)


def test_intervals_and_pure_noise_are_measured_on_simulated_studies() -> None:
    """In small: each case once, most intervals hold the truth, and noise seldom wins."""
    found = winner_noise.measured(studies=20, seed=0)
    assert [len(found[name]) for name in ("shares", "differences", "winners")] == [18, 24, 7]
    assert all(case["held"] >= 0.7 and case["half"] > 0 for name in ("shares", "differences") for case in found[name])
    assert all(case["announced"] <= 0.2 for case in found["winners"])


def test_luck_is_what_one_setting_spreads_as_much_as_many() -> None:
    """The ratio's interval holds 1 where both spread alike, lies above it where settings differ; they are drawn from the race's space."""
    generator = np.random.default_rng(1)

    def pairs(count: int, sd: float) -> list[tuple[float, float]]:
        values = 0.78 + sd * generator.standard_normal(count)
        return [(float(value), float(value) - 0.01) for value in values]

    alike, apart = compared(pairs(60, 0.01), pairs(60, 0.01), 0.79), compared(pairs(60, 0.03), pairs(60, 0.01), 0.79)
    assert alike["ratio"][1] < 1 < alike["ratio"][2]
    assert apart["ratio"][1] > 1
    assert alike["correlation"] == 1.0
    hits, count, low, high = alike["reached"]
    assert count == 120
    assert low < hits / count < high
    definition, shape = Task("", 100, 10, 1.0, 0, "").definition, {"hidden_dim": 64, "batch_size": 16}
    points, middle = drawn(definition, shape, 2e-3, 20)
    assert len({definition.settings(point, 0)[0] for point in [*points, middle]}) == 1
    assert 2e-3 <= min(point["lr"] for point in points) < middle["lr"] < max(point["lr"] for point in points) <= 1e-2
    assert (points, middle) == drawn(definition, shape, 2e-3, 20)


def test_how_far_one_study_scales_is_measured() -> None:
    """With a real PostgreSQL, two workers and two seconds."""
    if binaries() is None:
        pytest.skip("needs a PostgreSQL server: pip install pgserver")
    command = [sys.executable, "-m", "benchmarks.scaling", "--json", "--workers", "2", "--seconds", "2"]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["postgresql"]
    assert (row["workers"], row["trials"] > 2) == (2, True)
