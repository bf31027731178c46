"""The single tower of 2014 with 64, 192, 384, 256 and 256 channels, which most copies of "AlexNet" are.

    python main.py --config=configs/one_weird_trick.py:imagenet2012

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, and
akrizhevsky/cuda-convnet2, layers/layers-imagenet-1gpu.cfg and layer-params-imagenet-1gpu.cfg. The order of net 145
without its spatial norm; biases of fc8 start at -7 (line 144). Dropout masks in training and halves at test time, as
in 2012 (`dropout2`, lines 122-124, 135-137; cudaconvnet/src/layer.cu:1374-1383). The learning rate falls by 250 in
four equal pieces, that of the biases by 10 in two (params:6-7; lr.cu:94-113). Crop and flip are drawn per image
(jpeg.cpp:58, 118, 121). The 90 epochs and the color noise of 0.1 stand only in the commands of the project's wiki.

What its authors reached: ILSVRC-2012 validation accuracy 57.45 % top-1 and 80.19 % top-5 with one center crop, 59.58
% and 81.85 % with ten (cuda-convnet2 wiki, TrainingExample).

It has one tower, so more devices can only share the batch.

Differs: the author subtracts the center of the mean image (convdata.py:104). Here it is the channel means.
Differs in ties, shuffling and resizing as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.base(data_name)
    c.model.towers = 1
    c.model.exchange = ()
    c.model.conv1.features = 64
    c.model.conv2.features = 192
    c.model.conv3.features = 384
    c.model.conv4.features = 256
    c.model.conv5.features = 256
    c.model.fc6.features = 4096
    c.model.fc7.features = 4096
    c.model.fc8.init_bias = -7.0
    c.model.conv2.post_ops = "relu norm pool"
    c.train.schedule = "dexp"
    if datasets.is_imagenet(data_name):
        c.train.epochs = 90
        c.data.color_noise_end_epoch = 91  # to the end
    return c
