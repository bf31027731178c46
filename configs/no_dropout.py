"""AlexNet without dropout.

    python main.py --config=configs/no_dropout.py:imagenet2012

Source: the paper's section 4.2: "without dropout, our network exhibits substantial overfitting"; no number is given,
and no run of it is in the released logs. This project has not run it to its end.
"""

from ml_collections import ConfigDict

from configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.fc6.then = "relu"
    c.model.fc7.then = "relu"
    return c
