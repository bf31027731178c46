"""AlexNet whose towers never meet before fc8.

    python main.py --config=configs/no_communication.py:imagenet2012

Source: net 150 (layers-150.cfg): conv2 has 160 maps a tower, and each tower its own fc6 and fc7 of 4096 units. Its
authors reached an error of 41.83 % top-1, 19.33 % top-5 with ten crops on the ILSVRC-2012 validation set, against 40.67 and 18.21 of `alexnet`
(layer-params-150.cfg: .418280, .193300).
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    c.model.exchange = ("fc8",)
    c.model.conv2.features = 160
    c.model.fc6.features = 4096
    return c
