"""AlexNet whose towers never meet before fc8.

    python main.py --config=configs/ablations/no_communication.py:imagenet2012

Source: net 150 of the 2012 source. It changes more than the communication: conv2 has 160 filters per tower instead of
128 (layers-150.cfg:68, 83), fc6 has 4096 units per tower and reads its own tower (238-250), fc7 has 2048 and reads
its own tower too (266-278). 60,714,408 parameters, close to the 60,965,224 of `alexnet`.

What its authors reached: ILSVRC-2012 validation error 41.83 % top-1 and 19.33 % top-5 with ten crops, against 40.66 %
and 18.21 % of `alexnet` (layer-params-150.cfg:179: .418280, .193300).

Differs: the authors divided the learning rate at epochs 25, 49 and 79 and conv1's at 66, where the color noise ended,
froze conv1 at 72 and stopped at epoch 92 (layer-params-150.cfg:170-177). Here it is the schedule of `alexnet`.
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.exchange = ("fc8",)
    c.model.conv2.features = 160
    c.model.fc6.features = 4096
    return c
