"""The rules, as tables of curves and as laws; and the pruners in a plain `study.optimize`."""

import math
from dataclasses import replace

import optuna
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState, create_trial

from tuner.errors import DefinitionError
from tuner.judges import Curve, ExplosionRule, HalvingRule, History, Peer, PlateauRule, StartRule
from tuner.pruning import ExplosionPruner, FirstOf, HalvingPruner, PlateauPruner, RulePruner
from tuner.verdict import Verdict

RISING = tuple(0.9 * (1 - math.exp(-epoch / 5)) for epoch in range(1, 31))
FALLING_LOSS = tuple(2 + 8 * math.exp(-epoch / 5) for epoch in range(30))
FLAT = (0.26, 0.261, 0.259, 0.26, 0.26, 0.261, 0.26, 0.259, 0.26, 0.26)
FLAT_LOSS = (343000.0, 342010.0, 342000.0, 342001.0, 341999.0, 342000.5, 342000.0, 342001.0, 341999.0, 342000.0)
numbers = st.floats(-1e6, 1e6)


def peers_of(*curves: Curve, over: bool = False) -> tuple[Peer, ...]:
    """Peers with these curves."""
    return tuple(Peer(curve, over) for curve in curves)


def flat(epochs: int, **changes: object) -> History:
    """A trial that lies at chance while three peers left it early."""
    peers = peers_of(*[RISING[:10]] * 3)
    return replace(History(FLAT[:epochs], FLAT_LOSS[:epochs], 30, chance=0.25, peers=peers), **changes)


def test_a_flat_trial_is_stopped_with_a_reason_that_carries_figures() -> None:
    """At the level of chance, with a flat loss, long after its peers left."""
    verdict = PlateauRule()(flat(10))
    assert verdict is not None
    assert verdict.cause == "plateaued"
    few_left = PlateauRule()(flat(20, objective=FLAT * 2, loss=FLAT_LOSS * 2, peers=peers_of(RISING, *[FLAT * 2] * 9)))
    assert few_left is not None
    assert "0.260" in verdict.reason
    assert "most frequent answer" in verdict.reason
    assert verdict.evidence["level"] == pytest.approx(0.26, abs=0.002)
    parts = {"parse": (5.9, *[5.8, 5.9] * 4, 5.9), "generate": FALLING_LOSS[:10], "cycle_forward": (0.0,) * 10}
    assert PlateauRule()(flat(10, losses=parts)).reason.endswith("; parse loss flat at 5.9")
    rising = PlateauRule()(flat(10, losses={**parts, "generate": (3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.2, 1.4, 1.6, 1.8)}))
    assert rising.reason.endswith("; parse loss flat at 5.9, generate loss rose by 0.8 to 1.8")


def test_what_is_no_plateau_runs_on() -> None:
    """Too early; a loss still falling; an objective rising to where it matters; converged at the top; alone before half time."""
    rule = PlateauRule()
    assert rule(flat(4)) is None
    assert rule(flat(10, loss=FALLING_LOSS[:10])) is None
    assert rule(flat(10, objective=RISING[:10])) is None
    assert rule(flat(10, objective=tuple(value + 0.6 for value in FLAT), peers=peers_of(FLAT))) is None
    assert rule(flat(10, peers=())) is None


def test_what_lies_behind_by_no_more_than_seeds_differ_runs_on() -> None:
    """Flat at 0.5 where 0.5475 would matter: stopped if another seed would do the same, not if it might come 0.05 higher."""
    behind = History((0.5,) * 20, FLAT_LOSS * 2, 30, chance=0.25, peers=peers_of(*[(0.3, *[0.6] * 19)] * 5))
    verdict = PlateauRule()(behind)
    assert verdict is not None
    assert verdict.cause == "plateaued"
    assert PlateauRule(noise=0.02)(behind) is not None
    assert PlateauRule(noise=0.05)(behind) is None


@given(st.floats(0.001, 1000), st.floats(-1000, 1000))
def test_scaling_or_shifting_the_loss_changes_no_plateau_verdict(scale: float, shift: float) -> None:
    """The loss is judged by its own range."""
    for loss in (FLAT_LOSS, FALLING_LOSS[:10]):
        moved = tuple(value / 1e5 * scale + shift for value in loss)
        assert (PlateauRule()(flat(10, loss=moved)) is None) == (PlateauRule()(flat(10, loss=loss)) is None)


