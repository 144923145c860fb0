"""What every test runs under: one thread a process, and property tests that draw the same examples every time."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("snngan", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("snngan")
