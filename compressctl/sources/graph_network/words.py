"""What all refusals of `trainable` say."""

CANNOT = "the file cannot be trained"
HINT = "leave `trainable` out: techniques for graphs take the file as it is"
