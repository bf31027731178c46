"""AlexNet with a sixth convolution after the last pooling, the paper's "CNN*".

    python main.py --config=configs/ablations/conv6.py:imagenet2012

Source: net 146 of the 2012 source (layers-146-2012-2011.cfg:258-286): conv6 has 128 filters of 3 x 3 per tower, reads
both towers and is not pooled. fc7 to fc9 are what fc6 to fc8 are elsewhere.

What its authors reached: ILSVRC-2012 validation error 39.0 % top-1 and 16.6 % top-5 with ten crops, fine-tuned from
larger data sets (paper, Table 2, "1 CNN*"; layer-params-146-2012-2011.cfg:195: .389900, .166220). No number is known
for training on ILSVRC-2012 alone.

Differs: the authors did not train it from scratch on ILSVRC-2012. Its weights come from net 145 by way of ImageNet
2009 and 2011 (layer-params-146-2012-2011.cfg:181, 197-198; layer-params-146-2009.cfg:181); all layers but the last
are copied. 54 epochs of fine-tuning follow (lines 182-193): learning rate 0.001, divided at epochs 22 and 42; conv1
starts at 0.0001, is divided at epoch 5 and frozen at 7; the last layer has 0.01 from batch 300 to epoch 9; the color
noise ends at epoch 38. Here training starts from random weights, with the schedule of `alexnet`.
Differs: their biases of conv6 have 0.022 as their rate (lines 83, 91). Here 0.02, as all others.
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.get_config(data_name)
    m = c.model
    m.layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc7", "fc8", "fc9")
    m.exchange = ("conv3", "conv6", "fc7", "fc8", "fc9")
    m.conv6 = alexnet.conv(128, 3, 1, (1, 1), "relu", std=0.03, bias=1.0)  # [B, 6, 6, 256] -> [B, 6, 6, 128]
    m.fc8 = alexnet.dense(2048, "relu dropout", std=0.01, bias=1.0)
    m.fc9 = alexnet.dense(0, "", std=0.01, bias=0.0)
    return c
