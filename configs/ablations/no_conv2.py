"""AlexNet without conv2.

    python main.py --config=configs/ablations/no_conv2.py:imagenet2012

Source: section 7 of the paper, which says that without any one of the middle layers top-1 accuracy falls by about 2
points. The 2012 source has no such net, so how the neighboring layers were joined is not known. Here conv3 reads
pool1 of both towers and pools where conv2 would have.

Differs as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.layers = tuple(name for name in c.model.layers if name != "conv2")
    c.model.conv3.post_ops = "relu pool"
    return c