@given(st.lists(st.floats(0.06, 0.3), min_size=6, max_size=20), st.floats(-1e5, 1e5))
def test_a_loss_that_improves_by_a_twentieth_of_its_range_in_every_window_is_no_plateau(steps: list[float], start: float) -> None:
    """However slowly that is against the whole."""
    loss = [start]
    for step in steps:
        loss.append(loss[-1] - step)
    span = max(loss) - min(loss)
    epochs = len(loss)
    assume(all(loss[end - 5] - loss[end - 1] >= 0.05 * span for end in range(5, epochs + 1)))
    assert PlateauRule()(History((0.2,) * epochs, tuple(loss), 30, peers=peers_of(*[(0.9,) * epochs] * 3))) is None


def test_the_original_descent_is_no_plateau_by_its_loss() -> None:
    """342,844 to 339,214 in 30 epochs is a steady descent, not a standstill."""
    loss = tuple(342844 - epoch * (342844 - 339214) / 29 for epoch in range(30))
    assert PlateauRule()(History((0.001,) * 20, loss[:20], 30, peers=peers_of(*[(0.9,) * 20] * 3))) is None


@given(st.lists(numbers, min_size=1, max_size=20), st.integers(0, 20), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_what_is_not_finite_anywhere_is_an_explosion(loss: list[float], place: int, value: float) -> None:
    """In any epoch of the loss, of a component, of the gradient's norm or of the objective."""
    broken, objective = (*loss[:place], value, *loss[place:]), (0.5,) * (len(loss) + 1)
    assert ExplosionRule()(History(objective, broken, 30)).cause == "exploded"
    assert ExplosionRule()(History(broken, (), 30)).cause == "exploded"
    assert ExplosionRule()(History(objective, objective, 30, losses={"parse": broken})).cause == "exploded"
    assert ExplosionRule()(History(objective, objective, 30, gradient_norm=broken)).cause == "exploded"


def test_what_was_never_finite_is_not_said_to_have_been() -> None:
    """There is no last finite value."""
    verdict = ExplosionRule()(flat(3, loss=(math.nan, 1.0, 1.0)))
    assert verdict is not None
    assert verdict.reason == "the loss is nan in epoch 1 (it was never finite)"
    assert verdict.evidence == {}


def test_a_loss_that_leaves_its_minimum_and_stays_away_is_an_explosion() -> None:
    """Within five epochs of the turn; not a transient at the start, not one bad epoch, not noise at the bottom."""
    falling, rule = [10.0, 8.0, 6.0, 5.0, 4.5], ExplosionRule()
    exploded = [rule(History((0.3,) * n, tuple((falling + [30.0] * 5)[:n]), 30)) for n in range(1, 11)]
    assert [verdict is not None for verdict in exploded].index(True) + 1 <= 5 + 5
    for calm in ([10.0, 60.0, 9.0, 8.0, 7.0], [*falling, 30.0, 4.4, 4.3], [10.0, 3.0, 2.0, 1.0, 1.1, 1.3, 0.9, 1.4, 1.5]):
        assert all(rule(History((0.3,) * n, tuple(calm[:n]), 30)) is None for n in range(1, len(calm) + 1))


@given(st.permutations(range(20)))
def test_halving_judges_a_cohort_alike_whatever_the_order_of_its_slots(order: list[int]) -> None:
    """The same best six go on: two tenths of twenty, and a little for the small number."""
    curves = {number: (0.0, 0.0, 0.1 * number) for number in order}
    stopped = {n for n in order if HalvingRule()(History(curves[n], epochs=50, peers=peers_of(*(curves[o] for o in order if o != n))))}
    assert stopped == set(range(14))


def test_halving_waits_for_its_rungs_and_for_enough_peers() -> None:
    """Nothing between the rungs, nothing at the last epoch, nothing among few."""
    peers = peers_of(*[(0.9,) * 50 for _ in range(8)])
    at = [epoch for epoch in range(1, 51) if HalvingRule()(History((0.1,) * epoch, epochs=50, peers=peers)) is not None]
    assert at == HalvingRule().rungs(50) == [3, 4, 6, 9, 13, 19, 28, 40]
    assert HalvingRule()(History((0.1,) * 3, epochs=50, peers=peers[:3])) is None
    assert HalvingRule(first=5).rungs(50)[0] == 5
    assert HalvingRule().rungs(5) == [1, 2, 3, 4]
    assert HalvingRule().rungs(1) == []


def test_halving_counts_those_that_ended_earlier_as_behind_and_those_still_on_the_way_not_at_all() -> None:
    """Four of 64 were better at epoch 28: few, if the others were stopped before; all there were, if they have yet to come."""
    better, short = peers_of(*[(0.9,) * 50] * 4), [(0.1,) * 5] * 60
    history = History((0.5,) * 28, epochs=50, peers=(*better, *peers_of(*short, over=True)))
    assert HalvingRule()(history) is None
    assert HalvingRule()(replace(history, peers=(*better, *peers_of(*short)))) is not None


def test_halving_spares_what_has_just_left_a_plateau() -> None:
    """Behind in level, ahead in prospect; a NaN has neither."""
    peers = peers_of(*[(0.5,) * 50 for _ in range(10)])
    assert HalvingRule()(History((0.2, 0.2, 0.4), epochs=50, peers=peers)) is None
    assert HalvingRule()(History((0.4, 0.4, 0.4), epochs=50, peers=peers)) is not None
    assert HalvingRule()(History((0.4, 0.4, math.nan), epochs=50, peers=peers)) is not None


@given(st.lists(st.integers(0, 5), min_size=2, max_size=10), st.data())
def test_of_a_start_the_best_goes_on_however_far_each_has_come(levels: list[int], data: st.DataObject) -> None:
    """That which none was better than at the rung, and its equals; what came later decides nothing."""
    rule = StartRule(len(levels), 3)
    curves = [(0.0, 0.0, level / 5, *data.draw(st.lists(st.floats(0, 1), max_size=4))) for level in levels]
    stopped = {n for n, curve in enumerate(curves) if rule(History(curve, epochs=10, peers=peers_of(*curves[:n], *curves[n + 1 :])))}
    assert stopped == {n for n, level in enumerate(levels) if any(other > level for other in levels)}


def test_a_start_is_judged_when_all_have_come_so_far_or_have_ended() -> None:
    """Not before, not at the last epoch, not while some have yet to begin; a NaN is behind whatever is none."""
    rule, there = StartRule(3, 2), History((0.1, 0.1), epochs=4, peers=peers_of((0.2, 0.2), (0.3, 0.3)))
    verdict = rule(there)
    assert (verdict.cause, verdict.epoch) == ("outpaced", 2)
    assert verdict.reason == "objective 0.100 in epoch 2: 2 of 3 that began together were better, only the best goes on"
    assert rule(replace(there, objective=(0.1,))) is None
    assert rule(replace(there, peers=peers_of((0.2, 0.2), (0.3,)))) is None
    assert rule(replace(there, peers=peers_of((0.2, 0.2)))) is None
    assert rule(replace(there, objective=(0.1,) * 4)) is None
    assert rule(replace(there, peers=(*peers_of((0.2, 0.2)), *peers_of((0.3,), over=True)))) is not None
    assert rule(replace(there, peers=peers_of((0.05, 0.05), (math.nan, math.nan)))) is None
    assert rule(replace(there, objective=(math.nan, math.nan))) is not None


@given(st.floats(0.05, 0.95), st.sampled_from([1, 4, 9]))
def test_what_converged_beside_the_best_is_no_plateau_though_chance_is_not_known(gap: float, peers: int) -> None:
    """In anybody's study: it lies a few hundredths below the luckiest epoch of its peers, and has nowhere to go."""
    curve = (*(0.1 + 0.1 * epoch for epoch in range(8)), *[0.9] * 22)
    level = 0.9 - 0.1 * gap
    history = History((*curve[:7], *[level] * 16), (), 30, peers=peers_of(*[curve] * peers, over=True))
    assert PlateauRule()(history) is None
    assert PlateauRule()(replace(history, objective=(0.1,) * 23)) is not None


def test_an_objective_that_begins_at_nothing_does_not_explode_when_it_dips() -> None:
    """A correlation, a reward: 0, 0, -0.01, -0.02, alone or among peers that rise to 0.8; a fall by as much as they rise is one."""
    rule = ExplosionRule()
    dips = History((0.0, 0.0, -0.01, -0.02), (), 30)
    peers = peers_of((0.0, 0.5, 0.8), (0.01, 0.4, 0.7))
    assert rule(replace(dips, peers=peers)) is None
    assert rule(replace(dips, objective=(0.0, 0.01, -0.02, -0.03), peers=peers)) is None
    assert rule(replace(dips, objective=(0.0, 0.1, -1.5, -1.6), peers=peers)) is not None
    assert rule(replace(dips, objective=(0.0, 0.0, 0.0, 0.0))) is None


def test_what_ended_by_itself_stands_where_it_ended() -> None:
    """In a plain study: it is not behind because it was short, and where it has reported nothing it is nobody's peer."""

    def verdict(*others: FrozenTrial) -> Verdict | None:
        study = optuna.create_study(direction="maximize")
        study.add_trials(others)
        trial = study.ask()
        for epoch in range(1, 20):
            trial.report(0.1, epoch)
        return HalvingPruner(30, first=19, slack=0.0).judge(study, study.trials[-1])

    short = create_trial(value=0.95, intermediate_values=dict.fromkeys(range(1, 13), 0.95))
    stopped = create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.05})
    silent = create_trial(value=0.95)
    assert verdict(*[stopped] * 9) is None
    assert verdict(*[silent] * 9) is None
    found = verdict(*[short] * 9, silent)
    assert found is not None
    assert "9 of 9 others were better" in found.reason


