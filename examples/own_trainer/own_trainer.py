"""A model of one's own, searched by `tuner search bag.toml`: a linear layer from a bag of words to a sentence's first proposition."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from model.files import save_numbers
from model.tally import tally_by_story
from tuner.seam import Held
from tuner.single import SideBySide

ROLES = ("entity", "relation", "value")


@dataclass
class Epoch:
    """What the search asks of an epoch and of an evaluation."""

    epoch: int = 0
    loss: float = 0.0
    losses: dict = field(default_factory=dict)
    gradient_norm: float = 0.0
    objective: float = 0.0
    round_trip: float = 1.0
    figures: dict = field(default_factory=dict)


class BagOfWords:
    """One model in training."""

    def __init__(self, hyperparameters, shape, corpus, device):
        self.settings, self.size, self.epoch = hyperparameters, shape.batch_size, 0
        words = len(corpus.vocabulary)
        self.layer = torch.nn.Linear(words, 3 * words, device=device)
        with torch.no_grad():
            self.layer.weight.zero_(), self.layer.bias.zero_()
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=hyperparameters.lr)
        self.data = {name: _tensors(corpus.splits[name], words, device) for name in ("train", "valid", "test")}
        self.stories = [s.story_id for s in corpus.sentences["test"] if s.propositions]

    def scores(self, bags):
        return self.layer(bags).view(len(bags), 3, -1)

    def train_epoch(self):
        bags, gold = self.data["train"]
        order = torch.randperm(len(bags), generator=torch.Generator().manual_seed(self.settings.seed + self.epoch))
        total, norms = 0.0, []
        for rows in order.split(self.size):
            loss = torch.nn.functional.cross_entropy(self.scores(bags[rows]).flatten(0, 1), gold[rows].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            norms.append(torch.nn.utils.clip_grad_norm_(self.layer.parameters(), self.settings.clip_norm))
            self.optimizer.step()
            total += loss.item() * len(rows)
        self.epoch += 1
        return Epoch(self.epoch, total / len(bags), {"parse": total / len(bags)}, float(torch.stack(norms).mean()))

    @torch.no_grad()
    def evaluate(self):
        bags, gold = self.data["valid"]
        right = (self.scores(bags).argmax(-1) == gold).float().mean(0)
        return Epoch(objective=right.mean().item(), figures=dict(zip(ROLES, right.tolist())))

    @torch.no_grad()
    def tally(self):
        bags, gold = self.data["test"]
        right = (self.scores(bags).argmax(-1) == gold).cpu()
        counts = {**dict(zip(ROLES, right.unbind(1))), "exact": right.all(1)}
        return tally_by_story(self.stories, torch.ones(len(gold)), counts)

    def held(self):
        return Held({name: value.clone() for name, value in self.layer.state_dict().items()}, {"epoch": self.epoch})

    def resume(self, held):
        self.layer.load_state_dict(held.tensors)
        self.epoch = held.notes["epoch"]

    def save(self, path: Path, evaluation):
        save_numbers(path, self.layer.state_dict(), {"format": "bag of words"})


def _tensors(split, words, device):
    stated = split.proposition_counts_N > 0
    tokens, gold = split.tokens_NT[stated], split.propositions_NQ3[stated, 0]
    bags = torch.zeros(len(tokens), words).scatter_(1, tokens.where(tokens < words, 1), 1.0)
    return bags.to(device), gold.where(gold < words, 1).to(device)


def make_trainer(shape, corpus, slots, device, data):
    """The entry point."""
    return SideBySide(lambda hyperparameters: BagOfWords(hyperparameters, shape, corpus, device), slots)
