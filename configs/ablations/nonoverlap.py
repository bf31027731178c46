"""AlexNet with pooling windows that do not overlap: 2 x 2 with stride 2.

    python main.py --config=configs/ablations/nonoverlap.py:imagenet2012

Source: net 147 of the 2012 source, the ablation of the paper's section 3.4. conv2 pads 1 and conv5 nothing
(layers-147.cfg:69, 84, 195, 209), so that the features are 55, 28, 26, 13, 11 and 6 pixels wide and fc6 has the same
9,216 inputs.

What its authors reached: ILSVRC-2012 validation error 41.06 % top-1 and 18.51 % top-5 with ten crops, against 40.66 %
and 18.21 % of `alexnet` (layer-params-147.cfg:174: .410580, .185100).

Differs: the authors divided the learning rate at epochs 23, 51 and 79, froze conv1 at 79 without annealing it first,
mention no end of the color noise, and stopped at epoch 90; their biases end at a rate of 0.002
(layer-params-147.cfg:169-172, 19). Here it is the schedule of `alexnet`.
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.pool.size = 2
    c.model.conv2.padding = (1, 1)
    c.model.conv5.padding = (0, 0)
    return c
