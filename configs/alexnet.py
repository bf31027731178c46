"""AlexNet as its authors ran it: net 145 of the released 2012 source, two towers of half the maps each.

    python main.py --config=configs/alexnet.py                    the embedded digits, runs anywhere
    python main.py --config=configs/alexnet.py:imagenet2012       the network of the paper's Table 2
    python main.py --config=configs/alexnet.py:imagenet2012_pack256   ... from what `prepare --pack=256` wrote
    python main.py --config=configs/alexnet.py:cifar10            any TFDS image classification set
    python main.py --config=configs/alexnet.py:my_pictures        your own, by the name given to `prepare folder`
    python main.py --config=configs/alexnet.py:synthetic          noise of ImageNet's shape and sizes, to time a run

What the authors reached: ILSVRC-2012 validation error 40.7 % top-1, 18.2 % top-5 with ten crops
(paper, Table 2, "1 CNN"; layer-params-145.cfg: .406640 / .182100 after 91 epochs). This project has
not repeated that run. On the digits it reaches what README.md says under "What the default run reaches".

Differs: the authors anneal conv1 earlier than the rest (epochs 67 and 72), add colour noise from
principal components until epoch 67, and draw crop and flip once for 32 images. Here all layers share
one schedule, there is no colour noise, and every image has its own crop and flip.
"""

from ml_collections import ConfigDict

# Everything that depends on the data set. Sources of the channel means (R, G, B; 0..255):
# imagenet2012: the mean image of cuda-convnet2 (make-data/input_meta), averaged over its pixels.
# cifar10 and digits: the mean over the training split, centre crops as `data.py` delivers them.
_IMAGENET = {
    "eval_split": "validation",
    "mean": (127.3, 119.7, 104.9),
    "resize_pixels": 256,
    "flip": True,
    "batch_size": 128,
    "epochs": 91,
    "learning_rate": 0.01,
    "drop_epochs": (25, 51, 79),
    "drop_factor": 10.0,
    "checkpoint_steps": 1000,
    "log_steps": 100,
}
# One's own pictures are fewer: a smaller batch, its rate in proportion (experiments/002_own_pictures).
_OWN = _IMAGENET | {
    "eval_split": "",
    "mean": (),
    "batch_size": 32,
    "epochs": 20,
    "learning_rate": 0.0025,
    "drop_epochs": (12, 17),
    "checkpoint_steps": 100,
    "log_steps": 10,
}
_DATA = {
    "imagenet2012": _IMAGENET,
    "synthetic": _IMAGENET | {"mean": (120.0, 120.0, 120.0), "epochs": 1, "log_steps": 10},
    "cifar10": _IMAGENET | {"eval_split": "test", "mean": (124.6, 121.2, 112.0), "checkpoint_steps": 200, "log_steps": 20},
    "digits": {
        "eval_split": "test",
        "mean": (79.4, 79.4, 79.4),
        "resize_pixels": 224,  # = crop_pixels: a digit is used whole
        "flip": False,  # a mirrored 2 is no 2
        "batch_size": 16,  # experiments/001_digits_recipe has what else was tried
        "epochs": 3,
        "learning_rate": 0.001,
        "drop_epochs": (2,),
        "drop_factor": 4.0,
        "checkpoint_steps": 50,
        "log_steps": 10,
    },
}  # fmt: skip


