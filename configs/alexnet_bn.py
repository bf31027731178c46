"""AlexNet with batch normalisation in place of its response norms.

    python main.py --config=configs/alexnet_bn.py:imagenet2012

Source: cvjena/cnn-models, AlexNet_cvgj, for the place of the norms, the rate and its fall; `alexnet` for all else.
Where it goes: after every convolution and hidden fully connected layer, before ReLU, as in the one net of two
groups that was published with it (cvjena/cnn-models, AlexNet_cvgj/train.prototxt; also soumith/imagenet-
multiGPU.torch, models/alexnetowtbn.lua). Why all and not conv1 and conv2 alone: LRN stands where it stands to damp
the largest responses of the early layers; batch normalisation is there to keep every layer's input centred, so a
layer without it would be the one that fades. Biases begin at 0, as the norms subtract them, and the initialisation
matters little (an ablation on small images, caffenet-benchmark/batchnorm.md, found it better *after* ReLU).
Each tower normalises its own maps, over the whole batch, whichever devices that is on: sums over the axis `data`.

What others reached: 60.1 % top-1, 81.9 % top-5 (AlexNet_cvgj: 227 pixels, rate 0.05 falling linearly to 0, batches of
256). The rate and its fall are theirs here, in 64 epochs.

Differs: theirs normalises the input as well, and keeps dropout out; here it stays.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet, datasets


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
