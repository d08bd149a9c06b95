"""The torch optimizer that runs any mix of rules, and what is done with one."""

from stepwell.optimizer.optimizer import Optimizer

__all__ = ["Optimizer"]
