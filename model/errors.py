"""The errors of the `model` room. Every one says what was given, what is allowed and what to do next.

ModelError
|-- ConfigError       a shape or a hyperparameter that is out of range
|-- DataError         a data file that is missing, empty or not of the form
|-- CheckpointError   a file that is no checkpoint, or one that does not fit what was asked
`-- DeviceError       a device that this machine does not have
    `-- DeviceFailed  one that has failed
"""


class ModelError(Exception):
    """Anything the user can mend: the command line prints the message and ends with its status."""

    status = 2
    """1 where the same command may well succeed when it is run again."""


class ConfigError(ModelError):
    """A shape or a hyperparameter out of range."""


class DataError(ModelError):
    """Data that cannot be read; names file, line and fault."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be read or does not fit."""


class DeviceError(ModelError):
    """A device that this machine does not have."""


class DeviceFailed(DeviceError):
    """A device that has failed."""

    status = 1
