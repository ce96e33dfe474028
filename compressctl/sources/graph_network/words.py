"""What all refusals of `trainable` say."""

CANNOT = "the file cannot be trained"
HINT = "leave `trainable` out: techniques for graphs take the file as it is"


class NoCounterpartError(Exception):
    """What a node asks for that torch has none of; str(error) names it."""
