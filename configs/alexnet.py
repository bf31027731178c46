"""AlexNet as its authors ran it: net 145 of the released 2012 source, two towers with half the channels each.

    python main.py --config=configs/alexnet.py                       the embedded digits, runs anywhere
    python main.py --config=configs/alexnet.py:imagenet2012          the network of the paper's Table 2
    python main.py --config=configs/alexnet.py:imagenet2012_pack256  ... from what `prepare --pack=256` wrote
    python main.py --config=configs/alexnet.py:cifar10               any TFDS image classification set
    python main.py --config=configs/alexnet.py:my_pictures           your own, by the name given to `prepare folder`
    python main.py --config=configs/alexnet.py:synthetic             noise of ImageNet's shape and sizes, to time a run

Source: computerhistory/AlexNet-Source-Code ("the 2012 source" in all recipes), layers/layers-145.cfg and
layers/layer-params-145.cfg. The schedule was set by hand (layer-params-145.cfg:169-181): the learning rate is divided
at epochs 25, 51 and 79; conv1 is annealed at epoch 67 already, where the color noise ends too, and frozen at epoch
72, weights and biases; the other biases keep their rate to the end. The paper mentions none of this. Batches of 128:
convnet.py:177. No weight decay on biases: src/layer.cu:565. 224 pixels out of 256: twice a border of 16 is taken off
(convdata_jpeg.py:73); the border is a command-line option, so no file states it.

What its authors reached: ILSVRC-2012 validation error 40.7 % top-1 and 18.2 % top-5 with ten crops (paper, Table 2,
"1 CNN"; layer-params-145.cfg:182: .406640 and .182100 after 91 epochs). Their run then went on, with the learning
rate back at 0.001, divided at epochs 107 and 124, and ended at epoch 135 with 40.25 % and 17.99 % (lines 192-203).
That part is `alexnet_continued`. For the digits see docs/results.md.

Differs: the authors subtract the center of the mean image from every crop (convdata_jpeg.py:95, 210;
config.data.mean_image=True). Here it is the channel means, which need no file.
Differs: the authors draw crop and flip once per 32 images (convdata_jpeg.py:77; config.data.crop_chunk=32). Here they
are drawn per image.
Differs: fc8 is split over the towers and its logits are gathered. The source keeps fc8 on one GPU, which computes the
same function.
Differs: equal maxima in a pooling window share the gradient. In the source each of them gets all of it; the line is
in the releases before and after it (cuda-convnet, src/cudaconv2/conv_util.cu:1559; cuda-convnet2,
cudaconv3/src/conv_util.cu:1766), since its own kernels are missing. It matters only where the gradient is not zero:
ties of zeros after a ReLU get none in either case.
Differs: the training images are shuffled every epoch. The source shuffles once and repeats the same batches
(cuda-convnet2, python_util/data.py).
Differs: images that are not packed are resized bilinearly where they shrink by less than two. The authors'
make-data.py resizes by area, as `prepare --pack` does.
"""

from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.data import datasets

