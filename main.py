"""Trains, evaluates or describes AlexNet.

python main.py --config=configs/alexnet.py[:DATA] [--workdir=DIR] [--mode=MODE]

The flags and what they do are in alexnet_jax/cli/train.py; `alexnet train` is the same wherever the package is
installed.
"""

import sys

from alexnet_jax.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
