"""AlexNet with batch normalization instead of its response norms.

    python main.py --config=configs/alexnet_bn.py:imagenet2012

Source: cvjena/cnn-models, AlexNet_cvgj/train.prototxt and train.solver, for where batch normalization goes and for
the schedule: after every convolution and every hidden fully connected layer, before ReLU; biases start at 0 (the norm
subtracts them); learning rate 0.05, twice that for biases, falling linearly to 0 over 64 epochs. Everything else is
`alexnet`. soumith/imagenet-multiGPU.torch, models/alexnetowtbn.lua, has the same order; on small images the order
ReLU, batch normalization did better (ducha-aiki/caffenet-benchmark, batchnorm.md).

Why in every layer and not just in conv1 and conv2: LRN damps the largest responses of the early layers, while batch
normalization keeps the input of each layer centered and scaled, so a layer without it would be the odd one out. Each
tower normalizes its own channels over the whole batch, on however many devices the batch lies.

What its authors reached: ILSVRC-2012 validation accuracy 60.1 % top-1 and 81.9 % top-5 with one crop (their
README.md:21).

Differs: theirs takes crops of 227 pixels without padding (train.prototxt:12, 91-94). Here they have 224, with the
padding of net 145.
Differs: their batch norms learn no scale and shift, except that of the input (lines 40-77, 104-124). Here each does.
Differs: their weights start with std sqrt(2 / inputs) (lines 95-97; Caffe, filler.hpp:200-208). Here with that of net
145.
Differs: theirs normalizes the input instead of subtracting a mean (lines 40-77) and has no dropout (379-480). Here
the mean is subtracted and dropout stays.
Differs: theirs has no color noise. Here it stays, to the end.
Differs: theirs computes batch statistics over 128 images (line 16) and adds up two gradients per step
(train.solver:15); their running variance is the unbiased one (batch_norm_layer.cpp:143). Here both are over all 256
images, and the running variance is the biased one.
Differs: blue comes first there (Caffe, util/io.cpp:78), red here. Of equal maxima in a pooling window the first one
gets the gradient there; here they share it.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.base(data_name)
    c.model.conv1.post_ops = "batch_norm relu pool"
    c.model.conv2.post_ops = "batch_norm relu pool"
    c.model.conv3.post_ops = "batch_norm relu"
    c.model.conv4.post_ops = "batch_norm relu"
    c.model.conv5.post_ops = "batch_norm relu pool"
    c.model.fc6.post_ops = "batch_norm relu dropout"
    c.model.fc7.post_ops = "batch_norm relu dropout"
    for layer in c.model.layers:
        c.model[layer].init_bias = 0.0
    c.train.schedule = "polynomial"
    if datasets.is_imagenet(data_name):
        c.train.batch_size = 256
        c.train.epochs = 64
        c.train.learning_rate = 0.05
        c.data.color_noise_end_epoch = 65  # to the end
    return c
