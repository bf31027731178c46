"""The single tower of 2014, 64, 192, 384, 256 and 256 maps, which most copies of "AlexNet" are.

    python main.py --config=configs/one_weird_trick.py:imagenet2012

Source: Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv 1404.5997, and
akrizhevsky/cuda-convnet2, layers/layers-imagenet-1gpu.cfg and layer-params-imagenet-1gpu.cfg: the order of net
145 without its spatial norm, fc8 with biases of -7, inverted dropout, 90 epochs with a rate that falls in four
equal pieces by 250 in all (biases: two pieces, by 10).

What its authors reached: 57.45 % top-1, 80.19 % top-5 with one centre crop, 59.58 and 81.85 % with ten, on the
ILSVRC-2012 validation set (cuda-convnet2 wiki, TrainingExample). This project has not run it to its end.

It has one tower: there is nothing of it to put on a second device but a share of the batch.
"""

from ml_collections import ConfigDict

from configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.towers = 1
    c.model.exchange = ()
    c.model.conv1.maps = 64
    c.model.conv2.maps = 192
    c.model.conv3.maps = 384
    c.model.conv4.maps = 256
    c.model.conv5.maps = 256
    c.model.fc6.units = 4096
    c.model.fc7.units = 4096
    c.model.fc8.init_bias = -7.0
    c.model.conv2.then = "relu norm pool"
    c.model.dropout.inverted = True
    c.train.schedule = "dexp"
    c.train.own_drop_epochs = ConfigDict()
    c.train.freeze_epochs = ConfigDict()
    if data_name.startswith("imagenet2012"):
        c.train.epochs = 90
        c.data.colour_end_epoch = 91  # to the end
    return c
