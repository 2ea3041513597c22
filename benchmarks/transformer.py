"""How fast the transformer trains and labels, beside the notebook's dense model.

    python benchmarks/transformer.py [--cells 2000] [--dense-cells 48] [--repeats 3] [--threads 1 2]
        [--out benchmarks/transformer.csv]

Cells are simulated: a panel, and how many of its genes a cell expresses. All models run in this process:

- notebook, dense: every panel gene is a token, expressed or not; four post-norm blocks, d = 128, four heads,
  softmax attention written out, float32. What the notebook that this project grew from does;
- annotary, same size: the same network on expressed genes only;
- annotary, default: what ``annotary transformer`` trains.

Training is that of ``annotary transformer`` (loss, optimiser, batches), second epoch; ``loading`` is the share
of its time that making batches takes. Labelling goes from tokens to logits; ``bare`` is the forward pass alone
on batches that are made. The share of peak is that of the machine's own matrix products of 2048 x 2048,
float32 for labelling, bfloat16 for training where the processor has it. Memory is that of a process of its
own, less what one holds that has imported all and made the cells.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from processes import read_peak
from scipy.sparse import csr_matrix
from torch.utils.flop_counter import FlopCounterMode

from annotary.models.transformer import inference, loop
from annotary.models.transformer.batches import make_batch
from annotary.models.transformer.config import NetworkConfig, TrainingConfig
from annotary.models.transformer.device import multiply_in_bfloat16
from annotary.models.transformer.network import GeneTransformer, MultiHeadSelfAttention
from annotary.models.transformer.tokens import tokenize
from annotary.models.transformer.training import fit_transformer
from annotary.quality.prepare import PreparedCells
