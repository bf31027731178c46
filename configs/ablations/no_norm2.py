"""AlexNet with the LRN of conv1 alone: neither of conv2's norms.

    python main.py --config=configs/no_norm2.py:imagenet2012

Source: net 167 (layers-167.cfg). Its authors reached an error of 40.49 % top-1, 18.12 % top-5
with ten crops on the ILSVRC-2012 validation set, against 40.67 and 18.21 of `alexnet`
(layer-params-167.cfg: .404880, .181180): no loss.

Differs: they ran it with a rate that falls exponentially in steps; here it is that of `alexnet`.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv2.post_ops = "relu pool"
    return c
