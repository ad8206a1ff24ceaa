"""The one exception that a user is meant to read: a line that says what to do."""


class JuZhouError(Exception):
    """Bad input or a machine that cannot do what was asked. The message is one line and says what to do.

    The command line prints the message and exits with code 1; anything else that is raised is a defect of ours.
    """


def in_words(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
