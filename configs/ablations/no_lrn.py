"""AlexNet without any response norm.

    python main.py --config=configs/ablations/no_lrn.py:imagenet2012

Source: net 148 of the 2012 source (layers-148.cfg). It drops the LRN of conv1, that of conv2, and the spatial norm
too.

What its authors reached: ILSVRC-2012 validation error 42.03 % top-1 and 19.36 % top-5 with ten crops, against 40.66 %
and 18.21 % of `alexnet` (layer-params-148.cfg:148: .420340, .193620). These are the 1.4 and 1.2 points that section
3.3 of the paper credits to LRN; the spatial norm has a share in them.

Differs: the authors divided the learning rate at epochs 22, 44 and 86 and conv1's at 69, where the color noise ended,
froze conv1 at 73 and stopped at epoch 97 (layer-params-148.cfg:141-146). Here it is the schedule of `alexnet`.
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv1.post_ops = "pool relu"
    c.model.conv2.post_ops = "relu pool"
    return c
