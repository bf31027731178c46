"""AlexNet and what its authors did next: net 145 with its learning rate raised again after 91 epochs.

    python main.py --config=configs/alexnet_continued.py:imagenet2012

Source: `alexnet`, and the comments on what followed in layer-params-145.cfg:192-203 of the 2012 source. After epoch 91
the learning rate of the weights was set back to 0.001 from 0.00001, divided at epochs 107 and 124, and the run ended
at epoch 135. conv1 stayed frozen (line 195). The color noise, off since epoch 67, came back and ended at epoch 124
(lines 196 and 200). No comment speaks of the biases; the file ends with the rate of 0.02 with which they began (lines
19, 27, ...), and with 0 in conv1 (lines 3 and 11), so here they keep theirs, as in `alexnet`.

What its authors reached: ILSVRC-2012 validation error 40.25 % top-1 and 17.99 % top-5 with ten crops
(layer-params-145.cfg:202-203), where net 145 had 40.66 % and 18.21 % after 91 epochs (line 182).

Differs as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`; for others than ImageNet it is `alexnet`."""
    c = alexnet.get_config(data_name)
    if datasets.is_imagenet(data_name):
        c.train.epochs = 135
        c.train.drop_epochs = (25, 51, 79, 107, 124)
        c.train.raise_epochs = (91,)
        c.train.raise_factor = 100.0
        c.data.color_noise_again = (91, 124)
    return c
