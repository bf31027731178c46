"""The network of 2012 with a schedule of today: warm-up, cosine, label smoothing, an average of the weights.

    python main.py --config=configs/alexnet_modern.py:imagenet2012_pack256

Source: the network is `alexnet`, and so is everything that is not named here. Nobody has published what this schedule
reaches with it. The best figure that we know for a network of its kind is 61.3 % top-1 with one crop, for CaffeNet with
ELU, spatial pyramid pooling, learned colors and two kinds of pooling (ducha-aiki/caffenet-benchmark, Architectures.md,
CaffeNet256All), against 56.5 % without.
In a run of 8 epochs on CIFAR-10 with a quarter of the width it is worse than the schedule of 2012: experiments/023.

Differs, from `alexnet`: a batch of 1,024 images, its learning rate in proportion to that of 128
after five epochs of warm-up (Goyal et al. 2017, arXiv 1706.02677), falling to 0 as half a cosine (Loshchilov and Hutter
2016, arXiv 1608.03983) over 100 epochs; a tenth of each label spread over all classes (Szegedy et al. 2015, arXiv
1512.00567); the weights averaged with a decay of 0.9999 and evaluated beside those of the last step; color noise to the
end; one rate for weights and biases; random crops from the whole image; inverted dropout.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.base(data_name)
    c.data.center_square = False
    c.model.dropout.inverted = True
    c.train.schedule = "cosine"
    c.train.bias_rate = 1.0
    c.train.label_smoothing = 0.1
    c.train.ema_decay = 0.99
    if datasets.is_imagenet(data_name):
        c.data.color_noise_end_epoch = 101  # to the end
        c.train.batch_size = 1024
        c.train.epochs = 100
        c.train.learning_rate = 0.08
        c.train.warmup_epochs = 5.0
        c.train.ema_decay = 0.9999
    return c