def judged_beside(others: list[FrozenTrial], reports: dict[int, float], pruner: RulePruner, direction: str = "maximize") -> Verdict | None:
    """What a pruner says of a running trial with these reports."""
    study = optuna.create_study(direction=direction)
    study.add_trials(others)
    trial = study.ask()
    for step, value in reports.items():
        trial.report(value, step)
    return pruner.judge(study, study.trials[-1])


def test_trials_are_compared_step_by_step_wherever_they_begin() -> None:
    """One that goes on from a checkpoint is no good beginner, and stops none; one that leaves steps out is behind by what it reports."""
    rising = [create_trial(value=0.9, intermediate_values={step: 0.03 * step for step in range(1, 31)}) for _ in range(9)]
    late = [create_trial(value=0.9, intermediate_values={step: 0.03 * step for step in range(11, 31)}) for _ in range(9)]
    halving = HalvingPruner(30, first=2, slack=0.0)
    assert judged_beside(late, {1: 0.03, 2: 0.06}, halving) is None
    assert judged_beside(rising, {11: 0.34, 12: 0.37}, halving) is None
    behind = judged_beside(rising, {11: 0.31, 12: 0.34}, halving)
    assert behind is not None
    assert behind.reason.startswith("objective 0.340 in epoch 2: 9 of 9 others were better")
    assert judged_beside(rising, {5: 0.16, 10: 0.31}, halving) is None
    assert judged_beside(rising, {5: 0.14, 10: 0.29}, halving) is not None
    strided = [create_trial(value=0.9, intermediate_values={5 * step: 0.1 * step for step in range(1, 7)}) for _ in range(9)]
    assert judged_beside(strided, {5: 0.11, 10: 0.21}, HalvingPruner(6, first=2, slack=0.0)) is None
    assert judged_beside(strided, {5: 0.09, 10: 0.19}, HalvingPruner(6, first=2, slack=0.0)) is not None
    assert judged_beside(rising, {30: 0.1}, HalvingPruner(30, first=1, slack=0.0)) is None, "nothing is left to save"
    short = [create_trial(value=0.9, intermediate_values={step: 0.03 * step for step in range(1, 9)}) for _ in range(9)]
    assert judged_beside(short, {11: 0.2, 12: 0.2}, HalvingPruner(22, first=2, slack=0.0)) is not None, "they stand where they ended"


