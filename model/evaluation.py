"""How good a model is: component accuracy beside what a constant would score and what unknown words leave possible.

All counts are kept on the device for all slots at once and read once. A gold word that train does not know is right only where it was
copied from the sentence; a proposition beyond the model's places never is. Both stay in the denominators.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from model.config import ROLES
from model.corpus import Split
from model.layers import Parameters
from model.layout import end_rows
from model.network import NO_DROPOUT, SymmetricNetwork
from model.stories import NOT_VERBS
from model.vocabulary import PAD, SPECIAL_SYMBOLS, Unknowns, Vocabulary

KINDS = (*NOT_VERBS, "verb")
WORDS_AT_ONCE = 8192
"""Tokens evaluated at a time on a CPU: few enough for its caches."""
SCORES_AT_ONCE = 1 << 26
"""Symbol scores computed at a time on a GPU, which needs much work at once: 256 MiB in float32."""


@dataclass(frozen=True)
class Evaluation:
    """One model's figures on one split, as fractions 0..1; `figures` holds what the command line prints."""

    figures: dict[str, Any]
    references: dict[str, Any] = field(default_factory=dict)

    @property
    def objective(self) -> float:
        """The component accuracy: the mean of entity, relation and value accuracy."""
        return float(self.figures["component_accuracy"])

    @property
    def round_trip(self) -> float:
        """The share of sentences whose propositions survive generate-then-parse."""
        return float(self.figures["round_trip"])

    def as_dict(self) -> dict[str, Any]:
        """Figures with the most frequent answer and the ceiling beside them."""
        return {**self.figures, **self.references}


@dataclass(frozen=True)
class Answer:
    """What a model says of sentences: symbols, 0 where it says nothing."""

    propositions_KBP3: Tensor

    @property
    def filled_KBP(self) -> Tensor:
        return self.propositions_KBP3[..., 0] != PAD


def parse_ids(network: SymmetricNetwork, p: Parameters, tokens_KBT: Tensor, unknowns: Unknowns) -> Answer:
    """The most likely symbol for every role at every place that the most likely counts give.

    An entity or value read from an entirely unknown word is that word (its singular); for verbs see `SymmetricNetwork.called`.
    """
    mask_KBT = (tokens_KBT != PAD).to(p["table"].dtype)
    words = network.embed(p, unknowns.readable(tokens_KBT))
    understood = network.understand(p, words, mask_KBT, NO_DROPOUT)
    layout = network.layout_of_counts(understood, mask_KBT, network.shape.max_propositions)
    parsed = network.read(p, understood, words, mask_KBT, layout)
    slots, sentences, places, _, dim = parsed.roles_KBP3D.shape
    scores = network.scores(p, parsed.roles_KBP3D.view(slots, sentences * places * 3, dim), "role_bias")
    best = scores[..., len(SPECIAL_SYMBOLS) :].argmax(-1).view(slots, sentences, places, 3) + len(SPECIAL_SYMBOLS)
    entity_KBP, relation_KBP, value_KBP = best.unbind(-1)
    entity_KBP = _copied(tokens_KBT, layout.position_KBP, entity_KBP, unknowns)
    relation_at, value_at = parsed.looks_KBP3T[..., 1:, :].argmax(-1).unbind(-1)
    relation_KBP = network.called(relation_KBP, tokens_KBT.gather(2, relation_at))
    value_KBP = _copied(tokens_KBT, value_at, value_KBP, unknowns)
    return Answer(torch.stack((entity_KBP, relation_KBP, value_KBP), dim=-1) * layout.filled_KBP[..., None])


def _copied(tokens_KBT: Tensor, at_KBP: Tensor, known_KBP: Tensor, unknowns: Unknowns) -> Tensor:
    """What stands at some tokens if nothing is known of it, else what the symbol table says."""
    copies_KBP, called_KBP = unknowns.copied(tokens_KBT.gather(2, at_KBP))
    return torch.where(copies_KBP, called_KBP, known_KBP)


