"""Which token each part of a proposition comes from: known from spelling alone, and worth saying to a parser that has few sentences.

A part is aligned to every token that is the symbol itself or has it as its base form (`needles` for `needle`); a part without such a token
(`type`, irregular forms) says nothing. Supervising attention by alignments: Liu et al. 2016, "Neural machine translation with supervised
attention"; supervising the number of outputs of each input: Dong and Xu 2020, "CIF", its quantity loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.layers import ABSENT, mean_over
from model.network import Parsed
from model.vocabulary import PAD

LOOKED_FOR = (0, 0, 1, 2)
"""What a place's reads look for: its token and its entity (part 0), its relation, its value."""


def alignment_loss(parsed: Parsed, tokens_KBT: Tensor, bases_KBT: Tensor, propositions_KBP3: Tensor) -> Tensor:
    """The surprise of the reads at their aligned tokens plus the squared error of the counts, `loss_K` (nats and propositions squared).

    Args:
        bases_KBT: the symbol of each token's base form, PAD where it has none.
    """
    sought_KBP4 = propositions_KBP3[..., LOOKED_FOR]
    here_KBP4T = (tokens_KBT[:, :, None, None] == sought_KBP4[..., None]) | (bases_KBT[:, :, None, None] == sought_KBP4[..., None])
    here_KBP4T = here_KBP4T & (sought_KBP4 != PAD)[..., None]
    known_KBP4 = here_KBP4T.any(-1)
    held_KBP4T = torch.where(here_KBP4T, parsed.looks_KBP4T, ABSENT)
    surprise_KBP4 = torch.logsumexp(parsed.looks_KBP4T, -1) - torch.logsumexp(held_KBP4T, -1)
    reads_K = mean_over(torch.where(known_KBP4, surprise_KBP4, 0.0), known_KBP4)

    share_KBPT = torch.softmax(held_KBP4T[:, :, :, 0], -1).detach() * known_KBP4[..., :1]  # of equal tokens, the one it reads now
    complete_KB1 = (known_KBP4[..., 0] | (sought_KBP4[..., 0] == PAD)).all(-1, keepdim=True)
    counted_KBT = complete_KB1 & (tokens_KBT != PAD)
    return reads_K + mean_over((parsed.count_KBT - share_KBPT.sum(2)).square(), counted_KBT)
