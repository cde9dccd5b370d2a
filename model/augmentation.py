"""More sentences from the same ones: an entity replaced by another, in the text and in its propositions alike.

Jia and Liang 2016, "Data recombination for neural semantic parsing": what holds of a needle would hold of a button, so the parser learns to
copy the word that stands there rather than to know it. Only entities that stand in the sentence as they are (not inflected) are
replaced, by entities that do so somewhere in train.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.corpus import PAD, Corpus
from model.noise import uniform


class EntitySwap:
    """Replaces entities of K slots' batches; what is replaced by what depends on (trial seed, step, sentence, entity) alone."""

    def __init__(self, corpus: Corpus, device: torch.device) -> None:
        plain = {p[0] for s in corpus.sentences["train"] for p in s.propositions if p[0] in s.tokens}
        self.entities_E = torch.tensor(sorted(corpus.vocabulary.id(word) for word in plain) or [PAD], device=device)

    def swap(self, tokens_KBT: Tensor, propositions_KBP3: Tensor, seed_K: Tensor, step_K: Tensor, rate_K: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens and propositions with each entity replaced by a random one with chance `rate`."""
        entity_KBP = propositions_KBP3[..., 0]
        slots, sentences, places = entity_KBP.shape
        same_KBPP = (entity_KBP[..., None] == entity_KBP[:, :, None]) & (entity_KBP != PAD)[..., None]
        in_text_KBPT = (entity_KBP[..., None] == tokens_KBT[:, :, None]) & (entity_KBP != PAD)[..., None]
        chances = uniform(seed_K, step_K, 2 * sentences * places, stream=3).view(slots, 2, sentences, places)
        chosen_KBP = (chances[:, 0] < rate_K[:, None, None]) & in_text_KBPT.any(-1)
        first_KBP = same_KBPP.int().argmax(-1)  # places of one entity follow the first of them
        chosen_KBP = chosen_KBP.gather(2, first_KBP) & (entity_KBP != PAD)
        drawn_KBP = self.entities_E[(chances[:, 1] * len(self.entities_E)).long()].gather(2, first_KBP)
        target_KBP = torch.where(chosen_KBP, drawn_KBP, entity_KBP)
        tokens = _replace(tokens_KBT, in_text_KBPT.transpose(2, 3), target_KBP)
        value_KBP = propositions_KBP3[..., 2]
        is_entity_KBPP = (value_KBP[..., None] == entity_KBP[:, :, None]) & (entity_KBP != PAD)[:, :, None]
        values = _replace(value_KBP, is_entity_KBPP, target_KBP)
        return tokens, torch.stack((target_KBP, propositions_KBP3[..., 1], values), dim=-1)


def _replace(symbols_KBX: Tensor, matches_KBXP: Tensor, target_KBP: Tensor) -> Tensor:
    """Each symbol that matches a place becomes that place's target."""
    return torch.where(matches_KBXP.any(-1), target_KBP.gather(2, matches_KBXP.int().argmax(-1)), symbols_KBX)
