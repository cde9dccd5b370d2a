"""What `tuner diagnose` looks at: a checkpoint's file, a trial with its curve and, if it was kept, its model, or a whole study."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial

from model.checkpoint import Checkpoint, load_checkpoint
from model.config import Hyperparameters, ModelShape, flat_settings
from model.corpus import Corpus, load_corpus
from model.devices import find_device
from model.files import is_there
from model.probe import Probe
from model.trainer import FusedTrainer, Snapshot
from tuner.definition import SYMMETRIC
from tuner.diagnosis import Finding, diagnose_study
from tuner.errors import StudyError
from tuner.faults import RARE, Run, diagnose_run
from tuner.saving import at_work
from tuner.storage import open_storage
from tuner.study import VERDICT, chance_of, definition_of, find_study, reason_of, subject_of, trial_of
from tuner.summary import summarise
from tuner.tables import CurveTable


def diagnose(subject: str, storage_url: str, device: str) -> list[Finding]:
    """The findings on a `CHECKPOINT`, a `STUDY:TRIAL` or a `STUDY`."""
    if subject.endswith(".safetensors") or is_there(Path(subject), StudyError):
        with at_work(device):
            return diagnose_run(run_of_checkpoint(load_checkpoint(Path(subject), find_device(device))))
    storage = open_storage(storage_url, create=False)
    name, number = subject_of(subject)
    study = find_study(storage, name)
    if number is None:
        definition_of(study)  # one that is not ours says so
        return [*diagnose_study(study, chance_of(study)), *_saved(study)]
    trial, curves = trial_of(study, number), CurveTable(storage, study._study_id)
    curve, verdict = tuple(curves.read(number).get(number, ())), _stopped(study, trial)
    if verdict and not curve:
        return verdict  # it ended before its first epoch, and that is all that there is to say
    run = run_of_trial(study, trial, curve, find_device(device))
    return [*verdict, *diagnose_run(run), *_unseen(run, study, trial)]


def _unseen(run: Run, study: optuna.Study, trial: FrozenTrial) -> list[Finding]:
    """What could not be looked at, where there is no model: of a trial that trains or was stopped, or that is elsewhere or removed."""
    if run.probe is not None or definition_of(study).trainer != SYMMETRIC:
        return []
    unseen, kept = "only its curve was looked at, not what it has learnt", trial.user_attrs.get("checkpoint")
    again = f"tuner train --from {study.study_name}:{trial.number} --checkpoint FILE, then tuner diagnose FILE"
    if not trial.state.is_finished():
        return [Finding("no_model", f"it has not ended: {unseen}", "look again when it has", {})]
    if kept:
        return [Finding("no_model", f"its model {kept} is not here: {unseen}", f"run this where it is, or train it again: {again}", {})]
    return [Finding("no_model", f"it has no model, for it was stopped: {unseen}", f"train it to its end: {again}", {})]


ADVICE = {
    "plateaued": "`tuner diagnose STUDY` says in which part of the space others left this level",
    "exploded": "try a lower learning rate; `tuner diagnose STUDY` says in which part of the space others left the plateau",
    "outpaced": "nothing is wrong with it, others did better: see `tuner best STUDY`",
    "out_of_memory": "a smaller hidden_dim or batch_size, or another device",
    "failed": "fix the error that its trainer raised, then put the trial in again with `tuner enqueue`",
}
"""What to do about a verdict."""


def _stopped(study: optuna.Study, trial: FrozenTrial) -> list[Finding]:
    """The verdict that ended a trial before its time; of one that somebody else has ended, that there is none."""
    if trial.state.is_finished() and VERDICT not in trial.user_attrs:
        return [Finding("failed", f"it was ended from outside: {reason_of(trial)}", "put it in again with `tuner enqueue`", {})]
    verdict: dict[str, Any] = trial.user_attrs.get(VERDICT, {})
    if verdict.get("cause") not in ADVICE:
        return []
    finding = f"{verdict['cause'].replace('_', ' ')} in epoch {verdict['epoch']}: {verdict['reason']}"
    advice = ADVICE[verdict["cause"]].replace("STUDY", study.study_name)
    return [Finding(verdict["cause"], finding, advice, dict(verdict.get("evidence", {})))]


def _saved(study: optuna.Study) -> list[Finding]:
    """How many epochs stopping saved, if any."""
    summary = summarise(study, "")
    run, saved = summary["epochs_run"], summary["epochs_saved"]
    if not saved:
        return []
    finding = f"stopping saved {saved} of {run + saved} epochs ({', '.join(f'{n} {cause}' for cause, n in summary['trials'].items())})"
    advice = f"`tuner status {study.study_name}` says why each was stopped"
    return [Finding("epochs_saved", finding, advice, {"run": run, "saved": saved, "trials": summary["trials"]})]


def probed(checkpoint: Checkpoint) -> tuple[Probe, Corpus]:
    """Looks into a saved model with the data it was trained on.

    Raises:
        CheckpointError: the data have changed since.
    """
    data = checkpoint.data
    corpus = load_corpus(data.source, data.stories, data.seed)
    checkpoint.check_data(corpus.fingerprint)
    trainer = FusedTrainer(checkpoint.shape, corpus, 1, checkpoint.store.device)
    rows = (checkpoint.store.read(0)[0].cpu(),)  # the values alone: moments are of no use here, and averages begin as the values
    trainer.restore(0, Snapshot(trainer.store.layout, checkpoint.hyperparameters, int(checkpoint.header["epoch"]), 0, rows))
    return trainer.probe(0), corpus


def run_of_checkpoint(checkpoint: Checkpoint, curve: tuple[dict[str, Any], ...] = ()) -> Run:
    """The run that made a checkpoint."""
    probe, corpus = probed(checkpoint)
    settings = flat_settings(checkpoint.shape, checkpoint.hyperparameters)
    bound = corpus.nameable("valid", checkpoint.shape.max_propositions)["component_accuracy"]
    return Run(settings, curve, probe, corpus.most_frequent("valid"), bound, *unlearnable(corpus))


def run_of_trial(study: optuna.Study, trial: FrozenTrial, curve: tuple[dict[str, Any], ...], device: torch.device) -> Run:
    """The run of a trial with this curve: with its model if that was kept and is the symmetric one, else by its curve alone.

    Raises:
        StudyError: it has no epoch yet.
    """
    if not curve:
        raise StudyError(
            f"trial {trial.number} of {study.study_name} has no epoch yet; `tuner status {study.study_name}` says how far it is"
        )
    definition, kept = definition_of(study), trial.user_attrs.get("checkpoint")
    if kept and Path(kept).is_file() and definition.trainer == SYMMETRIC:
        checkpoint, seed = load_checkpoint(Path(kept), device), int(trial.user_attrs["seed"])
        shape, hyperparameters = definition.settings(trial.params, seed)
        there = checkpoint.shape.hidden_dim, checkpoint.hyperparameters, checkpoint.fingerprint
        if there == (shape.hidden_dim, hyperparameters, study.user_attrs["data"]["fingerprint"]):
            return run_of_checkpoint(checkpoint, curve)  # else the same path leads to another study's model in this folder
    settings = {**flat_settings(ModelShape(), Hyperparameters()), **definition.filled(trial.params)}
    return Run(settings, curve, None, study.user_attrs["most_frequent"])


def unlearnable(corpus: Corpus) -> tuple[dict[str, int], int]:
    """How often validation asks for each relation that train shows less than `RARE` times, and for how many propositions in all."""
    seen = Counter(p[1] for s in corpus.sentences["train"] for p in s.propositions)
    asked = Counter(p[1] for s in corpus.sentences["valid"] for p in s.propositions)
    return {relation: count for relation, count in asked.items() if seen[relation] < RARE}, sum(asked.values())
