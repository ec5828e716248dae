"""Workers share the cores: one thread each, in the tests and in the processes they start."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("scaledq", deadline=None)  # how busy a machine is proves nothing
settings.load_profile("scaledq")
