"""What all tests share: one thread (the models are tiny), and hypothesis without clock or chance."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")