def generate_ids(network: SymmetricNetwork, p: Parameters, propositions_KBP3: Tensor, unknowns: Unknowns) -> Tensor:
    """The most likely gaps, then the most likely word at each token: `tokens_KBT`, 0 beyond the length.

    An entity of which nothing is known stands at its token as it is.
    """
    slots, sentences = propositions_KBP3.shape[:2]
    filled_KBP = propositions_KBP3[..., 0] != PAD
    items = network.embed(p, unknowns.readable(propositions_KBP3))
    spread_KBQ2D, gaps_KBQG = network.gather(p, items, end_rows(filled_KBP, items.dtype), NO_DROPOUT)
    layout, length_KB = network.layout_of_gaps(gaps_KBQG, filled_KBP)
    token_T = torch.arange(network.max_tokens, device=items.device)
    mask_KBT = (token_T < length_KB[..., None]).to(items.dtype)
    written = network.write(p, spread_KBQ2D, items, mask_KBT, layout, NO_DROPOUT)
    scores = network.scores(p, written.view(slots, sentences * network.max_tokens, -1), "word_bias")
    words = scores[..., len(SPECIAL_SYMBOLS) :].argmax(-1).view(slots, sentences, -1) + len(SPECIAL_SYMBOLS)
    foreign_KBP = torch.where(unknowns.copied(propositions_KBP3[..., 0])[0], propositions_KBP3[..., 0], PAD)
    foreign_KBT = torch.where(layout.position_KBP[..., None] == token_T, foreign_KBP[..., None], PAD).amax(2)
    return torch.where(foreign_KBT > 0, foreign_KBT, words) * (mask_KBT > 0)


def _true_positives(said: Tensor, gold: Tensor, filled: Tensor) -> Tensor:
    """Which propositions said match a gold one of their sentence, each gold one serving once: `hit_KBP`, in any order."""
    same_said = (said[:, :, :, None] == said[:, :, None]).all(-1)
    earlier = same_said & torch.ones(said.shape[2], said.shape[2], device=said.device, dtype=torch.bool).tril(-1)
    nth = (earlier & filled[:, :, None]).sum(-1)
    available = ((said[:, :, :, None] == gold[:, :, None]).all(-1) & (gold[..., 0] != PAD)[:, :, None]).sum(-1)
    return filled & (nth < available)


def compared(said_KBP3: Tensor, gold_KBQ3: Tensor) -> tuple[Tensor, Tensor]:
    """The gold propositions and which parts of them are right, by position: `gold_KBW3, right_KBW3`, W the larger of P and Q."""
    said, gold = _as_wide(said_KBP3, gold_KBQ3)
    return gold, (said == gold) & (gold[..., :1] != PAD)


def _as_wide(said_KBP3: Tensor, gold_KBQ3: Tensor) -> tuple[Tensor, Tensor]:
    """Both padded to the wider of them."""
    width = max(said_KBP3.shape[2], gold_KBQ3.shape[2])
    said, gold = (torch.nn.functional.pad(each, (0, 0, 0, width - each.shape[2])) for each in (said_KBP3, gold_KBQ3))
    return said, gold


