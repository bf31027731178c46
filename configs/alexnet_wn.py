"""AlexNet with weight normalization instead of its response norms.

    python main.py --config=configs/alexnet_wn.py:imagenet2012

Source: Salimans and Kingma, "Weight normalization", arXiv:1602.07868, equation 2: the weights of a channel or unit
are scale * v / |v|. It acts on the kernel of every layer and not on activations, so it has no place in the order of
LRN, pool and ReLU. The norms are left out, since each channel now has a scale of its own. Everything else is
`alexnet`.

What its authors reached: no result on this network is known.

Differs: their data-dependent initialization is not used. The network starts as the one without weight normalization,
scale = |v|.
Differs: weight decay acts on v, whose length changes nothing but how fast its direction turns.
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.weight_norm = True
    c.model.conv1.post_ops = "pool relu"
    c.model.conv2.post_ops = "relu pool"
    return c
