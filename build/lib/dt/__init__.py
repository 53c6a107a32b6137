"""Cross-environment transfer for Decision Transformers.

    from dt import Agent, DecisionTransformer, evaluate, load_policy

Nothing heavy is imported before one of these is used: the workflow plans its jobs without PyTorch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Agent", "DecisionTransformer", "evaluate", "load_policy"]

_HOMES = {"Agent": "agent", "DecisionTransformer": "model", "evaluate": "evaluation", "load_policy": "policy"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dt' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
