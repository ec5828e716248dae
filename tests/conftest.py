"""Two workers share two cores: one thread each, in the tests and in the processes they start."""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