def test_trials_with_steps_of_their_own_are_judged_to_their_end() -> None:
    """Each reports after as many sentences, so in steps of its own: none has reported all that there are."""
    quick = [create_trial(value=0.9, intermediate_values={100 * step: 0.03 * step for step in range(1, 31)}) for _ in range(4)]
    slow = [create_trial(value=0.9, intermediate_values={400 * step: 0.03 * step for step in range(1, 31)}) for _ in range(5)]
    reports = {400 * step: 0.1 for step in range(1, 21)}
    assert judged_beside([*quick, *slow], reports, PlateauPruner(30)) is not None
    assert judged_beside([*quick, *slow], reports, HalvingPruner(30, first=20, slack=0.0)) is not None


def test_a_verdict_has_the_objective_as_it_was_reported() -> None:
    """Whether it is to be made small or large; and where no loss is reported it is the objective that fell."""
    good = [create_trial(value=0.1, intermediate_values=dict.fromkeys(range(1, 21), 0.1)) for _ in range(9)]
    flat = judged_beside(good, dict.fromkeys(range(1, 16), 0.69), PlateauPruner(20), "minimize")
    assert flat is not None
    assert "objective 0.690 +-" in flat.reason
    assert flat.evidence["level"] == 0.69
    behind = judged_beside(good, {1: 0.6, 2: 0.6}, HalvingPruner(20, first=2, slack=0.0), "minimize")
    assert behind is not None
    assert behind.reason.startswith("objective 0.600 in epoch 2")
    fell = judged_beside([], {1: 0.8, 2: 0.9, 3: 0.0, 4: -3.0, 5: -3.5}, ExplosionPruner(20))
    assert fell is not None
    assert fell.reason.startswith("the objective fell from 0.9 to -3.5")
    rose = judged_beside([], {1: 0.8, 2: 0.7, 3: 1.0, 4: 3.0, 5: 3.5}, ExplosionPruner(20), "minimize")
    assert rose is not None
    assert rose.reason.startswith("the objective rose from 0.7 to 3.5")
    endless = judged_beside([], {1: 0.8, 2: math.inf}, ExplosionPruner(20), "minimize")
    assert endless is not None
    assert endless.reason == "the objective is inf in epoch 2 (last finite value: 0.8)"


