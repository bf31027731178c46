"""AlexNet with pooling windows that do not overlap: 2 x 2 with stride 2.

    python main.py --config=configs/nonoverlap.py:imagenet2012

Source: net 147 (layers-147.cfg), the ablation of the paper's section 3.4: conv2 pads 1 and conv5 nothing, so that the
maps are 55, 28, 26, 13, 11 and 6 pixels wide and fc6 has the same 9,216 inputs. Its authors reached an error of
41.06 % top-1, 18.51 % top-5 with ten crops on the ILSVRC-2012 validation set, against 40.67 and 18.21 of `alexnet`
(layer-params-147.cfg: .410580, .185100).
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
