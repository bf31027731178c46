"""AlexNet without the spatial norm that the paper does not mention.

    python main.py --config=configs/ablations/no_spatial_norm.py:imagenet2012

Source: layers-145.cfg of the 2012 source without its cnorm2a and cnorm2b (lines 111, 117). This is the network that
the paper describes, with the order and the initialization of the source. The 2012 source has no such run; net 167
(`no_norm2`) comes closest.

Differs as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv2.post_ops = "relu norm pool"
    return c
