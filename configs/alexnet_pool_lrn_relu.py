"""AlexNet in the order that a widely copied Chinese description gives: pool, then LRN, then ReLU.

    python main.py --config=configs/alexnet_pool_lrn_relu.py:imagenet2012

Source: that description's list of features ("LRN after the pool, before ReLU; its result is the input of ReLU").
It is half right: net 145 has LRN before ReLU in conv1, but before the pool too, and in conv2 ReLU comes first
(layers-145.cfg); the paper has ReLU, LRN, pool (section 3.5). No result of it is known.

It has no spatial norm, which the description does not know; all else is `alexnet`.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv1.post_ops = "pool norm relu"
    c.model.conv2.post_ops = "pool norm relu"
    return c
