"""What a model gets right story by story: what intervals are made of, for the propositions of one story are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import ROLES
from model.corpus import Split
from model.evaluation import compared, groups, parse_ids
from model.layers import Parameters
from model.network import SymmetricNetwork
from model.vocabulary import PAD


@dataclass(frozen=True)
class StoryTally:
    """How many propositions each story states, and how many of them are right, by component and `exact`.

    The stories stand in the order in which the split has them; those that state nothing are left out.
    """

    stated: tuple[int, ...]
    right: Mapping[str, tuple[int, ...]]


def tally_by_story(stories_N: Sequence[str], stated_N: Tensor, right_N: Mapping[str, Tensor]) -> StoryTally:
    """Counts of sentences, added up by their stories."""
    numbers = {story: number for number, story in enumerate(dict.fromkeys(stories_N))}
    story_N = torch.tensor([numbers[story] for story in stories_N])

    def added(counts_N: Tensor) -> Tensor:
        return torch.zeros(len(numbers), dtype=torch.int64).index_add(0, story_N, counts_N.long())

    stated = added(stated_N)
    kept = stated > 0
    return StoryTally(tuple(stated[kept].tolist()), {name: tuple(added(counts)[kept].tolist()) for name, counts in right_N.items()})


@torch.no_grad()
def tally_split(network: SymmetricNetwork, p: Parameters, split: Split) -> list[StoryTally]:
    """Every slot's tally of a split; `p` with its tables, `split` on the parameters' device."""
    slots, width = p["table"].shape[0], min(split.tokens_NT.shape[1], network.max_tokens)
    right_KN4 = torch.zeros(slots, len(split), len(ROLES) + 1, dtype=torch.int64, device=split.tokens_NT.device)
    for rows in groups(split, slots, network.symbols):
        said = parse_ids(network, p, split.tokens_NT[rows, :width].expand(slots, -1, -1), split.unknowns)
        _, right_KBW3 = compared(said.propositions_KBP3, split.propositions_NQ3[rows].expand(slots, -1, -1, -1))
        right_KN4[:, rows] = torch.cat((right_KBW3.sum(2), right_KBW3.all(-1).sum(2)[..., None]), dim=-1)
    stated_N = (split.propositions_NQ3[..., 0] != PAD).sum(1).cpu()
    names = (*ROLES, "exact")
    return [
        tally_by_story(split.stories_N, stated_N, {name: counts_N4[:, place] for place, name in enumerate(names)})
        for counts_N4 in right_KN4.cpu()
    ]
