"""Half of AlexNet: one of its towers, with conv5 and the fully connected layers as wide as two.

    python main.py --config=configs/half.py:imagenet2012

Source: layers-145-half.cfg; the paper's "net with half as many kernels on one GPU" (section 3.2), where conv5
stays wide "because otherwise this net would have about half as many parameters" (layer-params-145-half.cfg).
Its authors reached an error of 39.17 % top-1, 18.23 % top-5 with ten crops on the ILSVRC-2010 test set
(same file: .391680, .182287), where both towers have 37.47 and 17.00 (layer-params-145-2010.cfg).

It has one tower: there is nothing of it to put on a second device but a share of the batch.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.towers = 1
    c.model.exchange = ()
    c.model.conv5.features = 256
    c.model.fc6.features = 4096
    c.model.fc7.features = 4096
    return c
