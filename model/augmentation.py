"""More sentences from the same ones: an entity or a property replaced by another, in the text and in its propositions alike.

Jia and Liang 2016, "Data recombination for neural semantic parsing": what holds of a red needle would hold of a big button, so the parser
learns to copy the word that stands there rather than to know it. Only words that stand in the sentence as they are (not inflected) are
replaced, by words that do so somewhere in train in the same role.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.corpus import Corpus
from model.noise import uniform
from model.vocabulary import PAD


class WordSwap:
    """Replaces words of K slots' batches; what is replaced by what depends on (trial seed, epoch, place in it, word) alone."""

    def __init__(self, corpus: Corpus, device: torch.device) -> None:
        self.property = corpus.vocabulary.id("has_property")
        stated = [(p, s.tokens) for s in corpus.sentences["train"] for p in s.propositions]
        entities = {p[0] for p, tokens in stated if p[0] in tokens}
        properties = {p[2] for p, tokens in stated if p[1] == "has_property" and p[2] in tokens}
        self.pools = [torch.tensor(sorted(map(corpus.vocabulary.id, pool)) or [PAD], device=device) for pool in (entities, properties)]

    def swap(
        self, tokens_KBT: Tensor, propositions_KBP3: Tensor, seed_K: Tensor, epoch_K: Tensor, rate_K: Tensor, stream: int
    ) -> tuple[Tensor, Tensor]:
        """Tokens and propositions with each entity and each property replaced by a random one with chance `rate`."""
        entity_KBP, relation_KBP, value_KBP = propositions_KBP3.unbind(-1)
        slots, sentences, places = entity_KBP.shape
        property_KBP = torch.where(relation_KBP == self.property, value_KBP, PAD)
        word_KBW = torch.cat((entity_KBP, property_KBP), dim=2)
        same_KBWW = (word_KBW[..., None] == word_KBW[:, :, None]) & (word_KBW != PAD)[..., None]
        in_text_KBWT = (word_KBW[..., None] == tokens_KBT[:, :, None]) & (word_KBW != PAD)[..., None]
        chances = uniform(seed_K, epoch_K, 4 * sentences * places, stream).view(slots, 2, sentences, 2 * places)
        drawn = [self.pools[half][(part * len(self.pools[half])).long()] for half, part in enumerate(chances[:, 1].chunk(2, dim=-1))]
        first_KBW = same_KBWW.int().argmax(-1)  # places of one word follow the first of them
        chosen_KBW = ((chances[:, 0] < rate_K[:, None, None]) & in_text_KBWT.any(-1)).gather(2, first_KBW) & (word_KBW != PAD)
        target_KBW = torch.where(chosen_KBW, torch.cat(drawn, dim=-1).gather(2, first_KBW), word_KBW)
        tokens = _replace(tokens_KBT, in_text_KBWT.transpose(2, 3), target_KBW)
        values = _replace(value_KBP, (value_KBP[..., None] == word_KBW[:, :, None]) & (word_KBW != PAD)[:, :, None], target_KBW)
        return tokens, torch.stack((target_KBW[..., :places], relation_KBP, values), dim=-1)


def _replace(symbols_KBX: Tensor, matches_KBXW: Tensor, target_KBW: Tensor) -> Tensor:
    """Each symbol that matches a word becomes that word's target."""
    return torch.where(matches_KBXW.any(-1), target_KBW.gather(2, matches_KBXW.int().argmax(-1)), symbols_KBX)
