"""lowbit: what low precision costs a fine-tune, and where to spend the bytes."""

__version__ = "0.1.0"