class Counts:
    """Sums over sentences, `counts[name]_K`; adds one chunk after the other."""

    def __init__(self, kinds: Mapping[str, int]) -> None:
        self.counts: dict[str, Tensor] = {}
        self.kinds = kinds

    def _add(self, name: str, flags: Tensor) -> None:
        total = flags.flatten(1).sum(1, dtype=torch.int64)
        self.counts[name] = self.counts[name] + total if name in self.counts else total

    def parsing(self, said: Answer, gold_KBQ3: Tensor) -> None:
        """Compares what was said with the gold propositions (which may reach beyond the model's places)."""
        said_KBP3, filled = said.propositions_KBP3, said.filled_KBP
        gold, right = compared(said_KBP3, gold_KBQ3)
        there, number = gold[..., 0] != PAD, right.sum(-1)
        for scope, keep in (("", slice(None)), ("first_", slice(0, 1))):
            self._add(f"{scope}gold", there[:, :, keep])
            for role, name in enumerate(ROLES):
                self._add(f"{scope}{name}", right[:, :, keep, role])
            self._add(f"{scope}exact", number[:, :, keep] == 3)
        self._add("at_least_one", number >= 1)
        self._add("two_of_three", number >= 2)
        self._add("spurious", filled & ~there[:, :, : filled.shape[2]])
        self._kinds(said_KBP3, filled, gold, there)

    def _kinds(self, said: Tensor, filled: Tensor, gold: Tensor, there: Tensor) -> None:
        hits = _true_positives(said, gold, filled)
        for name, (flags, relation) in {"hits": (hits, said), "said": (filled, said), "wanted": (there, gold)}.items():
            kind = relation[..., 1]
            self._add(name, flags)
            is_type, is_property = kind == self.kinds["type"], kind == self.kinds["has_property"]
            self._add(f"{name}_type", flags & is_type)
            self._add(f"{name}_has_property", flags & is_property)
            self._add(f"{name}_verb", flags & ~is_type & ~is_property)

    def generating(self, gold_tokens_KBT: Tensor, written_KBT: Tensor, reread: Answer, gold_KBQ3: Tensor) -> None:
        """Compares what was written with the sentence, and what was read back from it with the propositions."""
        reach = gold_tokens_KBT.shape[2]
        written = torch.nn.functional.pad(written_KBT, (0, max(0, reach - written_KBT.shape[2])))[:, :, :reach]
        real = gold_tokens_KBT != PAD
        self._add("tokens", real)
        self._add("tokens_right", (written == gold_tokens_KBT) & real)
        again, gold = _as_wide(reread.propositions_KBP3, gold_KBQ3)
        stating = gold[:, :, 0, 0] != PAD
        survived = (again == gold).flatten(2).all(-1)
        self._add("stating", stating)
        self._add("survived", stating & survived)

    def figures(self, sentences: int) -> list[dict[str, Any]]:
        """The figures of each slot; the only place where the device is waited for."""
        names = list(self.counts)
        table = torch.stack([self.counts[name] for name in names]).cpu().tolist()
        return [_figures({name: row[slot] for name, row in zip(names, table, strict=True)}, sentences) for slot in range(len(table[0]))]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _figures(n: Mapping[str, int], sentences: int) -> dict[str, Any]:
    parts = {role: _share(n[role], n["gold"]) for role in ROLES}
    precision, recall = _share(n["hits"], n["said"]), _share(n["hits"], n["wanted"])
    return {
        "sentences": sentences,
        "component_accuracy": sum(parts.values()) / 3,
        **parts,
        **{name: _share(n[name], n["gold"]) for name in ("at_least_one", "two_of_three", "exact")},
        "first": {name: _share(n[f"first_{name}"], n["first_gold"]) for name in (*ROLES, "exact")},
        "triple_precision": precision,
        "triple_recall": recall,
        "triple_f1": _share(2 * n["hits"], n["said"] + n["wanted"]),
        "f1": {kind: _share(2 * n[f"hits_{kind}"], n[f"said_{kind}"] + n[f"wanted_{kind}"]) for kind in KINDS},
        "round_trip": _share(n["survived"], n["stating"]),
        "token_accuracy": _share(n["tokens_right"], n["tokens"]),
        "spurious": _share(n["spurious"], n["said"]),
    }


def relation_kinds(vocabulary: Vocabulary) -> dict[str, int]:
    """The symbols of the relations that are no verbs."""
    return {relation: vocabulary.id(relation) for relation in NOT_VERBS}


def groups(split: Split, slots: int, symbols: int) -> tuple[Tensor, ...]:
    """The sentences of a split in groups of similar length that so many slots with so many symbols can look at together."""
    words = WORDS_AT_ONCE if split.tokens_NT.device.type == "cpu" else SCORES_AT_ONCE // symbols
    at_once = max(1, words // (split.tokens_NT.shape[1] * slots))
    return torch.split(split.token_counts_N.argsort(stable=True), at_once)


@torch.no_grad()
def evaluate_split(network: SymmetricNetwork, p: Parameters, split: Split, kinds: Mapping[str, int]) -> list[Evaluation]:
    """Every slot's figures on a split.

    Args:
        p: the parameters with their tables.
        split: on the parameters' device.
        kinds: the symbols of the relations `type` and `has_property`.
    """
    slots = p["table"].shape[0]
    counter = Counts(kinds)
    places = network.shape.max_propositions
    width = min(split.tokens_NT.shape[1], network.max_tokens)
    for rows in groups(split, slots, network.symbols):
        tokens = split.tokens_NT[rows, :width].expand(slots, -1, -1)
        gold = split.propositions_NQ3[rows].expand(slots, -1, -1, -1)
        counter.parsing(parse_ids(network, p, tokens, split.unknowns), gold)
        written = generate_ids(network, p, gold[:, :, :places], split.unknowns)
        reread = parse_ids(network, p, split.unknowns.tokens(written), split.unknowns)
        counter.generating(split.gold_tokens_NT[rows, :width].expand(slots, -1, -1), written, reread, gold)
    return [Evaluation(figures) for figures in counter.figures(len(split))]
