"""Half of AlexNet: one of its towers, with conv5 and the fully connected layers as wide as two.

    python main.py --config=configs/ablations/half.py:imagenet2012

Source: layers-145-half.cfg of the 2012 source, the paper's one-GPU net (section 3.2). conv5 and the fully connected
layers keep their full width so that the number of parameters stays about the same.

What its authors reached: ILSVRC-2010 test error 39.17 % top-1 and 18.23 % top-5 with ten crops
(layer-params-145-half.cfg:100: .391680, .182287). Two towers reach 37.47 % and 17.00 % there
(layer-params-145-2010.cfg:178).

It has one tower, so more devices can only share the batch.

Differs: the authors trained it on ILSVRC-2010, with the learning rate divided at epochs 20 and 48 and conv1's at 66,
where the color noise ended; conv1 was frozen at 72, and the run ended at epoch 96 (layer-params-145-half.cfg:92,
95-99). Here it is ILSVRC-2012 with the schedule of `alexnet`.
Differs otherwise as `alexnet` does.
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
