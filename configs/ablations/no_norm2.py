"""AlexNet with the LRN of conv1 alone: neither of conv2's norms.

    python main.py --config=configs/ablations/no_norm2.py:imagenet2012

Source: net 167 of the 2012 source (layers-167.cfg).

What its authors reached: ILSVRC-2012 validation error 40.49 % top-1 and 18.12 % top-5 with ten crops
(layer-params-167.cfg:185: .404880, .181180), 42.68 % and 19.76 % with the center crop (line 184). `alexnet` has 40.66
% and 18.21 %. A fairer baseline is net 170, whose schedule is of the same kind: 40.53 % and 18.05 %
(layer-params-170.cfg:205). Either way nothing is lost.

Differs: in theirs the learning rate falls by 1000 in four equal pieces and that of the biases by 10 in two (dexp;
layer-params-167.cfg:28-29), the color noise ends at epoch 63, and conv1 is frozen at 73 without being annealed first
(lines 182-183). Here it is the schedule of `alexnet`.
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.conv2.post_ops = "relu pool"
    return c
