"""The small network for CIFAR-10 that came with cuda-convnet: three convolutions, two response norms, and the classes.

    python main.py --config=configs/cuda_convnet_18pct.py:cifar10

Source: dnouri/cuda-convnet at e4ac0c1f, example-layers/layers-18pct.cfg and layer-params-18pct.cfg. It has the pieces
of AlexNet: ReLU after overlapping max pooling in conv1, and response norms, here within each channel (`rnorm`,
layer.py:1128) with the scale over 3 x 3 pixels (layer.py:1043) and 1 added (conv_util.cu:802, 889). conv2 and conv3
average where AlexNet takes the maximum. Its last layer decays by 1, the others by 0.004 (params:11, 18, 25, 32). All
learning rates are divided by ten after 120 epochs and again after 10 more (params:3-4). Batches of 128:
convnet.py:175. Whole images of 32 pixels, neither mirrored nor cropped (convdata.py:30-45). The run's end is not in
the files: Caffe's copy ends after another 10 epochs (BVLC/caffe, examples/cifar10/cifar10_full_solver_lr2.prototxt).

What its authors reached: 18 % error on CIFAR-10's test images, in 20 minutes (layers-18pct.cfg:1). With its 10 classes
the network has 89,578 parameters.

The size of the images, the schedule and the decays are those of the source whatever the data set is.

Differs: the authors subtract the mean image (convdata.py:33-40). Here it is the channel means, which need no file.
`alexnet prepare statistics cifar10` and --config.data.mean_image=True subtract the mean image, to 0.3 of 255 levels.
Differs: the source has five files of 10,000 images, and so a batch of 16 at the end of each (data.cu:103). Here all
batches have 128.
Differs: it repeats the same batches every epoch (data.py:92-100). Here the images are shuffled.
Differs: equal maxima in a pooling window share the gradient, as in `alexnet` (conv_util.cu:1559).
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet
from alexnet_jax.data import datasets


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = base(data_name)
    c.model.layers = ("conv1", "conv2", "conv3", "fc4")
    c.model.conv1.post_ops = "pool relu spatial_norm"
    c.model.conv2.post_ops = "relu avg_pool spatial_norm"
    c.model.fc4 = alexnet.dense(0, "", std=0.01, bias=0.0)  # [B, 1024] -> [B, K]
    c.model.spatial_norm = ConfigDict({"size": 3, "alpha": 5e-5, "beta": 0.75, "k": 1.0})
    c.train.decays.fc4 = 1.0
    c.train.epochs = 140
    c.train.drop_epochs = c.train.bias_drop_epochs = (120, 130)
    return c


def base(data_name: str) -> ConfigDict:
    """What this network and `cuda_convnet_26pct` share: the convolutions, the images and the rates."""
    c = alexnet.base(data_name)
    c.data.resize_pixels = c.data.crop_pixels = 32
    c.data.flip = c.data.random_crop = False
    c.data.color_noise, c.data.color_noise_end_epoch = 0.0, 0
    if datasets.base_name(data_name) == "cifar10":
        c.data.mean = (125.3, 123.0, 113.9)  # of whole training images
    for name in c.model.layers:
        del c.model[name]
    c.model.towers, c.model.exchange = 1, ()
    # fmt: off
    c.model.conv1 = alexnet.conv(32, 5, 1, (2, 2), "pool relu", std=0.0001, bias=0.0)      # [B, 32, 32, 3]  -> [B, 16, 16, 32]
    c.model.conv2 = alexnet.conv(32, 5, 1, (2, 2), "relu avg_pool", std=0.01, bias=0.0)    # [B, 16, 16, 32] -> [B, 8, 8, 32]
    c.model.conv3 = alexnet.conv(64, 5, 1, (2, 2), "relu avg_pool", std=0.01, bias=0.0)    # [B, 8, 8, 32]   -> [B, 4, 4, 64]
    # fmt: on
    c.train.batch_size = 128
    c.train.learning_rate, c.train.bias_rate = 0.001, 2.0
    c.train.weight_decay = 0.004
    c.train.drop_factor = 10.0
    return c
