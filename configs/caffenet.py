"""CaffeNet, BVLC's reference model: pool before LRN, and the paper's biases of 1.

    python main.py --config=configs/caffenet.py:imagenet2012

Source: BVLC/caffe, models/bvlc_reference_caffenet/train_val.prototxt and readme.md: as `caffe_alexnet`, with pool
and LRN exchanged ("an accident", issue 4202) and without "relighting" (the colour noise, which neither has).

What its authors reached: 57.4 % top-1, 80.4 % top-5 with one centre crop on the ILSVRC-2012 validation set
(readme, iteration 310,000).
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import caffe_alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = caffe_alexnet.get_config(data_name)
    c.model.conv1.post_ops = "relu pool norm"
    c.model.conv2.post_ops = "relu pool norm"
    for layer in ("conv2", "conv4", "conv5", "fc6", "fc7"):
        c.model[layer].init_bias = 1.0
    return c