# How long and how fast to train on each data set, under the names of the config's fields. Of ImageNet's hand-made
# schedule (`get_config`) the others take nothing.
_ONE_RATE = {"batch_size": 128, "epochs": 91, "learning_rate": 0.01, "drop_epochs": (25, 51, 79), "drop_factor": 10.0}
_OWN_PICTURES = _ONE_RATE | {
    # There are fewer of them: a smaller batch, its rate in proportion (experiments/002_own_pictures).
    "batch_size": 32,
    "epochs": 20,
    "learning_rate": 0.0025,
    "drop_epochs": (12, 17),
    "bias_drop_epochs": (12, 17),
}
_TRAIN: dict[str, dict[str, Any]] = {
    "imagenet2012": _ONE_RATE,
    "synthetic": _ONE_RATE | {"epochs": 1},
    "cifar10": _ONE_RATE,
    "digits": {
        "batch_size": 16,  # experiments/001_digits_recipe has what else was tried
        "epochs": 3,
        "learning_rate": 0.001,
        "drop_epochs": (2,),
        "bias_drop_epochs": (2,),
        "drop_factor": 4.0,
    },
}
# Steps between checkpoints and between log lines.
_EVERY_STEPS = {"imagenet2012": (1000, 100), "synthetic": (1000, 10), "cifar10": (200, 20), "digits": (50, 10)}
# The color noise of section 4.1, in std of the components, and the epoch at which it ends. Photographs only.
_COLOR_NOISE = {"imagenet2012": (0.1, 67), "synthetic": (0.1, 67), "cifar10": (0.0, 0), "digits": (0.0, 0)}


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set: `digits`, `synthetic`, `imagenet2012`, `cifar10`, or any other prepared one.

    A packed set, NAME_pack256, has the recipe of NAME.
    """
    c = base(data_name)
    if datasets.is_imagenet(data_name):
        # layer-params-145.cfg: conv1 is annealed at epoch 67 and frozen at 72.
        c.train.own_drop_epochs.conv1 = (25, 51, 67)
        c.train.freeze_epochs.conv1 = 72
    return c


def base(data_name: str = "digits") -> ConfigDict:
    """Net 145 without its hand-made schedule: what the recipes with a schedule of their own start from."""
    name = datasets.base_name(data_name)
    checkpoint_steps, log_steps = _EVERY_STEPS.get(name, (100, 10))
    c = ConfigDict()
    c.data = _data(data_name)
    c.model = _model()
    c.train = _train(_TRAIN.get(name, _OWN_PICTURES))
    # What activations and exchanges are computed in: "float32", "bfloat16", or "auto": bfloat16 on GPUs, TPUs and CPUs
    # with matrix units for it. Weights, momentum, statistics and the loss are float32 in any case.
    c.precision = "auto"
    c.init_from = ""  # a workdir whose latest weights this run starts from; fc8 starts anew for other classes
    # ---- mesh: data x tower. tower: 0 puts the towers on different devices where the number of devices allows it.
    # hybrid: convolutions data parallel, fully connected layers split over all devices by units (One weird trick).
    # exchange_dtype: what layers exchange, there and back: "float32" or "bfloat16"
    c.mesh = ConfigDict({"tower": 0, "hybrid": False, "exchange_dtype": "float32"})
    # ---- evaluation, checkpoints, logging. views: what the last evaluation and --mode=eval average, "all" or "center"
    c.eval = ConfigDict({"batch_size": 64, "every_epochs": 1, "views": "all"})
    c.checkpoint = ConfigDict({"every_steps": checkpoint_steps, "keep": 2})  # keep: besides the best
    # track: trackers that the run reports to, "wandb", "trackio" or both
    c.log = ConfigDict({"every_steps": log_steps, "track": ""})
    return c


def _data(name: str) -> ConfigDict:
    """Where images come from, and what they look like when they reach the network."""
    facts = datasets.facts(name)
    noise, noise_end = _COLOR_NOISE.get(datasets.base_name(name), (0.1, 15))
    c = ConfigDict()
    c.name = name
    c.data_dir = ""  # where TFDS keeps its data; "" is ~/tensorflow_datasets
    c.train_split = "train"
    c.eval_split = facts["eval_split"]  # "" is validation, or test if there is none
    c.resize_pixels = facts["resize_pixels"]  # the short side, before the crop
    c.crop_pixels = 224  # random in training, the center in evaluation
    c.random_crop = True  # False: the center in training too
    c.center_square = True  # random crops stay within the center square, as in 2012; False: anywhere in the image
    c.crop_chunk = 1  # how many neighbors in a batch share crop and flip: 32 in 2012
    c.flip = facts["flip"]  # mirror left and right, half of the training images
    c.mean = facts["mean"]  # subtracted from R, G, B in 0..255. (): the data set's own, as stored
    c.mean_image = False  # subtract the center of the stored mean image instead, from every crop
    c.std = (1.0, 1.0, 1.0)  # what is left of R, G, B is divided by this
    c.bgr = False  # blue first, as Caffe reads pictures
    c.color_noise = noise  # in std of the principal components (paper, section 4.1); 0: none
    c.color_noise_form = "std"  # and everything over 1.1, as in the source; "eigenvalues": as commonly copied, weaker
    c.color_std = facts["color_std"]  # of the components; (): the data set's own, as stored
    c.color_vectors = facts["color_vectors"]
    c.color_noise_end_epoch = noise_end  # no noise from this epoch on ...
    c.color_noise_again = ()  # ... but from the first of two epochs to the second
    c.threads = 0  # that read and decode, per process or worker; 0: by the number of cores
    c.workers = -1  # processes that read and decode; -1: none up to 16 cores, one per 8 cores beyond
    c.prefetch_batches = 4  # ready on the host; a batch of 128 is 19 MB
    c.cache = True  # read a prepared set that fits in half of the free memory ahead of the feed, which the system keeps
    c.max_bad_records = 10  # that do not decode and are replaced; one more ends the run
    return c


def _model() -> ConfigDict:
    """The network. B is the batch; the shapes are those of one tower, and there are two."""
    c = ConfigDict()
    c.towers = 2
    c.layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    c.exchange = ("conv3", "fc6", "fc7", "fc8")  # these read the channels of both towers, the others their own
    # fmt: off
    c.conv1 = conv(48, 11, 4, (0, 3), "norm pool relu", std=0.01, bias=0.0)       # [B, 224, 224, 3]   -> [B, 55, 55, 48]  -> [B, 27, 27, 48]
    c.conv2 = conv(128, 5, 1, (2, 2), "relu norm spatial_norm pool", std=0.01, bias=1.0)  # own pool1  -> [B, 27, 27, 128] -> [B, 13, 13, 128]
    c.conv3 = conv(192, 3, 1, (1, 1), "relu", std=0.03, bias=0.0)                 # [B, 13, 13, 256]   -> [B, 13, 13, 192]
    c.conv4 = conv(192, 3, 1, (1, 1), "relu", std=0.03, bias=1.0)                 # own conv3          -> [B, 13, 13, 192]
    c.conv5 = conv(128, 3, 1, (1, 1), "pool relu", std=0.03, bias=1.0)            # own conv4          -> [B, 13, 13, 128] -> [B, 6, 6, 128]
    c.fc6 = dense(2048, "relu dropout", std=0.01, bias=1.0)                       # [B, 9216]          -> [B, 2048]
    c.fc7 = dense(2048, "relu dropout", std=0.01, bias=1.0)                       # [B, 4096]          -> [B, 2048]
    c.fc8 = dense(0, "", std=0.01, bias=0.0)                                      # [B, 4096]          -> [B, K / 2]; 0: its share of the K classes
    # fmt: on
    c.init = "normal"  # each layer's init_std and init_bias; "fan_in" is PyTorch's default and uses neither
    c.weight_norm = False  # weights as scale * v / |v|
    c.norm = ConfigDict({"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0})
    c.norm.alpha_over_size = True  # alpha is divided by size; in the paper's formula it is not
    c.norm.across_towers = False  # the windows end at the tower's channels; in Caffe they do not
    c.spatial_norm = ConfigDict({"size": 5, "alpha": 1e-3, "beta": 0.75, "k": 1.0})  # alpha over size squared
    c.batch_norm = ConfigDict({"momentum": 0.9, "epsilon": 1e-5})
    c.pool = ConfigDict({"kind": "max", "size": 3, "stride": 2, "ceil": True})
    c.dropout = ConfigDict({"rate": 0.5, "inverted": False})
    return c


def _train(fields: dict[str, Any]) -> ConfigDict:
    """The update rule of 2012 (paper, section 5; weights.cu) and its schedule."""
    c = ConfigDict()
    c.batch_size = fields["batch_size"]  # over all devices
    c.epochs = fields["epochs"]
    c.steps = 0  # overrides the epochs if it is not 0
    c.seed = 0
    c.learning_rate = fields["learning_rate"]
    c.rates = ConfigDict()  # by layer: a factor on its learning rate, 1 for a layer not named here; 0 freezes it
    c.decays = ConfigDict()  # by layer: the decay of its weights, instead of weight_decay
    c.bias_rate = 2.0  # a factor on the learning rate of the biases
    c.schedule = "steps"  # or constant, plateau, dexp, polynomial, cosine: each with its fields below
    c.warmup_epochs = 0.0  # in which the rate rises from 0, in proportion to the step, to that of the schedule
    c.drop_epochs = fields["drop_epochs"]  # steps: where the learning rate is divided ...
    c.drop_factor = fields["drop_factor"]  # ... by this; plateau too
    c.raise_epochs = ()  # steps: where the learning rate of all weights, not of biases, is multiplied ...
    c.raise_factor = 100.0  # ... by this
    c.bias_drop_epochs = fields.get("bias_drop_epochs", ())  # steps: where that of the biases is
    c.own_drop_epochs = ConfigDict()  # steps, by layer: of its weights, instead of drop_epochs
    c.freeze_epochs = ConfigDict()  # by layer: it is frozen from this epoch on
    c.plateau = ConfigDict({"patience": 1, "drops": 3})  # evaluations without improvement until a drop; most drops
    c.dexp = ConfigDict({"factor": 250.0, "pieces": 4, "bias_factor": 10.0, "bias_pieces": 2})
    c.power = 1.0  # polynomial: (1 - step / steps) to this power
    c.momentum = 0.9
    c.weight_decay = 0.0005  # of the weights; biases have none
    c.lars = 0.0  # trust coefficient of LARS; 0: the plain rule
    c.label_smoothing = 0.0  # the share of a label that is spread over all classes
    c.ema_decay = 0.0  # of a moving average of the weights, which is evaluated beside them; 0: none
    c.accumulate = 1  # parts that a device computes its share of a batch in, one after the other, to save memory
    c.rollbacks = 0  # how often a loss that is not finite is answered by the last checkpoint, without the batches since
    return c


def conv(
    features: int, kernel_size: int, stride: int, padding: tuple[int, int], post_ops: str, *, std: float, bias: float
) -> ConfigDict:
    """A convolution; `features` per tower, `padding` (left and top, right and bottom), `post_ops` in order."""
    return ConfigDict(
        {
            "features": features,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "post_ops": post_ops,
            "init_std": std,
            "init_bias": bias,
        }
    )


def dense(features: int, post_ops: str, *, std: float, bias: float) -> ConfigDict:
    """A fully connected layer; `features` per tower, 0 for its share of the classes."""
    return ConfigDict({"features": features, "post_ops": post_ops, "init_std": std, "init_bias": bias})
