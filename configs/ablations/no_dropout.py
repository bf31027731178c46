"""AlexNet without dropout.

    python main.py --config=configs/ablations/no_dropout.py:imagenet2012

Source: section 4.2 of the paper, which reports substantial overfitting without dropout, but no number. The 2012
source has no such run.

Differs as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.fc6.post_ops = "relu"
    c.model.fc7.post_ops = "relu"
    return c
