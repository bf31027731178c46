"""AlexNet without conv4.

    python main.py --config=configs/no_conv4.py:imagenet2012

Source: the paper's section 7: "removing any of the middle layers results in a loss of about 2 % for the top-1
performance". No such net is in the released logs, so how its neighbours were joined is not known. Here conv5
reads conv3 of its own tower.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.layers = tuple(name for name in c.model.layers if name != "conv4")
    return c
