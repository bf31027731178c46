"""AlexNet with average instead of maximum pooling.

    python main.py --config=configs/avg_pool.py:imagenet2012

The source document takes overlapping pooling for what "avoids the averaging of average pooling"; these are two
questions, and this is the second one. Neither paper nor source has such a run. conv1 and conv5 pool before ReLU,
which is the same network for a maximum, and another one for an average; the order stays.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.pool.kind = "avg"
    return c
