"""The errors of the `tuner` room. Each says what was given, what is allowed and what to do next.

TunerError
|-- DefinitionError   a study definition that cannot be read or reached
|-- StudyError        a study that does not exist, or exists with another space
|-- SearchError       a search that cannot go on
|   `-- TrainerUnmade because its trainer cannot be made for a shape
|-- SnapshotError     a snapshot that cannot be read; an older one serves
`-- StorageError      a storage that cannot be opened or written
    |-- NoStorage     one that is not there yet
    `-- StorageAway   one that was there and has stayed away
"""


class TunerError(Exception):
    """Anything the user can mend: the command line prints the message and ends with its status."""

    status = 2
    """1 where the same command may well succeed when it is run again."""


class DefinitionError(TunerError):
    """A study definition that cannot be used; names the key."""


class StudyError(TunerError):
    """A study that does not exist, or one that exists with other content."""


class SearchError(TunerError):
    """A search or a confirmation that cannot go on. No trial is blamed for it: raised during an epoch it ends the search."""

    status = 1


class TrainerUnmade(SearchError):
    """A trainer of somebody else that cannot be made for a shape, and why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; mend it and run it again")
        self.reason = reason


class SnapshotError(TunerError):
    """A snapshot that is cut short, of another version or of another study."""


class StorageError(TunerError):
    """A storage, or a store of artifacts, that cannot be opened or written; never shows a password."""


class NoStorage(StorageError):
    """A storage that is not there yet."""


class StorageAway(StorageError):
    """A storage that was there and has stayed away for longer than it is waited for."""

    status = 1
