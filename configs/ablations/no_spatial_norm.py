"""AlexNet without the spatial norm that the paper does not mention.

    python main.py --config=configs/no_spatial_norm.py:imagenet2012

Source: layers-145.cfg without its cnorm2a and cnorm2b. It is what the paper describes with the order and the
initialisation of the source. No run of just this is in the released logs; 167 (`no_norm2`) comes nearest.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv2.post_ops = "relu norm pool"
    return c
