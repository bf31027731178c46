"""AlexNet whose towers meet at conv4 instead of conv3.

    python main.py --config=configs/ablations/communicate_at_conv4.py:imagenet2012

Source: net 133 of the 2012 source, which does this to net 131: conv3 reads its own tower, conv4 reads both
(layers-133.cfg:149-205). Net 132 does it to net 120 (layer-params-132.cfg:161).

What its authors reached: they stopped net 133 at epoch 50 as worse than net 131 and give no numbers
(layer-params-133.cfg:167).

Differs: here it is done to net 145. Nets 131 and 133 have 32 filters per tower in conv1, a blurred and subsampled
image as a second input of conv2, LRN with k = 1, and a contrast norm where net 145 has its spatial norm
(layers-133.cfg:9-21, 27, 81-86, 121-131; layer-params-133.cfg:137-159).
Differs: the schedule is that of `alexnet`. Theirs was divided at epochs 21 and 48 (layer-params-133.cfg:165-166).
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.exchange = ("conv4", "fc6", "fc7", "fc8")
    return c
