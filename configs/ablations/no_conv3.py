"""AlexNet without conv3.

    python main.py --config=configs/no_conv3.py:imagenet2012

Source: the paper's section 7: "removing any of the middle layers results in a loss of about 2 % for the top-1
performance". No such net is in the released logs, so how its neighbours were joined is not known. Here conv4
reads pool2 of both towers, so that they meet at the same place.
But for biases and deviations that is the same network as `no_conv4`.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.layers = tuple(name for name in c.model.layers if name != "conv3")
    c.model.exchange = ("conv4", "fc6", "fc7", "fc8")
    return c
