"""What is wrong with one run: each known fault of training, found from its curve and from a look into its model.

A fault is looked for by a function of its own, from a `Run` to findings; none of them trains or reads anything. Limits stand beside the
function that uses them, and every finding carries the figures that it was made from.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.config import COMPONENTS, ROLES
from model.probe import Probe
from tuner.diagnosis import Finding


@dataclass(frozen=True)
class Run:
    """One run: its settings, its curve (a point an epoch; empty where none was kept) and, where there is a model, what is in it."""

    settings: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]
    probe: Probe | None
    chance: Mapping[str, float]
    """Accuracy of always giving the most frequent answer, by component."""
    bound: float = 1.0
    """The component accuracy that is possible at all: words that can neither be known nor copied are left."""
    unlearnable: Mapping[str, int] = field(default_factory=dict)
    """Relations that validation asks for and train hardly has: how often validation asks for each."""
    asked: int = 0
    """How many propositions validation asks for."""


def diagnose_run(run: Run) -> list[Finding]:
    """Every fault found, in the order of `FAULTS`; of a healthy run none."""
    return [finding for fault in FAULTS for finding in fault(run)]


def _weights(run: Run) -> dict[str, float]:
    return {name: float(run.settings.get(f"loss_weights.{name}", 0.0)) for name in COMPONENTS}


def _reached(run: Run) -> float | None:
    """Component accuracy: that of the model, or else the last of the curve."""
    if run.probe is None:
        return float(run.curve[-1]["objective"]) if run.curve else None
    return float(run.probe.valid["component_accuracy"])


LEARNT = 0.5


def regressed_ids(run: Run) -> Iterator[Finding]:
    """Symbol ids regressed as if they were amounts, as in the original's parse loss, and less than half of what is possible learnt."""
    reached = _reached(run)
    if run.settings.get("proposition_loss") == "mse" and reached is not None and not reached >= LEARNT * run.bound:
        regressed = "symbol ids are regressed (proposition_loss = mse), and the mean of two ids is the id of an unrelated word"
        finding = f"{regressed}: {reached:.3f} is reached"
        yield Finding("regressed_ids", finding, "train with proposition_loss = cross_entropy", {"accuracy": reached})


DEAD = 1e-7
"""A component whose gradient is smaller than this share of all gradients does not train anything."""


def dead_components(run: Run) -> Iterator[Finding]:
    """Components that are asked for and pull at nothing, as the original's parse loss."""
    if run.probe is None:
        return
    total = sum(run.probe.gradients.values())
    for name, weight in _weights(run).items():
        if weight > 0 and run.probe.gradients[name] <= DEAD * total:
            pull = run.probe.gradients[name]
            finding = f"{name} has weight {weight:g} and a loss of {run.probe.losses[name]:.3g}, but its gradient is {pull:.1g}"
            advice = "its loss does not depend on the parameters: look for argmax, rounding or detach between them and the loss"
            yield Finding("dead_component", finding, advice, {"component": name, "gradient": pull, "all": total})


DROWNED, DROWNING = 0.01, 0.95
"""A component is drowned below the first share of the gradient while others hold the second."""


def drowned_components(run: Run) -> Iterator[Finding]:
    """Components that others leave no part of the gradient."""
    if run.probe is None:
        return
    total, losses = sum(run.probe.gradients.values()), sum(map(abs, run.probe.losses.values()))
    if not total or not losses:
        return
    shares = {name: norm / total for name, norm in run.probe.gradients.items()}
    weights = _weights(run)
    low = [name for name, share in shares.items() if weights[name] > 0 and DEAD < share < DROWNED]
    high = sorted((name for name in shares if name not in low and shares[name] > 0), key=lambda name: -shares[name])
    if low and sum(shares[name] for name in high) > DROWNING:
        of_loss = sum(abs(run.probe.losses[name]) for name in high) / losses
        parts = ", ".join(f"{name} {100 * shares[name]:.2f} %" for name in low)
        finding = f"{' and '.join(high)} are {100 * of_loss:.2f} % of the loss; of the gradient {parts} is left"
        advice = f"raise loss_weights.{low[0]} or lower the others': search them on a logarithmic scale, 0.1 to 3"
        yield Finding("drowned_component", finding, advice, {"gradient": shares, "loss": dict(run.probe.losses)})


