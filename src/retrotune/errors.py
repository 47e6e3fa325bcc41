"""The exception tree. Every message names the value, the place and the remedy."""


class RetrotuneError(Exception):
    """Base of all errors that a user can cause and mend; the command line prints them without a traceback."""


class ConfigError(RetrotuneError):
    """The configuration is wrong: an unknown key, a name without an entry, a value out of range."""


class DataError(RetrotuneError):
    """A raw file is missing, truncated, badly encoded, or holds a record that cannot be used."""


class RetrievalError(RetrotuneError):
    """Passages, vectors, an index or a neighbor cache are missing, damaged, or do not belong together."""


class ModelError(RetrotuneError):
    """A model, its configuration or its tokenizer is missing or unsuitable."""


class MethodError(RetrotuneError):
    """A fine-tuning method cannot be attached to, saved from, or loaded into a model."""


class TrainingError(RetrotuneError):
    """Training cannot start or continue."""


class ClusterError(RetrotuneError):
    """The cluster lacks what the profile or the study asks for."""


class BusyError(RetrotuneError):
    """Another process works on the same study, or makes what it shares."""


class ResultError(RetrotuneError):
    """A result file is missing, half written, or contradicts its cell."""


class Interrupted(BaseException):
    """A signal asked the process to stop. No `Exception`: code that mends errors must not catch it.

    `together`: all processes of a training have agreed to stop, and each has saved what it has.
    """

    def __init__(self, message: str, together: bool = False) -> None:
        super().__init__(message)
        self.together = together
