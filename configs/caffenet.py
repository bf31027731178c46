"""CaffeNet, BVLC's reference model: pool before LRN, and the paper's biases of 1.

    python main.py --config=configs/caffenet.py:imagenet2012

Source: BVLC/caffe, models/bvlc_reference_caffenet/train_val.prototxt, solver.prototxt and readme.md. It is
`caffe_alexnet` with pool and LRN exchanged (train_val.prototxt:89-110, 145-166; by accident, says issue 4202) and
biases of 1 (lines 135, 224, 258, 300, 340).

What its authors reached: ILSVRC-2012 validation accuracy 57.4 % top-1 and 80.4 % top-5 with one center crop, at
iteration 310,000, which is epoch 61.9 (readme.md:16, 18).

Differs as `caffe_alexnet` does.
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
