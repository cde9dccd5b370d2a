"""A training step in the original script's form, to be timed beside ours: recurrent, rule by rule, padded to 20 tokens.

An LSTM reads the sentence, the rules are applied in a Python loop, heads name the propositions; backwards the rules again in a loop and
an LSTM that writes 20 words. All four losses, the cycles through expected vectors. One model, plain PyTorch, `torch.optim.AdamW`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import LossWeights

TOKENS, PLACES, ROLES = 20, 8, 3


class OriginalForm(nn.Module):
    """One network, both directions."""

    def __init__(self, symbols: int, dim: int, rules: int) -> None:
        super().__init__()
        self.symbols = nn.Embedding(symbols, dim, padding_idx=0)
        self.reader, self.writer = nn.LSTM(dim, dim, batch_first=True), nn.LSTM(dim, dim, batch_first=True)
        self.rules = nn.ModuleList(nn.Linear(dim, dim) for _ in range(rules))
        self.gates = nn.ModuleList(nn.Linear(dim, 1) for _ in range(rules))
        self.roles = nn.Linear(dim, PLACES * ROLES * dim)
        self.gather = nn.Linear(PLACES * ROLES * dim, dim)
        self.name, self.word = nn.Linear(dim, symbols), nn.Linear(dim, symbols)

    def _apply_rules(self, x: Tensor) -> Tensor:
        for rule, gate in zip(self.rules, self.gates, strict=True):
            x = x + torch.sigmoid(gate(x)) * torch.tanh(rule(x))
        return x

    def parse(self, words_BTD: Tensor) -> Tensor:
        """Scores of every symbol for every role of every place, `scores_BMS`."""
        read, _ = self.reader(words_BTD)
        meaning = self._apply_rules(read[:, -1])
        return self.name(torch.tanh(self.roles(meaning)).view(len(words_BTD), PLACES * ROLES, -1))

    def generate(self, items_BMD: Tensor) -> Tensor:
        """Scores of every symbol for every token, `scores_BTS`."""
        meaning = self._apply_rules(self.gather(items_BMD.flatten(1)))
        written, _ = self.writer(meaning[:, None].expand(-1, TOKENS, -1).contiguous())
        return self.word(written)

    def losses(self, tokens_BT: Tensor, propositions_BM: Tensor) -> Tensor:
        """The four components."""
        table = self.symbols.weight
        said, written = self.parse(self.symbols(tokens_BT)), self.generate(self.symbols(propositions_BM))
        rewritten = self.generate(said.softmax(-1) @ table)
        reread = self.parse(written.softmax(-1) @ table)
        pairs = ((said, propositions_BM), (written, tokens_BT), (rewritten, tokens_BT), (reread, propositions_BM))
        return torch.stack([functional.cross_entropy(scores.flatten(0, 1), gold.flatten(), ignore_index=0) for scores, gold in pairs])


class OriginalTrainer:
    """Trains it, batch after batch."""

    def __init__(self, symbols: int, dim: int, rules: int = 16) -> None:
        torch.manual_seed(0)
        self.network = OriginalForm(symbols, dim, rules)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=3e-4)
        weights = LossWeights()
        self.weights = torch.tensor([weights.parse, weights.generate, weights.cycle_forward, weights.cycle_backward])

    def step(self, tokens_BT: Tensor, propositions_BM: Tensor) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        (self.network.losses(tokens_BT, propositions_BM) * self.weights).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()


def batches(tokens_NT: Tensor, propositions_NQ3: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """All sentences in batches, padded (and cut) to 20 tokens and 8 propositions."""
    tokens = functional.pad(tokens_NT, (0, max(0, TOKENS - tokens_NT.shape[1])))[:, :TOKENS]
    places = functional.pad(propositions_NQ3, (0, 0, 0, max(0, PLACES - propositions_NQ3.shape[1])))[:, :PLACES]
    return list(zip(tokens.split(size), places.flatten(1).split(size), strict=True))
