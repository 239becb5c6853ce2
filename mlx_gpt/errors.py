"""What can go wrong through the user's doing: the doors print these in one line and exit with 2."""


class MlxGptError(Exception):
    """A mistake of the user's, not ours: the message names the value and the remedy."""


class SettingError(MlxGptError):
    """A setting out of its range, unknown, or at odds with another one."""


class DataError(MlxGptError):
    """A text that cannot be read, is empty, or is no text."""


class TokenizerError(MlxGptError):
    """A tokenizer that cannot be trained or loaded, or an id outside its vocabulary."""


class CheckpointError(MlxGptError):
    """A file that is no checkpoint, a damaged one, or one of another model."""


class TrainingError(MlxGptError):
    """A training run that cannot go on, such as one whose loss is no longer a number."""


class Stopped(BaseException):
    """A signal asked a run to stop. Like KeyboardInterrupt no error: whoever catches those must let it through."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal
