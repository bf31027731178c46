"""AlexNet with average instead of max pooling.

    python main.py --config=configs/ablations/avg_pool.py:imagenet2012

Source: none. Neither the paper nor the 2012 source has such a run. A widely copied Chinese description credits
overlapping max pooling with avoiding the averaging of average pooling. Those are two questions: this recipe asks the
second, `nonoverlap` the first.

The order is that of `alexnet`: conv1 and conv5 pool before ReLU. For a maximum that is the same network as ReLU
before the pool; for an average it is another one.

Differs as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.pool.kind = "avg"
    return c