def test_the_pruners_work_in_a_plain_study() -> None:
    """Anybody's `study.optimize`: the hopeless are pruned, the good ones are not, in either direction."""
    for direction, sign in (("maximize", 1), ("minimize", -1)):
        pruner = FirstOf(ExplosionPruner(30), PlateauPruner(30), HalvingPruner(30))
        study = optuna.create_study(direction=direction, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=1))

        def objective(trial: optuna.Trial, sign: int = sign) -> float:
            top = trial.suggest_float("top", 0.0, 1.0)
            for epoch in range(1, 31):
                value = top * RISING[epoch - 1] if trial.number != 5 or epoch < 4 else math.nan
                trial.report(sign * value, epoch)
                if trial.should_prune():
                    raise optuna.TrialPruned
            return sign * top * RISING[-1]

        study.optimize(objective, n_trials=30)
        states = [trial.state.name for trial in study.trials]
        assert states.count("PRUNED") >= 10
        best = max(study.trials, key=lambda trial: trial.params["top"] if trial.number != 5 else 0.0)
        assert best.state.name == "COMPLETE"
        assert len(study.trials[5].intermediate_values) <= 4


def test_a_pruner_that_could_judge_nothing_is_refused() -> None:
    """When it is made, not in the middle of a study."""
    for make, why in (
        (lambda: PlateauPruner(30, window=1), r"window: .* greater than or equal to 3 \(given: 1\)"),
        (lambda: PlateauPruner(30, top=1.0), r"top: .* less than 1 \(given: 1.0\)"),
        (lambda: PlateauPruner(30, noise=-1.0), r"noise = -1.0 is not allowed"),
        (lambda: ExplosionPruner(30, stay=0), r"stay: .* greater than or equal to 1 \(given: 0\)"),
        (lambda: HalvingPruner(30, first=math.inf), r"first: .* finite number \(given: inf\)"),
        (lambda: HalvingPruner(30, keep_last=0.5), r"^keep_last = 0.5 lies above keep_first = 0.2"),
        (lambda: HalvingPruner(0), "epochs = 0 is not allowed"),
        (FirstOf, "takes one or more pruners for trials of one length, not for none"),
        (lambda: FirstOf(ExplosionPruner(10), PlateauPruner(30)), r"not for \[10, 30\]"),
    ):
        with pytest.raises(DefinitionError, match=why):
            make()
