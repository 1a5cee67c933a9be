"""Tasks and their order: examples in memory, the three scenarios, the standard sequences and networks for them."""

from forgetting.tasks.clip import Clip
from forgetting.tasks.corruptions import corrupted
from forgetting.tasks.data import cifar10, cifar100, digits, fashion_mnist, mnist
from forgetting.tasks.decoders import Decoder
from forgetting.tasks.examples import Batches, Examples, join
from forgetting.tasks.folders import data_root
from forgetting.tasks.given import sequence_for
from forgetting.tasks.networks import network
from forgetting.tasks.pretrained import Classifier
from forgetting.tasks.registry import Description, check_variation, describe, names, sequence
from forgetting.tasks.sentences import Encoder
from forgetting.tasks.sequences import data_split, permute, rotate, split, transfer
from forgetting.tasks.task import DataSplit, Task, TaskSequence
from forgetting.tasks.views import Permutation, Rotation, Standardized, View

__all__ = [
    "Batches",
    "Classifier",
    "Clip",
    "DataSplit",
    "Decoder",
    "Description",
    "Encoder",
    "Examples",
    "Permutation",
    "Rotation",
    "Standardized",
    "Task",
    "TaskSequence",
    "View",
    "check_variation",
    "cifar10",
    "cifar100",
    "corrupted",
    "data_root",
    "data_split",
    "describe",
    "digits",
    "fashion_mnist",
    "join",
    "mnist",
    "names",
    "network",
    "permute",
    "rotate",
    "sequence",
    "sequence_for",
    "split",
    "transfer",
]
