"""Saved models: safetensors with everything needed to load them again in one JSON header. No pickle, ever.

A checkpoint names its own shape, settings, symbol table, data and most frequent answers, so that no flag is repeated to load it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from model.config import MODEL_VERSION, ROLES, ModelShape, flat_settings, settings_from
from model.corpus import Split, answer_always, ceiling, encode_sentences, fingerprint_of, nameable, split_sentences, too_long
from model.errors import CheckpointError, ConfigError, DataError
from model.evaluation import Evaluation, evaluate_split, relation_kinds
from model.extraction import Progress, silent
from model.files import is_there, read_numbers, save_numbers
from model.network import SymmetricNetwork
from model.parameters import ParameterStore
from model.sources import HUB, DataSource, load_sentences
from model.stories import Sentence
from model.trainer import FusedTrainer
from model.vocabulary import Vocabulary

FORMAT, VERSION = "tuner checkpoint", MODEL_VERSION
LARGEST_FILE = 4 << 30


def check_writable(path: Path) -> None:
    """Finds out before the training whether its checkpoint can be written.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; --checkpoint names a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def save_checkpoint(path: Path, trainer: FusedTrainer, slot: int, data: DataSource, evaluation: Evaluation | None) -> None:
    """Writes one slot's model; the file appears under its name only when it is whole."""
    state, corpus = trainer.state(slot), trainer.corpus
    header = {
        "format": FORMAT,
        "version": VERSION,
        "settings": flat_settings(trainer.shape, state.hyperparameters),
        "max_rules": trainer.shape.max_rules,
        "max_propositions": trainer.shape.max_propositions,
        "max_tokens": corpus.max_tokens,
        "epochs": state.hyperparameters.epochs,
        "epoch": state.epoch,
        "seed": state.hyperparameters.seed,
        "symbols": corpus.vocabulary.symbols,
        "endings": corpus.vocabulary.endings,
        "verbs": corpus.vocabulary.verbs,
        "data": {"name": corpus.name, "fingerprint": corpus.fingerprint, **vars(data)},
        "most_frequent": corpus.answers,
        "evaluation": evaluation.as_dict() if evaluation else None,
    }
    save_numbers(path, trainer.parameters(slot), header)


