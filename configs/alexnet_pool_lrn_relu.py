"""AlexNet in the order that a widely copied Chinese description gives: pool, then LRN, then ReLU.

    python main.py --config=configs/alexnet_pool_lrn_relu.py:imagenet2012

Source: that description, which puts LRN after the pool and before ReLU in conv1 and conv2. It is half right. In net
145 LRN comes before ReLU in conv1, but before the pool too, and after ReLU in conv2 (layers-145.cfg); in the paper's
text the order is ReLU, LRN, pool (section 3.5).

What its authors reached: no result is known.

The description has no spatial norm, so there is none here. Everything else is `alexnet`.

Differs as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv1.post_ops = "pool norm relu"
    c.model.conv2.post_ops = "pool norm relu"
    return c
