"""The single tower of 2014, 64, 192, 384, 256 and 256 maps, which most copies of "AlexNet" are.

    python main.py --config=configs/one_weird_trick.py:imagenet2012

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997, and
akrizhevsky/cuda-convnet2, layers/layers-imagenet-1gpu.cfg and layer-params-imagenet-1gpu.cfg: the order of net
145 without its spatial norm, fc8 with biases of -7, inverted dropout, 90 epochs with a rate that falls in four
equal pieces by 250 in all (biases: two pieces, by 10).

What its authors reached: 57.45 % top-1, 80.19 % top-5 with one centre crop, 59.58 and 81.85 % with ten, on the
ILSVRC-2012 validation set (cuda-convnet2 wiki, TrainingExample).

It has one tower: there is nothing of it to put on a second device but a share of the batch.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet, datasets


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