class Checkpoint:
    """A loaded model: parses, generates, and can be evaluated on any data."""

    def __init__(self, path: Path, header: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> None:
        self.path, self.header = path, header
        try:
            shape, self.hyperparameters = settings_from(
                header["settings"], epochs=header["epochs"], seed=header["seed"], max_rules=header["max_rules"]
            )
            self.shape = ModelShape(**{**vars(shape), "max_propositions": header["max_propositions"]})
            self.vocabulary = Vocabulary(header["symbols"], header["endings"], verbs=header["verbs"])
            source, stories, seed = (header["data"][key] for key in ("source", "stories", "seed"))
            self.data = DataSource(str(source), None if stories is None else int(stories), int(seed))
            self.fingerprint = str(header["data"]["fingerprint"])
            self.answers = [str(header["most_frequent"][role]) for role in range(len(ROLES))]
            self.max_tokens = int(header["max_tokens"])
            self.network = SymmetricNetwork(self.shape, self.vocabulary, self.max_tokens, device)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, ConfigError) as error:
            raise CheckpointError(f"{path} has a damaged header ({error}); train again with `tuner train`") from error
        specs = self.network.specs()
        wanted, found = {spec.name: spec.size for spec in specs}, {name: tuple(t.shape) for name, t in tensors.items()}
        if wanted != found:
            name = next(iter(sorted(set(wanted.items()) ^ set(found.items()))))[0]
            raise CheckpointError(f"{path}: parameter {name} is {found.get(name)}, its header says {wanted.get(name)}; the file is damaged")
        self.store = ParameterStore(specs, 1, device, torch.float32)
        self.store.write(0, self.store.rows_of(tensors))

    def check(self, expected: dict[str, Any]) -> None:
        """Compares settings the user named (the original's flags) with the checkpoint's own.

        Raises:
            CheckpointError: one of them differs.
        """
        own = flat_settings(self.shape, self.hyperparameters)
        for name, value in expected.items():
            if value is not None and own[name] != value:
                raise CheckpointError(
                    f"{self.path} has {name} = {own[name]}, not {value}; leave the option out: a checkpoint knows its shape"
                )

    def check_data(self, fingerprint: str) -> None:
        """Whether data with this fingerprint are those that it was trained on: else what it is tested on it may have seen.

        Raises:
            CheckpointError: they are not.
        """
        if fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{self.path} was trained on other data than {self.data.source} holds now; put the data back, train again, or save the "
                "new data under another name"
            )

    def _unseen(self, splits: Mapping[str, Sequence[Sentence]], parsing: Progress) -> dict[str, list[Sentence]]:
        """Splits of more or fewer stories of its own data, valid and test without the sentences that it was trained on."""
        own = split_sentences(load_sentences(self.data.source, self.data.stories, self.data.seed, parsing)[1], self.data.seed)[0]
        self.check_data(fingerprint_of(own))
        trained = {sentence.tokens for sentence in own["train"]}
        return {name: [s for s in there if name == "train" or s.tokens not in trained] for name, there in splits.items()}

    def _fresh(
        self, splits: dict[str, list[Sentence]], split: str, parsing: Progress, tell: Callable[[str], None]
    ) -> dict[str, list[Sentence]]:
        """The same of other data, which may have stories of its own in them; it is told how many sentences are left out for that."""
        if self.data.source == HUB:
            tell("whether the model was trained on some of these sentences is not looked at: its own are fetched and parsed anew for that")
            return splits
        try:
            unseen = self._unseen(splits, parsing)
        except (DataError, CheckpointError) as error:
            tell(f"whether the model was trained on some of these sentences cannot be said: {error}")
            return splits
        if left_out := len(splits[split]) - len(unseen[split]):
            tell(f"{left_out:,} of {len(splits[split]):,} sentences are left out: the model was trained on them")
        return unseen

    def evaluate(
        self,
        source: str | None,
        stories: int | None,
        split: str,
        parsing: Progress = silent,
        tell: Callable[[str], None] = lambda _: None,
        scoring: Callable[[str], None] = lambda _: None,
    ) -> Evaluation:
        """Scores the model on a split of `source`, or of the data it was trained on; `all` takes every sentence.

        Args:
            tell: is told of sentences that are too long for the model, and of those that it was trained on.
            scoring: is told the fingerprint of the data that are about to be scored.

        Raises:
            CheckpointError: these data are no longer those that it was trained on, the split is empty, or nothing in it states anything.
        """
        chosen, fingerprint = self._chosen(source, stories, split, parsing, tell)
        scoring(fingerprint)
        encoded: Split = encode_sentences(chosen, self.vocabulary, self.max_tokens).to(self.store.device)
        parameters = self.network.with_tables(self.store.views)
        evaluation = evaluate_split(self.network, parameters, encoded, relation_kinds(self.vocabulary))[0]
        references = {
            "most_frequent": answer_always(chosen, self.answers),
            "ceiling": ceiling(chosen, self.vocabulary, self.shape.max_propositions),
            "nameable": nameable(chosen, self.vocabulary, self.shape.max_propositions, self.max_tokens),
        }
        if said := too_long(chosen, self.max_tokens):
            tell(said)
        return Evaluation(evaluation.figures, references)

    def _chosen(
        self, source: str | None, stories: int | None, split: str, parsing: Progress, tell: Callable[[str], None]
    ) -> tuple[Sequence[Sentence], str]:
        """The sentences to be scored, and the fingerprint of the data that they are of."""
        data = self.data if source is None else DataSource(source, stories, self.data.seed)
        wanted = data.stories if stories is None else stories
        _, sentences = load_sentences(data.source, wanted, data.seed, parsing)
        splits = split_sentences(sentences, data.seed)[0]
        fingerprint = fingerprint_of(splits)
        empty = split != "all" and not splits[split]
        own = source is None or (split != "all" and _same(source, self.data.source))
        if own and wanted != self.data.stories:
            splits = self._unseen(splits, parsing)
        elif own:
            self.check_data(fingerprint)
        elif split != "all":
            splits = self._fresh(splits, split, parsing, tell)
        chosen = sentences if split == "all" else splits[split]
        if not chosen:
            count = len({s.story_id for s in sentences})
            why = "is empty" if empty else "has nothing that it was not trained on"
            raise CheckpointError(f"the {split} split of {count} stories {why}; use --split all or more stories")
        if not any(sentence.propositions for sentence in chosen):
            raise CheckpointError(f"none of the {len(chosen):,} sentences of the {split} split has propositions: there is nothing to score")
        return chosen, fingerprint


def _same(source: str, other: str) -> bool:
    """Whether both name the same data."""
    return source == other or Path(source).resolve() == Path(other).resolve()


def load_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: it is missing, no checkpoint, a pickle, damaged or of another version.
    """
    if not is_there(path, CheckpointError):
        raise CheckpointError(f"there is no checkpoint {path}; `tuner best --json` names the best trial's")
    if path.stat().st_size > LARGEST_FILE:
        raise CheckpointError(f"{path} has {path.stat().st_size:,} bytes; a checkpoint has at most {LARGEST_FILE:,}")
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if start in (b"PK", b"\x80\x02", b"\x80\x04") or path.suffix in (".pt", ".pth", ".pkl"):
        raise CheckpointError(
            f"{path} is a PyTorch pickle, as the original's best_model.pt: loading one can run any code, and it names neither its shape "
            "nor its vocabulary. Train a model that can be loaded with `tuner train` or `tuner search`"
        )
    try:
        header, tensors = read_numbers(path)
    except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is no checkpoint of `tuner` ({type(error).__name__}: {error}); give a file made by `tuner train`"
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
        raise CheckpointError(f"{path} is not of this version's form ({FORMAT!r}, version {VERSION}); train again with `tuner train`")
    return Checkpoint(path, header, tensors, device)
