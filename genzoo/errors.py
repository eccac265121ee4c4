"""Errors a user can meet and repair.

Each message says what was given, what was expected and what to do, in the user's words (column and option names).
The command line prints the message alone and exits with code 2; ``--debug`` shows the traceback.
"""


class GenZooError(Exception):
    """Base of every error about data, schemas, models, checkpoints and comparisons."""


class DataError(GenZooError):
    """A table, text or image file cannot be used as it is."""


class SchemaError(GenZooError):
    """A schema is malformed, or a table does not fit it."""


class CapabilityError(GenZooError):
    """A model cannot take what the table holds, or cannot do what was asked."""


class CheckpointError(GenZooError):
    """A checkpoint is truncated, foreign, or does not fit."""


class ComparisonError(GenZooError):
    """Two likelihoods may not be compared."""
