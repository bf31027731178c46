"""AlexNet with a sixth convolutional layer after the last pooling.

    python main.py --config=configs/conv6.py:imagenet2012

Source: net 146 (layers-146-2012-2011.cfg): conv6 has 128 maps a tower of 3 x 3, sees both towers, and is not pooled;
fc7 to fc9 are what fc6 to fc8 are elsewhere. The paper's "CNN*": first trained on all of ImageNet's Fall 2011 release,
then on ILSVRC-2012, an error of 39.0 % top-1, 16.6 % top-5 with ten crops on the 2012 validation set (Table 2;
layer-params-146-2012-2011.cfg: .389900, .166220). From ILSVRC-2012 alone no number is known.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    m = c.model
    m.layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc7", "fc8", "fc9")
    m.exchange = ("conv3", "conv6", "fc7", "fc8", "fc9")
    m.conv6 = m.conv3.copy_and_resolve_references()  # 3 x 3, padding 1, deviation 0.03
    m.conv6.features, m.conv6.init_bias = 128, 1.0
    m.fc9, m.fc8 = m.fc8, m.fc7  # fc6 and fc7 are alike
    del m.fc6
    return c