STILL = 1e-4


def frozen_parts(run: Run) -> Iterator[Finding]:
    """Parts of the network that training has not moved."""
    if run.probe is None:
        return
    still = {name: change for name, change in run.probe.moved.items() if change < STILL}
    if still:
        finding = f"{len(still)} of {len(run.probe.moved)} parts have not moved from where they started: {', '.join(sorted(still)[:5])}"
        advice = "check that they feed into a loss whose weight is above 0, and that the learning rate is not far too small"
        yield Finding("frozen_part", finding, advice, {"moved": still})


NEAR_CHANCE, SAMENESS = 0.02, 0.5
"""Component accuracy counts as chance up to so much above the most frequent answer's. A role is answered constantly if the share of its
most frequent answer exceeds that of the most frequent gold word by more than this part of the rest: above 0.6 where gold has 0.2."""


def constant_answers(run: Run) -> Iterator[Finding]:
    """Answers that are the same whatever is read."""
    if run.probe is None:
        return
    answers = run.probe.answers.items()
    same = {role: said for role, said in answers if said.share > said.gold + SAMENESS * (1 - said.gold)}
    if same:
        told = [f"{role} is {said.word!r} in {100 * said.share:.0f} % (gold: {100 * said.gold:.0f} %)" for role, said in same.items()]
        finding = f"nearly the same answer for all sentences: {'; '.join(told)}"
        advice = "the model answers without reading: raise the learning rate; `tuner diagnose STUDY` says where others left this level"
        yield Finding("constant_answer", finding, advice, {role: list(said) for role, said in same.items()})


def at_chance(run: Run) -> Iterator[Finding]:
    """A score at the level of the most frequent answer: that of the model, or else the last of the curve."""
    reached, level = _reached(run), run.chance["component_accuracy"]
    if reached is not None and not reached >= level + NEAR_CHANCE:  # so that what is no number is found too
        finding = f"component accuracy {reached:.3f} is not above always giving the most frequent answer ({level:.3f})"
        yield Finding(
            "at_chance", finding, "the run has learnt nothing of the sentences yet", {"accuracy": reached, "most_frequent": level}
        )


HIDDEN, SHOWN = 0.01, 0.05


def hiding_metric(run: Run) -> Iterator[Finding]:
    """Exact match near zero while components are well above chance, and what they come to together too."""
    if list(at_chance(run)):
        return
    figures = run.probe.valid if run.probe else (run.curve[-1] if run.curve else {})
    if not {"exact", *ROLES} <= set(figures):
        return
    above = {role: figures[role] - run.chance[role] for role in ROLES if figures[role] > run.chance[role] + SHOWN}
    if figures["exact"] < HIDDEN and above:
        parts = ", ".join(f"{role} {figures[role]:.3f} (most frequent {run.chance[role]:.3f})" for role in above)
        finding = f"exact match says {100 * figures['exact']:.2f} % while the model learns: {parts}"
        yield Finding("hiding_metric", finding, "judge by component accuracy", {"exact": figures["exact"], "above": above})


OVERFIT = 0.15


def capacity(run: Run) -> Iterator[Finding]:
    """Train far above validation, or both low and alike after the curve has gone flat."""
    if run.probe is None:
        return
    train, valid = (float(figures["component_accuracy"]) for figures in (run.probe.train, run.probe.valid))
    level, evidence = run.chance["component_accuracy"], {"train": train, "valid": valid, "possible": run.bound}
    if train - valid > OVERFIT + 1 - run.bound:
        finding = f"component accuracy {train:.3f} on train and {valid:.3f} on validation, where {run.bound:.3f} is possible"
        advice = "the model is too large for these data: use more stories, dropout, weight_decay or word_swap, or a smaller hidden_dim"
        yield Finding("overfitting", finding, advice, evidence)
    elif level + NEAR_CHANCE < train < 0.85 and train - valid < OVERFIT / 3 and _flat(run.curve):
        finding = f"component accuracy {train:.3f} on train as on validation ({valid:.3f}), and the curve is flat"
        advice = "the model is too small or over-regularised: use a larger hidden_dim, or less dropout and weight_decay"
        yield Finding("underfitting", finding, advice, evidence)


