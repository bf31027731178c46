"""AlexNet as a reader of the paper builds it, from the text alone.

    python main.py --config=configs/alexnet_paper_text.py:imagenet2012

Source: Krizhevsky, Sutskever and Hinton 2012. Section 3.5: ReLU follows every convolution, normalisation
follows ReLU in conv1 and conv2, pooling follows both. Section 3.3: alpha = 1e-4 is not divided by n = 5, k = 2,
and there is no spatial norm. Section 5: all weights from N(0, 0.01), biases 1 in conv2, conv4, conv5, fc6 and fc7,
one learning rate for all layers and biases, divided by ten when the validation error stops improving, three
times. Section 4.1: colours along the principal components, by eigenvalues.

Its authors never ran this network: the numbers of the paper are those of `alexnet`, from which it differs in what
is set below. `--mode=probe` and experiments/003 show how it starts.

Differs: the text says nothing of the padding that 224 -> 55 needs; it is that of `alexnet`. Nor does it say
whether a norm's window crosses from one GPU's maps to the other's; here it does not, as section 3.2 lets the GPUs
communicate in certain layers only. Weight decay leaves biases alone.
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
