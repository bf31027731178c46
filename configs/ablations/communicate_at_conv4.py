"""AlexNet whose towers meet at conv4 instead of conv3.

    python main.py --config=configs/communicate_at_conv4.py:imagenet2012

Source: net 132, which does this to net 131 (layers-132.cfg: conv3 reads its own tower, conv4 both); "worse than 131"
(layer-params-132.cfg, killed at epoch 88, without numbers). Here it is done to net 145.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.exchange = ("conv4", "fc6", "fc7", "fc8")
    return c
