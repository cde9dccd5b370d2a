"""Stories streamed from the hub through `datasets` (extra `stories`); only as many as are asked for are read."""

from __future__ import annotations

import itertools

from model.errors import DataError
from model.extraction import INSTALL

TINYSTORIES = "roneneldan/TinyStories"
OFFLINE = (
    "without the hub, give --data FILE.txt[.gz] (stories with <|endoftext|> between them), --data FILE.jsonl[.gz] or --data synthetic; "
    "or set HF_HOME to a cache that holds the data set and HF_HUB_OFFLINE=1"
)


def hub_stories(count: int, dataset: str = TINYSTORIES) -> list[str]:
    """The first `count` stories of a data set with a column `text`, by streaming.

    Args:
        dataset: a name on the hub, or a folder of the same form.

    Raises:
        DataError: `datasets` is not installed, the hub cannot be reached, or the data are of another form.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(f"data = 'tinystories' is read with `datasets`, which is not installed; install it: {INSTALL}") from error
    try:
        rows = list(itertools.islice(load_dataset(dataset, split="train", streaming=True), count))
    except Exception as error:  # what the libraries under `datasets` raise without a network differs by version
        raise DataError(f"{dataset} cannot be read from the hub ({type(error).__name__}: {str(error)[:200]}); {OFFLINE}") from error
    if not rows or not all(isinstance(row.get("text"), str) for row in rows):
        raise DataError(f"{dataset} has no column 'text' of stories; {OFFLINE}")
    return [str(row["text"]) for row in rows]
