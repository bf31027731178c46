"""AlexNet as a reader of the paper builds it, from the text alone.

    python main.py --config=configs/alexnet_paper_text.py:imagenet2012

Source: Krizhevsky, Sutskever and Hinton 2012. Section 3.5: ReLU after every layer, LRN after ReLU in conv1 and conv2,
pooling after that. Section 3.3: alpha is 1e-4 and not divided by n = 5, k is 2; there is no spatial norm. Section 5:
std 0.01 for all weights, biases 1 in conv2, conv4, conv5, fc6 and fc7, the same learning rate everywhere, divided by
ten three times, whenever the validation error stops improving. Section 4.1: color noise scaled by eigenvalues.

What its authors reached: they never ran this network. The paper's numbers are those of `alexnet`. How this one
starts: `--mode=probe` and experiments/003.

Differs: the text does not say which padding makes 55 pixels of 224. Here it is that of `alexnet`.
Differs: it does not say whether LRN reaches from one GPU's channels to the other's. Here it does not, since section
3.2 lets the GPUs communicate in certain layers only.
Differs: the text does not exempt the biases from weight decay. Here they have none.
Differs otherwise as `alexnet` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet.base(data_name)
    c.model.conv1.post_ops = "relu norm pool"
    c.model.conv2.post_ops = "relu norm pool"
    c.model.conv5.post_ops = "relu pool"
    for layer in ("conv3", "conv4", "conv5"):
        c.model[layer].init_std = 0.01
    c.model.norm.alpha_over_size = False
    c.data.color_noise_form = "eigenvalues"
    c.data.color_noise_end_epoch = c.train.epochs + 1  # to the end
    c.train.bias_rate = 1.0
    c.train.schedule = "plateau"
    c.train.drop_factor = 10.0
    return c
