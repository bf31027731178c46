"""AlexNet-BN in batches of 32,768 images, with LARS.

    python main.py --config=configs/alexnet_bn_32k.py:imagenet2012_pack256

Source: arXiv 1708.03888 and 1709.05011, and borisgin/nvcaffe at 8896d330, models/alexnet_bn/solver_32k.prototxt:
learning rate 32, warm-up over 400 of 4,000 steps, four parts a batch (`iter_size`, line 10). All else is
`alexnet_bn_large`.

What its authors reached: AlexNet in 11 minutes on 1,024 CPUs (arXiv 1709.05011, the abstract). The accuracy is in the
papers.

Differs as `alexnet_bn_large` does.
Differs: their four parts have batch statistics of their own. So have these; config.train.accumulate=1 has those of the
whole batch.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet_bn_large
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = alexnet_bn_large.get_config(data_name)
    if datasets.is_imagenet(data_name):
        c.train.batch_size = 32768
        c.train.accumulate = 4
        c.train.learning_rate = 32.0
        c.train.warmup_epochs = 10.2  # 400 steps
        c.train.epochs = 102  # 3,988 steps
    return c