def get_config(data_name: str = "digits") -> ConfigDict:
    """The recipe for a data set: `digits`, `synthetic`, `imagenet2012`, `cifar10`, or any other prepared one.

    A packed set, NAME_pack256, has the recipe of NAME.
    """
    known = _DATA.get(data_name.partition("_pack")[0], _OWN)
    c = ConfigDict()

    # ---- data: where images come from, and what they look like when they reach the network
    c.data = ConfigDict()
    c.data.name = data_name
    c.data.data_dir = ""  # where TFDS keeps its data; "" is ~/tensorflow_datasets
    c.data.train_split = "train"
    c.data.eval_split = known["eval_split"]  # "" is validation, or test where there is no such
    c.data.resize_pixels = known["resize_pixels"]  # the short side, before the crop
    c.data.crop_pixels = 224  # random in training, the centre in evaluation
    c.data.flip = known["flip"]  # mirror left and right, half of the training images
    c.data.mean = known["mean"]  # subtracted from R, G, B; the range stays 0..255. (): the data set's own, as stored
    c.data.threads = 0  # that read and decode, in each process or worker; 0 is by the machine's cores
    c.data.workers = -1  # processes that do so; -1 is none up to 16 cores, one for each 8 beyond
    c.data.prefetch_batches = 4  # ready on the host; one batch of 128 is 19 MB
    c.data.max_bad_records = 10  # that do not decode and are replaced; more of them end the run

    # ---- model: B is the batch; the shapes are those of one tower, and there are two
    c.model = ConfigDict()
    c.model.towers = 2
    c.model.layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    c.model.exchange = ("conv3", "fc6", "fc7", "fc8")  # these see both towers, the others their own
    # fmt: off
    c.model.conv1 = _conv(48, 11, 4, (0, 3), "norm pool relu", std=0.01, bias=0.0)       # [B, 224, 224, 3]   -> [B, 55, 55, 48]  -> [B, 27, 27, 48]
    c.model.conv2 = _conv(128, 5, 1, (2, 2), "relu norm spatial_norm pool", std=0.01, bias=1.0)  # own pool1  -> [B, 27, 27, 128] -> [B, 13, 13, 128]
    c.model.conv3 = _conv(192, 3, 1, (1, 1), "relu", std=0.03, bias=0.0)                 # [B, 13, 13, 256]   -> [B, 13, 13, 192]
    c.model.conv4 = _conv(192, 3, 1, (1, 1), "relu", std=0.03, bias=1.0)                 # own conv3          -> [B, 13, 13, 192]
    c.model.conv5 = _conv(128, 3, 1, (1, 1), "pool relu", std=0.03, bias=1.0)            # own conv4          -> [B, 13, 13, 128] -> [B, 6, 6, 128]
    c.model.fc6 = _dense(2048, "relu dropout", std=0.01, bias=1.0)                       # [B, 9216]          -> [B, 2048]
    c.model.fc7 = _dense(2048, "relu dropout", std=0.01, bias=1.0)                       # [B, 4096]          -> [B, 2048]
    c.model.fc8 = _dense(0, "", std=0.01, bias=0.0)                                      # [B, 4096]          -> [B, K / 2]; 0: its share of the K classes
    # fmt: on
    c.model.norm = ConfigDict({"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0})  # alpha is divided by size
    c.model.spatial_norm = ConfigDict({"size": 5, "alpha": 1e-3, "beta": 0.75, "k": 1.0})  # by size squared
    c.model.pool = ConfigDict({"kind": "max", "size": 3, "stride": 2})
    c.model.dropout = 0.5

    # ---- mesh: data x tower. 0 puts the towers on different devices where their number allows it
    c.mesh = ConfigDict({"tower": 0})

    # ---- train: the update rule of 2012 (paper, section 5; weights.cu) and its schedule
    c.train = ConfigDict()
    c.train.batch_size = known["batch_size"]  # of all devices together
    c.train.epochs = known["epochs"]
    c.train.steps = 0  # overrides the epochs where it is not 0
    c.train.seed = 0
    c.train.learning_rate = known["learning_rate"]
    c.train.bias_rate = 2.0  # the biases' learning rate, in learning rates
    c.train.drop_epochs = known["drop_epochs"]  # where the learning rate is divided ...
    c.train.drop_factor = known["drop_factor"]  # ... by this
    c.train.momentum = 0.9
    c.train.weight_decay = 0.0005  # of the weights; biases have none

    # ---- evaluation, checkpoints, logging
    c.eval = ConfigDict({"batch_size": 64, "every_epochs": 1})
    c.checkpoint = ConfigDict({"every_steps": known["checkpoint_steps"], "keep": 2})  # keep: besides the best
    c.log = ConfigDict({"every_steps": known["log_steps"]})
    return c


def _conv(
    maps: int, kernel: int, stride: int, padding: tuple[int, int], then: str, *, std: float, bias: float
) -> ConfigDict:
    """`maps` a tower; `padding` is (left and top, right and bottom); `then`: what follows, in order."""
    return ConfigDict(
        {
            "maps": maps,
            "kernel": kernel,
            "stride": stride,
            "padding": padding,
            "then": then,
            "init_std": std,
            "init_bias": bias,
        }
    )


def _dense(units: int, then: str, *, std: float, bias: float) -> ConfigDict:
    return ConfigDict({"units": units, "then": then, "init_std": std, "init_bias": bias})
