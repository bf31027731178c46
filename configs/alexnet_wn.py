"""AlexNet with weight normalisation in place of its response norms.

    python main.py --config=configs/alexnet_wn.py:imagenet2012

Source: Salimans and Kingma, "Weight normalization", arXiv 1602.07868, equation 2: the weights of a map or unit are
scale * v / |v|. Where it goes: into the kernels of every layer. It is no operation on maps, so it has no place
between LRN, pool and ReLU to argue about; the norms are left out, since a map's scale is now its own parameter.
It begins as the network without it, scale = |v|; the paper's initialisation from a first batch is not used.

No result of it on this network is known. Weight decay is on v, whose length does nothing but set how
fast its direction turns.
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
