"""BVLC's AlexNet: the paper's text in Caffe, with groups for towers.

    python main.py --config=configs/caffe_alexnet.py:imagenet2012

Source: BVLC/caffe, models/bvlc_alexnet/train_val.prototxt and solver.prototxt. Crops of 227 pixels without padding,
blue first; ReLU, LRN, pool; std 0.01, but 0.005 in fc6 and fc7; biases 0.1 where the paper has 1, with which the loss
did not fall (readme.md); inverted dropout (dropout_layer.cpp:17, 41); no color noise. LRN divides alpha by n
(lrn_layer.cpp:120), has k = 1 (caffe.proto:888) and ignores groups: its windows reach over the border between them,
so that on two devices the towers exchange four channels at each LRN. Learning rate 0.01, divided by ten every 100,000
of 450,000 steps of 256 images (solver.prototxt:4-9).

What its authors reached: ILSVRC-2012 validation accuracy 57.1 % top-1 and 80.2 % top-5 with one center crop, at
iteration 360,000, which is epoch 71.9 (readme.md:16, 18).

Differs: Caffe's images are warped to 256 x 256 pixels whatever their shape (examples/imagenet/readme.md:33-36), and
the crop is taken anywhere in them (data_transformer.cpp:88-89). Here the short side is resized to 256 and the crop is
taken from the center square.
Differs: Caffe subtracts the part of the mean image under the crop (data_transformer.cpp:115). Here it is the channel
means 104, 117 and 123 of blue, green and red, which CaffeNet's file names as an alternative
(models/bvlc_reference_caffenet/train_val.prototxt:15-22).
Differs: 100,000 of 450,000 steps are 19.98 of 89.92 epochs. Here it is 20 of 90.
Differs: Caffe gives the gradient to the first of equal maxima in a pooling window (pooling_layer.cpp:178). Here they
share it.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet
from alexnet_jax.data import datasets


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
