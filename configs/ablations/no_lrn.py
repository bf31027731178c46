"""AlexNet without any response norm.

    python main.py --config=configs/no_lrn.py:imagenet2012

Source: net 148 (layers-148.cfg): it removes the LRN of conv1 and of conv2, and the spatial norm too, so its 1.4 and
1.2 points are not those of the paper's LRN alone (section 3.3). Its authors reached an error of 42.03 % top-1,
19.36 % top-5 with ten crops on the ILSVRC-2012 validation set, against 40.67 and 18.21 of `alexnet` (layer-params-148.cfg: .420340, .193620).
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv1.post_ops = "pool relu"
    c.model.conv2.post_ops = "relu pool"
    return c
