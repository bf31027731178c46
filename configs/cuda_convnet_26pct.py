"""The quick network for CIFAR-10 that came with cuda-convnet: three convolutions, 64 units, and no norms.

    python main.py --config=configs/cuda_convnet_26pct.py:cifar10

Source: dnouri/cuda-convnet at e4ac0c1f, example-layers/layers-80sec.cfg and layer-params-80sec.cfg. The convolutions
and rates of `cuda_convnet_18pct` without its norms; fully connected layers start with std 0.1 (layers:84, 91) and
decay by 0.03 (params:30, 37), the convolutions by 0.004 (params:9, 16, 23). The learning rate is divided by ten after 8
epochs (params:2). The run's end is not in the files: Caffe's copy ends after 2 more (BVLC/caffe,
examples/cifar10/cifar10_quick_solver_lr1.prototxt), and divides the rates of weights and biases, as is done here.

What its authors reached: 26 % error on CIFAR-10's test images, in 80 seconds (layers-80sec.cfg:1). With its 10 classes
the network has 145,578 parameters.

Differs as `cuda_convnet_18pct` does.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import alexnet, cuda_convnet_18pct


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set, as in `configs/alexnet.py`."""
    c = cuda_convnet_18pct.base(data_name)
    c.model.layers = ("conv1", "conv2", "conv3", "fc4", "fc5")
    c.model.fc4 = alexnet.dense(64, "relu", std=0.1, bias=0.0)  # [B, 1024] -> [B, 64]
    c.model.fc5 = alexnet.dense(0, "", std=0.1, bias=0.0)  # [B, 64] -> [B, K]
    c.train.decays.fc4 = c.train.decays.fc5 = 0.03
    c.train.epochs = 10
    c.train.drop_epochs = c.train.bias_drop_epochs = (8,)
    return c
