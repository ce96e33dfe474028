"""Make trained models smaller, faster and cheaper to run, and prove it on the exported file."""

__version__ = "0.1.0"
