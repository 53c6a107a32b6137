"""Cross-environment transfer for Decision Transformers."""

__version__ = "0.1.0"
