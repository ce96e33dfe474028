"""Datasets of the library datasets: `source: hf_dataset`."""
