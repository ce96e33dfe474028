"""Learning from a teacher: who it is, what is compared with it, and what comes of labels beside it."""
