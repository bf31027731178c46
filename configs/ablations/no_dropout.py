"""AlexNet without dropout.

    python main.py --config=configs/no_dropout.py:imagenet2012

Source: the paper's section 4.2: "without dropout, our network exhibits substantial overfitting"; no number is given,
and no run of it is in the released logs.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.fc6.post_ops = "relu"
    c.model.fc7.post_ops = "relu"
    return c
