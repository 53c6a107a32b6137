from dt.agent import Agent as Agent
from dt.evaluation import evaluate as evaluate
from dt.model import DecisionTransformer as DecisionTransformer
from dt.policy import load_policy as load_policy

__version__: str
__all__ = ["Agent", "DecisionTransformer", "evaluate", "load_policy"]
