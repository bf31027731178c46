"""BVLC's AlexNet: the paper's text in Caffe, with groups for towers.

    python main.py --config=configs/caffe_alexnet.py:imagenet2012

Source: BVLC/caffe, models/bvlc_alexnet/train_val.prototxt and solver.prototxt. 227 x 227 crops without padding,
blue first, means 104, 117, 123; ReLU, LRN, pool; alpha over n, k = 1, and LRN over all channels, so that its
windows cross from one group to the other: between two devices that is a communication, of four channels. Weights
from N(0, 0.01), 0.005 in fc6 and fc7; biases 0.1 where the paper has 1, which "gave flat loss" (its readme).
Rate 0.01, divided by ten every 100,000 of 450,000 steps of 256 images.

What its authors reached: 57.1 % top-1, 80.2 % top-5 with one centre crop on the ILSVRC-2012 validation set
(readme, iteration 360,000).

Differs: Caffe subtracts the part of the mean image under the crop; here the channel means. Steps are in epochs: 100,000
x 256 images are 20 epochs.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet, datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.base(data_name)
    c.data.crop_pixels = 227
    c.data.resize_pixels = max(227, c.data.resize_pixels)
    c.data.bgr = True
    c.data.color_noise = 0.0
    c.data.color_noise_end_epoch = 0
    c.model.conv1.padding = (0, 0)
    c.model.conv1.post_ops = "relu norm pool"
    c.model.conv2.post_ops = "relu norm pool"
    c.model.conv5.post_ops = "relu pool"
    for layer in ("conv3", "conv4", "conv5"):
        c.model[layer].init_std = 0.01
    for layer in ("fc6", "fc7"):
        c.model[layer].init_std = 0.005
    for layer in ("conv2", "conv4", "conv5", "fc6", "fc7"):
        c.model[layer].init_bias = 0.1
    c.model.norm.k = 1.0
    c.model.norm.across_towers = True
    c.model.dropout.inverted = True
    if datasets.is_imagenet(data_name):
        c.data.mean = (123.0, 117.0, 104.0)  # of R, G, B
        c.train.batch_size = 256
        c.train.epochs = 90
        c.train.drop_epochs = c.train.bias_drop_epochs = (20, 40, 60, 80)
    return c
