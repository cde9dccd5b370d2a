"""The errors of the `tuner` room. Each says what was given, what is allowed and what to do next.

TunerError
|-- DefinitionError   a study definition that cannot be read or reached
|-- StudyError        a study that does not exist, or exists with another space
`-- StorageError      a storage that cannot be opened
"""


class TunerError(Exception):
    """Anything the user can mend: the command line prints the message and exits with status 2."""


class DefinitionError(TunerError):
    """A study definition that cannot be used; names the key."""


class StudyError(TunerError):
    """A study that does not exist, or one that exists with other content."""


class StorageError(TunerError):
    """A storage that cannot be opened; never shows a password."""
