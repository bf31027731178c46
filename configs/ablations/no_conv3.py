"""AlexNet without conv3.

    python main.py --config=configs/ablations/no_conv3.py:imagenet2012

Source: section 7 of the paper, which says that without any one of the middle layers top-1 accuracy falls by about 2
points. The 2012 source has no such net, so how the neighboring layers were joined is not known. Here conv4 reads
pool2 of both towers, so that they meet at the same place. Except for initial biases that is the same network as
`no_conv4`.

Differs as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.layers = tuple(name for name in c.model.layers if name != "conv3")
    c.model.exchange = ("conv4", "fc6", "fc7", "fc8")
    return c
