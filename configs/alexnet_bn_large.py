"""AlexNet-BN in batches of 8,192 images, with LARS: the large-batch training of You, Gitman and Ginsburg.

    python main.py --config=configs/alexnet_bn_large.py:imagenet2012_pack256

Source: arXiv 1708.03888, and the files of one of its authors, borisgin/nvcaffe at 8896d330:
models/alexnet_bn/train_val2_fp16.prototxt and solver_8K.prototxt. Batch normalization after ReLU and pooling in conv1
to conv4 alone (lines 94, 143, 180, 219), with groups for towers; biases 0.01, but 0.1 in fc6 and fc7; images divided
by 256 (line 23). LARS with a trust coefficient of 0.001, learning rate 10, warm-up over 600 of 15,600 steps, then
falling as a polynomial of power 2 (solver_8K.prototxt:9-26): 100 epochs.

What its authors reached: "we scaled Alexnet up to a batch size of 8K ... without loss in accuracy" (the abstract). The
figures are in the paper.

Differs: in their LARS the length of gradient and decay is that of one plus that of the other (arXiv 1708.03888,
equation 6). Here it is that of their sum, as in optax.
Differs: theirs takes both towers' weights together. Here each tower has a length of its own, wherever it is.
Differs: theirs warms up from 1 and with the square of the step (sgd_solver.cpp:27-33). Here it is from 0 and in
proportion to the step.
Differs: their batch norms learn no scale and shift (scale_bias: false) and their running variance has its own momentum
per device. Here each learns both, and the batch is the one of all devices.
Differs: theirs has the mean image. Here it is the channel means 104, 117 and 123 of blue, green and red.
Differs: in Caffe biases decay where a file does not say otherwise. Here they do not.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import caffe_alexnet
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = caffe_alexnet.get_config(data_name)
    c.data.std = (256.0, 256.0, 256.0)
    c.model.conv1.post_ops = "relu pool batch_norm"
    c.model.conv2.post_ops = "relu pool batch_norm"
    c.model.conv3.post_ops = "relu batch_norm"
    c.model.conv4.post_ops = "relu batch_norm"
    c.model.batch_norm.epsilon = 1e-4
    for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc8"):
        c.model[layer].init_bias = 0.01
    c.train.lars = 0.001
    c.train.schedule = "polynomial"
    c.train.power = 2.0
    c.train.bias_rate = 1.0
    if datasets.is_imagenet(data_name):
        c.train.batch_size = 8192
        c.train.learning_rate = 10.0
        c.train.epochs = 100
        c.train.warmup_epochs = 3.84  # 600 steps
    return c
