"""Tasks and their order: examples in memory, the three scenarios, the standard sequences and networks for them."""

from forgetting.tasks.data import data_root, digits, mnist
from forgetting.tasks.examples import Batches, Examples, join
from forgetting.tasks.networks import network
from forgetting.tasks.registry import Description, describe, names, sequence
from forgetting.tasks.sequences import data_split, permute, rotate, split, transfer
from forgetting.tasks.task import DataSplit, Task, TaskSequence
from forgetting.tasks.views import Permutation, Rotation, View

__all__ = [
    "Batches",
    "DataSplit",
    "Description",
    "Examples",
    "Permutation",
    "Rotation",
    "Task",
    "TaskSequence",
    "View",
    "data_root",
    "data_split",
    "describe",
    "digits",
    "join",
    "mnist",
    "names",
    "network",
    "permute",
    "rotate",
    "sequence",
    "split",
    "transfer",
]