def _flat(curve: Sequence[Mapping[str, Any]]) -> bool:
    objective = [float(point["objective"]) for point in curve]
    third = len(objective) // 3
    return third >= 2 and statistics.fmean(objective[-third:]) - statistics.fmean(objective[-2 * third : -third]) < 0.005


FEWEST_EPOCHS, FALLING, DONE = 5, 0.03, 0.8
"""A rate is too small where the loss still falls by this share of its whole way in the last quarter, and the objective is short of this."""
STEADY, BACK, HELD = 0.05, 0.2, 0.4
"""A rate is too large if these are exceeded: the share of the loss's way that leads back; the same of the loss or the objective; the
share of its first norm that the gradient keeps."""


def _back(curve: Sequence[float], better: int) -> float:
    """The share of a curve's way that leads back; `better` is 1 where it is meant to rise, -1 where to fall."""
    steps = [better * (after - before) for before, after in itertools.pairwise(curve)]
    way = sum(map(abs, steps))
    return sum(-step for step in steps if step < 0) / way if way else 0.0


def learning_rate(run: Run) -> Iterator[Finding]:
    """A rate too large (curves that go to and fro, a gradient that stays) or too small (a steady descent that is far from done)."""
    loss, objective, norm = ([float(point[name]) for point in run.curve] for name in ("loss", "objective", "gradient_norm"))
    if len(loss) < FEWEST_EPOCHS:
        return
    lr, back, held = run.settings.get("lr"), (_back(loss, -1), _back(objective, 1)), norm[-1] / max(1e-12, norm[0])
    from_to = f"from {loss[0]:.3g} to {loss[-1]:.3g} in {len(loss)} epochs"
    if back[0] > STEADY and max(back) > BACK and held > HELD:
        finding = (
            f"the loss oscillates {from_to}: {100 * back[0]:.0f} % of its way and {100 * back[1]:.0f} % of the objective's lead backward, "
            f"and the gradient norm is still {100 * held:.0f} % of its first value"
        )
        yield Finding("rate_too_large", finding, f"try a lower lr than {lr}", {"back": list(back), "gradient_held": held, "lr": lr})
    part = max(1, len(loss) // 4)
    last = loss[-1 - part] - loss[-1]
    if back[0] <= STEADY and last > FALLING * (loss[0] - loss[-1]) and objective[-1] < DONE * run.bound:
        finding = (
            f"the loss falls steadily {from_to}, by {last:.3g} in the last {part}, "
            f"while component accuracy is {objective[-1]:.3f} of {run.bound:.3f}"
        )
        yield Finding("rate_too_small", finding, f"give it more epochs, or a higher lr than {lr}", {"last": last, "lr": lr})


RARE, MANY, UNNAMEABLE = 3, 0.05, 0.05


def unlearnable_labels(run: Run) -> Iterator[Finding]:
    """Words that validation asks for and train does not teach."""
    if run.bound < 1 - UNNAMEABLE:
        finding = f"{100 * (1 - run.bound):.1f} % of the words asked for occur neither in train nor in their own sentence"
        yield Finding("unknown_words", finding, "use more stories", {"possible": run.bound})
    count = sum(run.unlearnable.values())
    if run.asked and count > MANY * run.asked:
        most = sorted(run.unlearnable, key=lambda name: (-run.unlearnable[name], name))[:5]
        finding = f"{count} of {run.asked} propositions have a relation that occurs fewer than {RARE} times in train: {', '.join(most)}"
        yield Finding(
            "unlearnable_relation", finding, "use more stories, or leave such relations out", {"relations": dict(run.unlearnable)}
        )


FAULTS: tuple[Callable[[Run], Iterator[Finding]], ...] = (
    regressed_ids,
    dead_components,
    drowned_components,
    frozen_parts,
    constant_answers,
    at_chance,
    hiding_metric,
    learning_rate,
    capacity,
    unlearnable_labels,
)
