"""The one error that a person is meant to read."""


class ActionRefused(Exception):
    """The use case cannot be done now, and the message says why and what to do about it.

    Shown as it stands by the admin, the API (409) and the commands (exit code 1). `field` names the
    input at fault, if one is: the API then answers 400 and lists it.
    """

    def __init__(self, reason: str, *, field: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field
