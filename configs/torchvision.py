"""torchvision's `alexnet`: `one_weird_trick` without LRN, and with dropout before fc6 and fc7 instead of after.

    python main.py --config=configs/torchvision.py:imagenet2012

Source: pytorch/vision, torchvision/models/alexnet.py (dropout: lines 38, 41, and issue 549) and
references/classification/README.md (7-18, 27). Padding 2 around conv1; ReLU, then pool; PyTorch's default
initialization; inputs divided by their std; inverted dropout (torch.nn.Dropout); learning rate 0.01, divided by ten
every 30 of 90 epochs; weight decay 1e-4; batches of 8 x 32.

What its authors reached: ILSVRC-2012 validation accuracy 56.522 % top-1 and 79.066 % top-5 with one center crop
(alexnet.py:66-67).

It has one tower, so more devices can only share the batch.

Differs: torchvision trains on a random part of 8 to 100 % of the image (presets.py:20; transforms.py:904). Here it is
224 out of 256 pixels.
Differs: its weight decay acts on biases too. Here on weights only.
Differs: PyTorch keeps the learning rate out of the velocity, so a drop of the rate scales the old velocity at once.
Here, as in 2012 and in Caffe, it does not.
Differs: its adaptive average pooling to 6 x 6 (alexnet.py:36) does nothing at 224 pixels and is left out.
Differs: equal maxima in a pooling window share the gradient.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import one_weird_trick
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = one_weird_trick.get_config(data_name)
    c.data.mean = (123.675, 116.28, 103.53)  # (0.485, 0.456, 0.406) x 255
    c.data.std = (58.395, 57.12, 57.375)  # (0.229, 0.224, 0.225) x 255
    c.data.color_noise = 0.0
    c.data.color_noise_end_epoch = 0
    c.model.init = "fan_in"
    c.model.conv1.padding = (2, 2)
    c.model.conv1.post_ops = "relu pool"
    c.model.conv2.post_ops = "relu pool"
    c.model.conv5.post_ops = "relu pool dropout"
    c.model.fc6.post_ops = "relu dropout"
    c.model.fc7.post_ops = "relu"
    c.model.pool.ceil = False
    c.model.dropout.inverted = True
    c.train.schedule = "steps"
    c.train.bias_rate = 1.0
    c.train.weight_decay = 1e-4
    if datasets.is_imagenet(data_name):
        c.train.batch_size = 256
        c.train.drop_epochs = c.train.bias_drop_epochs = (30, 60)
    return c
