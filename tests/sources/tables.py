"""The numbers of the original files, taken from those files alone and not from `configs/`.

A net is a row of numbers for each weighted layer, in the order of the file, and a few facts for the whole. Every number
has the file and the line it stands in; a reader with the file open can check each row in a minute. No file is copied.

    O12      computerhistory/AlexNet-Source-Code at 2f8b81f7, the 2012 code
    CC2      akrizhevsky/cuda-convnet2 at 3238bf03
    CAFFE    BVLC/caffe at 9b891540
    CC1      dnouri/cuda-convnet at e4ac0c1f
    CVGJ     cvjena/cnn-models at a0ade4d5
    NVCAFFE  borisgin/nvcaffe at 8896d330
    TV       torchvision 0.29.1 (pytorch/vision at 1f1a920d): torchvision/models/alexnet.py
    TV-REF   pytorch/vision, references/classification: README.md of 2022 or later, train.py at 017e9b99

How the sources count. O12 and CC2's two-GPU net write each tower as layers of its own (conv1a on GPU 0, conv1b on GPU 1)
with the filters of ONE tower; the two were compared key by key and differ in nothing but letters and the order of
inputs, so a row stands for both and has the lines of both. The last layer is whole, on one GPU. Caffe writes the total,
and `group: 2` where a half reads its own half.
"""

# ruff: noqa: E501  (a layer a line)

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Layer:
    """A weighted layer. `at` and `rates_at` are lines of the net's `file` and `rates_file`."""

    name: str  # ours
    at: str
    features: int  # filters or outputs as the file states them: see Net.per_tower
    size: int  # 0 in a fully connected layer, and so are stride and padding
    stride: int
    padding: int
    channels: tuple[int, ...]  # as stated, of each input; () where the file does not say
    reads: str  # image, own (tower or group), both, or all (there is one tower)
    std: float | None  # initW; None: see Net.init
    bias: float | None  # initB
    post_ops: str  # what follows up to the next weights, in order
    rates_at: str
    eps_w: float  # as the file states it, in units of Training.unit. In O12 this is the END of the run
    eps_b: float
    decay: float | None = None  # wc; None: Training.decay


@dataclasses.dataclass(frozen=True)
class Norm:
    """x / (k + scale / n * sum of n squares) ** power, n = size across channels or size * size in space."""

    size: int
    scale: float
    power: float
    k: float
    over: str  # tower, all (channels of all groups), or space
    at: str


@dataclasses.dataclass(frozen=True)
class Pool:
    kind: str
    size: int
    stride: int
    rounds: str  # ceil or floor
    ties: str  # which of several equal maxima gets the gradient: each the whole of it, or the first
    at: str


@dataclasses.dataclass(frozen=True)
class Dropout:
    rate: float
    inverted: bool  # False: masks in training and scales by 1 - rate in the test
    at: str


@dataclasses.dataclass(frozen=True)
class Training:
    start_w: float  # rate of the weights when training starts
    start_b: float | None  # of the biases; None: the files do not say
    unit: float  # Layer.eps_w and eps_b are multiples of this
    momentum: float
    decay: float  # of weights
    decay_b: float  # of biases
    batch: int
    color_noise: float | None  # None: the files do not say
    crop_chunk: int  # so many images share a crop and a flip
    mean: Any  # what is subtracted
    at: str
    blue_first: bool | None = False


@dataclasses.dataclass(frozen=True)
class Net:
    file: str
    rates_file: str
    towers: int
    per_tower: bool  # features are those of one tower, but for the last layer
    pixels: int  # of the crop
    conv_rounds: str  # ceil: the last window may reach beyond the padded image, where it reads zeros
    init: str
    layers: tuple[Layer, ...]
    pool: Pool
    training: Training
    norm: Norm | None = None
    spatial_norm: Norm | None = None
    dropout: Dropout | None = None
    batch_norm: dict[str, Any] = dataclasses.field(default_factory=dict)
    more_channels: dict[str, int] = dataclasses.field(default_factory=dict)  # that a layer reads from elsewhere
    schedule: dict[str, Any] = dataclasses.field(default_factory=dict)  # by hand: epochs as the file counts them
    says: dict[str, Any] = dataclasses.field(default_factory=dict)  # results and counts that the file states
    data: tuple[str, int, int] = ("imagenet2012", 1000, 1_281_167)  # our name, classes, training images


# ---------------------------------------------------------------- what O12 and CC2 have for every net

# Equal maxima: each gets the whole gradient, "(img == ma) * mg". O12 lacks its kernels, so the lines are those of the
# releases before and after it: dnouri/cuda-convnet at e4ac0c1f, src/cudaconv2/conv_util.cu:1559 (kLocalMaxUndo, 1497);
# CC2 cudaconv3/src/conv_util.cu:1766 (kLocalMaxUndo, 1704).
# Rounding: O12 layer.py:1164 (pools, start 0 by 1139), layer.py:1004 (convolutions).
_TIES = "ties: conv_util.cu"

# hs = HiddenSexLayer. O12 src/layer.cu:1126-1135: mask in training (1130-1131), scale by keep in the test (1133).
_HS = "O12 src/layer.cu:1126-1135"
# CC2 dropout2: cudaconvnet/src/layer.cu:1374-1383, the same two forms; keep is 0.5 by default, layer.py:802.
_DROPOUT2 = "CC2 cudaconvnet/src/layer.cu:1374-1383; layer.py:802"
# CC2 dropout: cudaconvnet/src/layer.cu:1333-1342 and include/layer.cuh:634-643: times 1 / keep in training, copied in the test.
_DROPOUT = "CC2 cudaconvnet/src/layer.cu:1333-1342; include/layer.cuh:638-641"

# Batch: O12 convnet.py:177. crop_chunk: convdata_jpeg.py:77. Mean: the center of the mean image from every crop,
# convdata_jpeg.py:95 and 210. Red first: convdata_jpeg.py:34. Decay: none on biases, src/layer.cu:565. Crop: 256 less two borders, convdata_jpeg.py:73;
# the border is an option of the command line (convnet.py:182, 4 by default) and no file has the 16 that 224 needs.


def _trained_2012(start_b: float | None, at: str, color_noise: float | None = 0.1, start_w: float = 0.01) -> Training:
    mean = "center of the mean image"
    return Training(start_w, start_b, 1.0, 0.9, 0.0005, 0.0, 128, color_noise, 32, mean, at)


# ---------------------------------------------------------------- the nets
# fmt: off

ALEXNET = Net(
    "O12 layers/layers-145.cfg", "O12 layers/layer-params-145.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20,22-33", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7,9-15", 0.0, 0.0),
        Layer("conv2", "65-78,80-93", 128, 5, 1, 2, (48,), "own", 0.01, 1.0, "relu norm spatial_norm pool", "17-23,25-31", 0.00001, 0.02),
        Layer("conv3", "135-147,149-161", 192, 3, 1, 1, (128, 128), "both", 0.03, 0.0, "relu", "33-39,41-47", 0.00001, 0.02),
        Layer("conv4", "163-175,177-189", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "49-55,57-63", 0.00001, 0.02),
        Layer("conv5", "192-204,206-218", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "65-71,73-79", 0.00001, 0.02),
        Layer("fc6", "238-245,247-254", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "81-87,89-95", 0.00001, 0.02),
        Layer("fc7", "266-273,275-282", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "97-103,105-111", 0.00001, 0.02),
        Layer("fc8", "294-299", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "113-119", 0.00001, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "47-54,56-63,119-125,127-133,220-227,229-236"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "39,45,99,105; params 137-155; scale over size: layer.py:1183"),
    spatial_norm=Norm(5, 0.001, 0.75, 1.0, "space", "111,117; params 157-163; over size^2: layer.py:1183; no minDiv: layer.cu:1569"),
    dropout=Dropout(0.5, False, "256-264,284-292; " + _HS),
    training=_trained_2012(0.02, "start: 169, color noise: 178, biases never set: 19, 27, 35, ..."),
    schedule={
        "kind": "by hand",
        "drops": ((25, "all", 1e-3, 169), (51, "all", 1e-4, 174), (67, "conv1", 1e-5, 177), (72, "conv1", 0.0, 179), (79, "others", 1e-5, 180)),
        "color noise off": (67, 178), "stop": (91, 181),
    },
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.406640, 0.182100, 182)},
)

# What followed net 145, in the same files: the rates of all but conv1 (195: it stays at 0).
ALEXNET_CONTINUED = dataclasses.replace(
    ALEXNET,
    schedule={
        "kind": "by hand",
        "drops": (
            *ALEXNET.schedule["drops"],
            (91, "others", 1e-3, 195), (107, "others", 1e-4, 198), (124, "others", 1e-5, 199),
        ),
        "color noise off": (67, 178), "color noise on": (91, 196), "color noise off again": (124, 200), "stop": (135, 201),
    },
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.402500, 0.179940, 203)},
)

HALF = Net(
    "O12 layers/layers-145-half.cfg", "O12 layers/layer-params-145-half.cfg", 1, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7", 0.00001, 0.002),
        Layer("conv2", "37-50", 128, 5, 1, 2, (48,), "all", 0.01, 1.0, "relu norm spatial_norm pool", "9-15", 0.00001, 0.002),
        Layer("conv3", "72-84", 192, 3, 1, 1, (128,), "all", 0.03, 0.0, "relu", "17-23", 0.00001, 0.02),
        Layer("conv4", "86-98", 192, 3, 1, 1, (192,), "all", 0.03, 1.0, "relu", "25-31", 0.00001, 0.02),
        Layer("conv5", "100-112", 256, 3, 1, 1, (192,), "all", 0.03, 1.0, "pool relu", "33-39", 0.00001, 0.02),
        Layer("fc6", "123-130", 4096, 0, 0, 0, (), "all", 0.01, 1.0, "relu dropout", "42-48", 0.00001, 0.02),
        Layer("fc7", "137-144", 4096, 0, 0, 0, (), "all", 0.01, 1.0, "relu dropout", "50-56", 0.00001, 0.02),
        Layer("fc8", "151-156", 1000, 0, 0, 0, (), "all", 0.01, 0.0, "", "58-64", 0.00001, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "28-35,64-70,114-121"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "26,56; params 76-84"),
    spatial_norm=Norm(5, 0.001, 0.75, 1.0, "space", "62; params 86-88"),
    dropout=Dropout(0.5, False, "132-135,146-149; " + _HS),
    training=_trained_2012(0.02, "start: 95, color noise: 97; biases 19, 27, 35, 44, 52, 60"),
    schedule={
        "kind": "by hand",
        # Line 3 and 11: biases of conv1 and conv2 end at 0.002. Line 2: conv1 ends at 1e-5, against line 98. Line 18: all
        # others end at 1e-5, and no comment says since when.
        "drops": ((20, "all", 1e-3, 95), (48, "all", 1e-4, 96), (66, "conv1", 1e-5, 97), (72, "conv1", 0.0, 98)),
        "color noise off": (66, 97), "stop": (96, 99),
    },
    says={"top-1, top-5 error, ILSVRC-2010 test": (0.391680, 0.182287, 100)},
)

NONOVERLAP = Net(
    "O12 layers/layers-147.cfg", "O12 layers/layer-params-147.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20,22-33", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7,9-15", 0.0, 0.0),
        Layer("conv2", "65-78,80-93", 128, 5, 1, 1, (48,), "own", 0.01, 1.0, "relu norm spatial_norm pool", "17-23,25-31", 0.00001, 0.002),
        Layer("conv3", "135-147,149-161", 192, 3, 1, 1, (128, 128), "both", 0.03, 0.0, "relu", "33-39,41-47", 0.00001, 0.002),
        Layer("conv4", "163-175,177-189", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "49-55,57-63", 0.00001, 0.002),
        Layer("conv5", "191-203,205-217", 128, 3, 1, 0, (192,), "own", 0.03, 1.0, "pool relu", "65-71,73-79", 0.00001, 0.002),
        Layer("fc6", "237-244,246-253", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "81-87,89-95", 0.00001, 0.002),
        Layer("fc7", "265-272,274-281", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "97-103,105-111", 0.00001, 0.002),
        Layer("fc8", "293-298", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "113-119", 0.00001, 0.002),
    ),
    pool=Pool("max", 2, 2, "ceil", "each", "47-54,56-63,119-125,127-133,219-226,228-235"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "39,45,99,105; params 137-155"),
    spatial_norm=Norm(5, 0.001, 0.75, 1.0, "space", "111,117; params 157-163"),
    dropout=Dropout(0.5, False, "255-263,283-291; " + _HS),
    training=_trained_2012(None, "start: 169; color noise is not mentioned; biases end at 0.002: 19, 27, ...", color_noise=None),
    schedule={
        "kind": "by hand",
        "drops": ((23, "all", 1e-3, 169), (51, "all", 1e-4, 170), (79, "conv1", 0.0, 171), (79, "others", 1e-5, 171)),
        "stop": (90, 172),
    },
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.410580, 0.185100, 174)},
)

NO_LRN = Net(
    "O12 layers/layers-148.cfg", "O12 layers/layer-params-148.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20,22-33", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "pool relu", "1-7,9-15", 0.0, 0.0),
        Layer("conv2", "53-66,68-81", 128, 5, 1, 2, (48,), "own", 0.01, 1.0, "relu pool", "17-23,25-31", 0.00001, 0.02),
        Layer("conv3", "99-111,113-125", 192, 3, 1, 1, (128, 128), "both", 0.03, 0.0, "relu", "33-39,41-47", 0.00001, 0.02),
        Layer("conv4", "127-139,141-153", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "49-55,57-63", 0.00001, 0.02),
        Layer("conv5", "156-168,170-182", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "65-71,73-79", 0.00001, 0.02),
        Layer("fc6", "202-209,211-218", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "81-87,89-95", 0.00001, 0.02),
        Layer("fc7", "230-237,239-246", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "97-103,105-111", 0.00001, 0.02),
        Layer("fc8", "258-263", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "113-119", 0.00001, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "35-42,44-51,83-89,91-97,184-191,193-200"),
    dropout=Dropout(0.5, False, "220-228,248-256; " + _HS),
    training=_trained_2012(0.02, "start: 141, color noise: 143; biases 19, 27, 35, ..."),
    schedule={
        "kind": "by hand",
        "drops": ((22, "all", 1e-3, 141), (44, "all", 1e-4, 142), (69, "conv1", 1e-5, 143), (73, "conv1", 0.0, 144), (86, "others", 1e-5, 145)),
        "color noise off": (69, 143), "stop": (97, 146),
    },
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.420340, 0.193620, 148)},
)

NO_COMMUNICATION = Net(
    "O12 layers/layers-150.cfg", "O12 layers/layer-params-150.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20,22-33", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7,9-15", 0.0, 0.0),
        Layer("conv2", "65-78,80-93", 160, 5, 1, 2, (48,), "own", 0.01, 1.0, "relu norm spatial_norm pool", "17-23,25-31", 0.00001, 0.02),
        Layer("conv3", "135-147,149-161", 192, 3, 1, 1, (160,), "own", 0.03, 0.0, "relu", "33-39,41-47", 0.00001, 0.02),
        Layer("conv4", "163-175,177-189", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "49-55,57-63", 0.00001, 0.02),
        Layer("conv5", "192-204,206-218", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "65-71,73-79", 0.00001, 0.02),
        Layer("fc6", "238-245,247-254", 4096, 0, 0, 0, (), "own", 0.01, 1.0, "relu dropout", "81-87,89-95", 0.00001, 0.02),
        Layer("fc7", "266-273,275-282", 2048, 0, 0, 0, (), "own", 0.01, 1.0, "relu dropout", "97-103,105-111", 0.00001, 0.02),
        Layer("fc8", "294-299", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "113-119", 0.00001, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "47-54,56-63,119-125,127-133,220-227,229-236"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "39,45,99,105; params 137-155"),
    spatial_norm=Norm(5, 0.001, 0.75, 1.0, "space", "111,117; params 157-163"),
    dropout=Dropout(0.5, False, "256-264,284-292; " + _HS),
    training=_trained_2012(0.02, "start: 170, color noise: 174; biases 19, 27, 35, ..."),
    schedule={
        "kind": "by hand",
        "drops": ((25, "all", 1e-3, 170), (49, "all", 1e-4, 171), (66, "conv1", 1e-5, 173), (72, "conv1", 0.0, 175), (79, "others", 1e-5, 176)),
        "color noise off": (66, 174), "stop": (92, 177),
    },
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.418280, 0.193300, 179)},
)

CONV6 = Net(
    "O12 layers/layers-146-2012-2011.cfg", "O12 layers/layer-params-146-2012-2011.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-22,24-37", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7,9-15", 0.0, 0.0),
        Layer("conv2", "69-84,86-101", 128, 5, 1, 2, (48,), "own", 0.01, 1.0, "relu norm spatial_norm pool", "17-23,25-31", 0.00001, 0.02),
        Layer("conv3", "143-157,159-173", 192, 3, 1, 1, (128, 128), "both", 0.03, 0.0, "relu", "33-39,41-47", 0.00001, 0.02),
        Layer("conv4", "175-189,191-205", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "49-55,57-63", 0.00001, 0.02),
        Layer("conv5", "208-222,224-238", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "65-71,73-79", 0.00001, 0.02),
        Layer("conv6", "258-271,273-286", 128, 3, 1, 1, (128, 128), "both", 0.03, 1.0, "relu", "81-87,89-95", 0.00001, 0.022),
        Layer("fc7", "288-297,299-308", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "97-103,105-111", 0.00001, 0.02),
        Layer("fc8", "320-329,331-340", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "113-119,121-127", 0.00001, 0.02),
        Layer("fc9", "352-357", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "129-135", 0.00001, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "51-58,60-67,127-133,135-141,240-247,249-256"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "43,49,107,113; params 153-171"),
    spatial_norm=Norm(5, 0.001, 0.75, 1.0, "space", "119,125; params 173-179"),
    dropout=Dropout(0.5, False, "310-318,342-350; " + _HS),
    # Fine-tuned: all layers but the last begin with weights of the run on Fall 2011 (initWFunc, initBFunc; initw.py:6).
    # 0.001 everywhere but conv1, which starts at 0.0001 (182); fc9 has 0.01 from batch 300 to epoch 9 (186, 189).
    training=_trained_2012(0.02, "start: 182, color noise: 191; biases 19, ..., but 83 and 91", start_w=0.001),
    schedule={
        "kind": "by hand",
        "drops": ((5, "conv1", 1e-5, 187), (7, "conv1", 0.0, 188), (9, "fc9", 1e-3, 189), (22, "others", 1e-4, 190), (42, "others", 1e-5, 192)),
        "color noise off": (38, 191), "stop": (54, 193),
    },
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.389900, 0.166220, 195)},
)

NO_NORM2 = Net(
    "O12 layers/layers-167.cfg", "O12 layers/layer-params-167.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20,22-33", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-9,11-19", 0.0, 0.0),
        Layer("conv2", "65-78,80-93", 128, 5, 1, 2, (48,), "own", 0.01, 1.0, "relu pool", "21-29,31-39", 0.01, 0.02),
        Layer("conv3", "111-123,125-137", 192, 3, 1, 1, (128, 128), "both", 0.03, 0.0, "relu", "41-49,51-59", 0.01, 0.02),
        Layer("conv4", "139-151,153-165", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "61-69,71-79", 0.01, 0.02),
        Layer("conv5", "168-180,182-194", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "81-89,91-99", 0.01, 0.02),
        Layer("fc6", "214-221,223-230", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "101-109,111-119", 0.01, 0.02),
        Layer("fc7", "242-249,251-258", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "121-129,131-139", 0.01, 0.02),
        Layer("fc8", "270-275", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "141-149", 0.01, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "47-54,56-63,95-101,103-109,196-203,205-212"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "39,45; params 167-175"),
    dropout=Dropout(0.5, False, "232-240,260-268; " + _HS),
    training=_trained_2012(0.02, "start: 22-23, 183 (conv1); color noise: 182"),
    # Lines 28-29: dexp[1000,4] for weights and dexp[10,2] for biases. 182: color noise off at epoch 63. 183: conv1 0 at 73.
    schedule={"kind": "dexp", "weights": (1000.0, 4), "biases": (10.0, 2), "color noise off": (63, 182), "freeze conv1": (73, 183)},
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.404880, 0.181180, 185)},
)

# Net 131 with the towers meeting at conv4 instead of conv3 (and the last layer on GPU 1). Both have 32 filters in conv1
# and a second input to conv2, a blurred and subsampled image: blur0 9-15, nails0 17-21; conv2 reads it with 5 x 5 windows,
# stride 2 and no padding (the first of two values in 83-85 and 98-100).
COMMUNICATE_AT_CONV4 = Net(
    "O12 layers/layers-133.cfg", "O12 layers/layer-params-133.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "23-34,36-47", 32, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7,9-15", 0.0001, 0.02),
        Layer("conv2", "79-92,94-107", 128, 5, 1, 2, (3, 32), "own", 0.01, 1.0, "relu norm contrast_norm pool", "17-23,25-31", 0.0001, 0.02),
        Layer("conv3", "149-161,163-175", 192, 3, 1, 1, (128,), "own", 0.03, 0.0, "relu", "33-39,41-47", 0.0001, 0.02),
        Layer("conv4", "177-190,192-205", 192, 3, 1, 1, (192, 192), "both", 0.03, 1.0, "relu", "49-55,57-63", 0.0001, 0.02),
        Layer("conv5", "207-219,221-233", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "65-71,73-79", 0.0001, 0.02),
        Layer("fc6", "253-260,262-269", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "81-87,89-95", 0.0001, 0.02),
        Layer("fc7", "281-288,290-297", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "97-103,105-111", 0.0001, 0.02),
        Layer("fc8", "309-314", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "113-119", 0.0001, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "61-68,70-77,133-139,141-147,235-242,244-251"),
    norm=Norm(5, 0.0001, 0.75, 1.0, "tower", "53,59,113,119; params 137-151; no minDiv, so 1: layer.py:1186"),
    dropout=Dropout(0.5, False, "271-279,299-307; " + _HS),
    training=_trained_2012(0.02, "start: 165; biases 3, 11, 19, ...; color noise is not mentioned", color_noise=None),
    more_channels={"conv2": 3},
    schedule={"kind": "by hand", "drops": ((21, "all", 1e-3, 165), (48, "all", 1e-4, 166)), "stop": (50, 167)},
)
NET_131 = dataclasses.replace(
    COMMUNICATE_AT_CONV4, file="O12 layers/layers-131.cfg", rates_file="O12 layers/layer-params-131.cfg",
    layers=(
        Layer("conv1", "23-34,36-47", 32, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7,9-15", 0.0, 0.0),
        Layer("conv2", "79-92,94-107", 128, 5, 1, 2, (3, 32), "own", 0.01, 1.0, "relu norm contrast_norm pool", "17-23,25-31", 0.0, 0.0),
        Layer("conv3", "149-161,163-175", 192, 3, 1, 1, (128, 128), "both", 0.03, 0.0, "relu", "33-39,41-47", 0.00001, 0.002),
        Layer("conv4", "177-189,191-203", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "49-55,57-63", 0.00001, 0.002),
        Layer("conv5", "206-218,220-232", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "65-71,73-79", 0.00001, 0.002),
        Layer("fc6", "252-259,261-268", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "81-87,89-95", 0.00001, 0.002),
        Layer("fc7", "280-287,289-296", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "97-103,105-111", 0.00001, 0.002),
        Layer("fc8", "308-313", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "113-119", 0.00001, 0.002),
    ),
    schedule={},
    says={"top-1, top-5 error, ILSVRC-2012 validation": (0.409340, 0.185740, 175)},
)

ONE_WEIRD_TRICK = Net(
    "CC2 layers/layers-imagenet-1gpu.cfg", "CC2 layers/layer-params-imagenet-1gpu.cfg", 1, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20", 64, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-8", 0.01, 0.02),
        Layer("conv2", "37-49", 192, 5, 1, 2, (64,), "all", 0.01, 1.0, "relu norm pool", "10-17", 0.01, 0.02),
        Layer("conv3", "65-76", 384, 3, 1, 1, (192,), "all", 0.03, 0.0, "relu", "19-26", 0.01, 0.02),
        Layer("conv4", "78-90", 256, 3, 1, 1, (384,), "all", 0.03, 1.0, "relu", "28-35", 0.01, 0.02),
        Layer("conv5", "92-102", 256, 3, 1, 1, (256,), "all", 0.03, 1.0, "pool relu", "37-44", 0.01, 0.02),
        Layer("fc6", "113-120", 4096, 0, 0, 0, (), "all", 0.01, 1.0, "relu dropout", "46-53", 0.01, 0.02),
        Layer("fc7", "126-133", 4096, 0, 0, 0, (), "all", 0.01, 1.0, "relu dropout", "55-62", 0.01, 0.02),
        Layer("fc8", "139-145", 1000, 0, 0, 0, (), "all", 0.01, -7.0, "", "64-71", 0.01, 0.02),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "28-35,57-63,104-111"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "26,55; params 83-91"),
    dropout=Dropout(0.5, False, "122-124,135-137; params 77-81; " + _DROPOUT2),
    # Batch: convnet.py:253. Crop and flip for each image: cudaconvnet/src/jpeg.cpp:58, 118, 121. Mean: convdata.py:104.
    training=Training(0.01, 0.02, 1.0, 0.9, 0.0005, 0.0, 128, None, 1, "center of the mean image", "params 6-7, 2-4; batch: convnet.py:253"),
    # Lines 6 and 7 of each layer. lr.cu:94-113: the pieces are equally long.
    schedule={"kind": "dexp", "weights": (250.0, 4), "biases": (10.0, 2)},
)

# Only for comparison with ALEXNET: the same net as its author released it in 2014.
CC2_TWO_GPUS = Net(
    "CC2 layers/layers-imagenet-2gpu-model.cfg", "CC2 layers/layer-params-imagenet-2gpu-model.cfg", 2, True, 224, "ceil", "normal",
    (
        Layer("conv1", "9-20,22-33", 48, 11, 4, 0, (3,), "image", 0.01, 0.0, "norm pool relu", "1-7,10-16", 0.02, 0.04),
        Layer("conv2", "65-78,80-93", 128, 5, 1, 2, (48,), "own", 0.01, 1.0, "relu norm spatial_norm pool", "19-25,28-34", 0.02, 0.04),
        Layer("conv3", "135-147,149-161", 192, 3, 1, 1, (128, 128), "both", 0.03, 0.0, "relu", "37-43,47-53", 0.02, 0.04),
        Layer("conv4", "163-175,177-189", 192, 3, 1, 1, (192,), "own", 0.03, 1.0, "relu", "56-62,65-71", 0.02, 0.04),
        Layer("conv5", "192-204,206-218", 128, 3, 1, 1, (192,), "own", 0.03, 1.0, "pool relu", "74-80,83-89", 0.02, 0.04),
        Layer("fc6", "238-245,247-254", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "92-98,101-107", 0.02, 0.04),
        Layer("fc7", "264-271,273-280", 2048, 0, 0, 0, (), "both", 0.01, 1.0, "relu dropout", "110-116,119-125", 0.02, 0.04),
        Layer("fc8", "290-295", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "127-133", 0.02, 0.04),
    ),
    pool=Pool("max", 3, 2, "ceil", "each", "47-54,56-63,119-125,127-133,220-227,229-236"),
    norm=Norm(5, 0.0001, 0.75, 2.0, "tower", "39,45,99,105; params 156-174"),
    spatial_norm=Norm(5, 0.001, 0.75, 1.0, "space", "111,117; params 176-182"),
    dropout=Dropout(0.5, True, "256-262,282-288; params 140-154; " + _DROPOUT),
    training=Training(0.02, 0.04, 1.0, 0.9, 0.0005, 0.0, 128, None, 1, "center of the mean image", "params 2-6"),
    schedule={"kind": "dexp", "weights": (250.0, 4), "biases": (25.0, 2)},
)

# Caffe. Features are totals. LRN over all channels: it knows no groups; alpha over size: src/caffe/layers/lrn_layer.cpp:120;
# k = 1 by default: caffe.proto:888. Convolutions round down: conv_layer.cpp:18; pools up: pooling_layer.cpp:92-95,
# caffe.proto:951. Equal maxima: the first, pooling_layer.cpp:178 and pooling_layer.cu:34. Dropout: dropout_layer.cpp:17
# and 41 (inverted), 44. A mean file: the part under the crop is subtracted, data_transformer.cpp:115. Blue is first,
# as cv::imread gives it: util/io.cpp:78.
_CAFFE_POOL = "pooling_layer.cpp:92-95, 178; "
_CAFFE_DROPOUT = "dropout_layer.cpp:17, 41, 44; "
_CAFFE_TRAINING = Training(
    0.01, 0.02, 0.01, 0.9, 0.0005, 0.0, 256, 0.0, 1, "mean image under the crop",
    "solver 4, 10, 11; batch: train_val 17 (CaffeNet 25); lr_mult 1 and 2, decay_mult 1 and 0 in each layer; "
    "no color noise: readme.md:13 of both",
    blue_first=True,
)
_CAFFE_SCHEDULE = {"kind": "step", "gamma": 0.1, "images": 100_000 * 256, "total": 450_000 * 256, "at": "solver 5-9"}

CAFFE_ALEXNET = Net(
    "CAFFE models/bvlc_alexnet/train_val.prototxt", "CAFFE models/bvlc_alexnet/train_val.prototxt", 2, False, 227, "floor", "normal",
    (
        Layer("conv1", "40-66", 96, 11, 4, 0, (), "image", 0.01, 0.0, "relu norm pool", "40-66", 1.0, 2.0),
        Layer("conv2", "95-122", 256, 5, 1, 2, (), "own", 0.01, 0.1, "relu norm pool", "95-122", 1.0, 2.0),
        Layer("conv3", "151-177", 384, 3, 1, 1, (), "both", 0.01, 0.0, "relu", "151-177", 1.0, 2.0),
        Layer("conv4", "184-211", 384, 3, 1, 1, (), "own", 0.01, 0.1, "relu", "184-211", 1.0, 2.0),
        Layer("conv5", "218-245", 256, 3, 1, 1, (), "own", 0.01, 0.1, "relu pool", "218-245", 1.0, 2.0),
        Layer("fc6", "263-287", 4096, 0, 0, 0, (), "both", 0.005, 0.1, "relu dropout", "263-287", 1.0, 2.0),
        Layer("fc7", "303-327", 4096, 0, 0, 0, (), "both", 0.005, 0.1, "relu dropout", "303-327", 1.0, 2.0),
        Layer("fc8", "343-367", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "343-367", 1.0, 2.0),
    ),
    pool=Pool("max", 3, 2, "ceil", "first", _CAFFE_POOL + "84-94,140-150,252-262"),
    norm=Norm(5, 0.0001, 0.75, 1.0, "all", "73-83,129-139"),
    dropout=Dropout(0.5, True, _CAFFE_DROPOUT + "294-302,334-342"),
    training=_CAFFE_TRAINING,
    schedule=_CAFFE_SCHEDULE,
    says={"top-1, top-5 accuracy, one crop": (0.571, 0.802, "readme.md:18")},
)

CAFFENET = Net(
    "CAFFE models/bvlc_reference_caffenet/train_val.prototxt", "CAFFE models/bvlc_reference_caffenet/train_val.prototxt", 2, False, 227, "floor", "normal",
    (
        Layer("conv1", "56-82", 96, 11, 4, 0, (), "image", 0.01, 0.0, "relu pool norm", "56-82", 1.0, 2.0),
        Layer("conv2", "111-138", 256, 5, 1, 2, (), "own", 0.01, 1.0, "relu pool norm", "111-138", 1.0, 2.0),
        Layer("conv3", "167-193", 384, 3, 1, 1, (), "both", 0.01, 0.0, "relu", "167-193", 1.0, 2.0),
        Layer("conv4", "200-227", 384, 3, 1, 1, (), "own", 0.01, 1.0, "relu", "200-227", 1.0, 2.0),
        Layer("conv5", "234-261", 256, 3, 1, 1, (), "own", 0.01, 1.0, "relu pool", "234-261", 1.0, 2.0),
        Layer("fc6", "279-303", 4096, 0, 0, 0, (), "both", 0.005, 1.0, "relu dropout", "279-303", 1.0, 2.0),
        Layer("fc7", "319-343", 4096, 0, 0, 0, (), "both", 0.005, 1.0, "relu dropout", "319-343", 1.0, 2.0),
        Layer("fc8", "359-383", 1000, 0, 0, 0, (), "both", 0.01, 0.0, "", "359-383", 1.0, 2.0),
    ),
    pool=Pool("max", 3, 2, "ceil", "first", _CAFFE_POOL + "89-99,145-155,268-278"),
    norm=Norm(5, 0.0001, 0.75, 1.0, "all", "100-110,156-166"),
    dropout=Dropout(0.5, True, _CAFFE_DROPOUT + "310-318,350-358"),
    training=_CAFFE_TRAINING,
    schedule=_CAFFE_SCHEDULE,
    says={"top-1, top-5 accuracy, one crop": (0.574, 0.804, "readme.md:18")},
)

# No dropout. A BatchNorm with nothing learned after every layer but the last (lr_mult 0: 109-120 and so on; only the input
# has a Scale layer, 61-77). MSRA: std sqrt(2 / inputs of a unit), filler.hpp:200-208. eps: caffe.proto:545.
ALEXNET_BN = Net(
    "CVGJ AlexNet_cvgj/train.prototxt", "CVGJ AlexNet_cvgj/train.prototxt", 2, False, 227, "floor", "msra",
    (
        Layer("conv1", "78-103", 96, 11, 4, 0, (), "image", None, 0.0, "batch_norm relu pool", "78-103", 1.0, 2.0),
        Layer("conv2", "142-168", 256, 5, 1, 2, (), "own", None, 0.0, "batch_norm relu pool", "142-168", 1.0, 2.0),
        Layer("conv3", "207-232", 384, 3, 1, 1, (), "both", None, 0.0, "batch_norm relu", "207-232", 1.0, 2.0),
        Layer("conv4", "260-286", 384, 3, 1, 1, (), "own", None, 0.0, "batch_norm relu", "260-286", 1.0, 2.0),
        Layer("conv5", "314-340", 256, 3, 1, 1, (), "own", None, 0.0, "batch_norm relu pool", "314-340", 1.0, 2.0),
        Layer("fc6", "379-402", 4096, 0, 0, 0, (), "both", None, 0.0, "batch_norm relu", "379-402", 1.0, 2.0),
        Layer("fc7", "430-453", 4096, 0, 0, 0, (), "both", None, 0.0, "batch_norm relu", "430-453", 1.0, 2.0),
        Layer("fc8", "481-504", 1000, 0, 0, 0, (), "both", None, 0.0, "", "481-504", 1.0, 2.0),
    ),
    pool=Pool("max", 3, 2, "ceil", "first", _CAFFE_POOL + "131-141,196-206,368-378"),
    batch_norm={"momentum": 0.9, "epsilon": 1e-5, "learned": False, "of the input": True, "at": "121-123 and so on; input 40-77"},
    training=Training(
        0.05, 0.10, 0.05, 0.9, 0.0005, 0.0, 256, 0.0, 1, None,
        "train.solver:3, 8, 9; batch 128 (train.prototxt:16) times iter_size 2 (train.solver:15); no mean: IMPORTANT:1",
        blue_first=True,
    ),
    schedule={"kind": "poly", "power": 1.0, "total": 320_000 * 256, "at": "train.solver:5-7"},
    says={"top-1, top-5 error, one crop": (0.399, 0.181, "README.md:21")},
)

# LARS: a trust coefficient of 0.001 (solver_8K.prototxt:16-17; solver_32k.prototxt:18-19). Rates are those after warm-up,
# 600 and 400 steps long (20; 22). Neither layer nor solver has an lr_mult or decay_mult, so that biases have the rate and
# the decay of weights. A BatchNorm with nothing learned (101, 150, 187, 226). Pooling: pooling_layer.cpp:92-95, 169;
# dropout: dropout_layer.cpp:16, 40.
_BN_8K = Training(
    10.0, 10.0, 10.0, 0.9, 0.0005, 0.0005, 8192, None, 1, "mean image, then divided by 256",
    "solver_8K.prototxt:12, 25, 26; batch: train_val2_fp16.prototxt:29; mean and scale: 20, 23", blue_first=True,
)  # fmt: skip
ALEXNET_BN_LARGE = Net(
    "NVCAFFE models/alexnet_bn/train_val2_fp16.prototxt", "NVCAFFE models/alexnet_bn/solver_8K.prototxt", 2, False, 227, "floor", "normal",
    (
        Layer("conv1", "57-75", 96, 11, 4, 0, (), "image", 0.01, 0.01, "relu pool batch_norm", "57-75", 1.0, 1.0),
        Layer("conv2", "105-124", 256, 5, 1, 2, (), "own", 0.01, 0.01, "relu pool batch_norm", "105-124", 1.0, 1.0),
        Layer("conv3", "154-172", 384, 3, 1, 1, (), "both", 0.01, 0.01, "relu batch_norm", "154-172", 1.0, 1.0),
        Layer("conv4", "190-209", 384, 3, 1, 1, (), "own", 0.01, 0.01, "relu batch_norm", "190-209", 1.0, 1.0),
        Layer("conv5", "229-248", 256, 3, 1, 1, (), "own", 0.01, 0.01, "relu pool", "229-248", 1.0, 1.0),
        Layer("fc6", "266-282", 4096, 0, 0, 0, (), "both", 0.005, 0.1, "relu dropout", "266-282", 1.0, 1.0),
        Layer("fc7", "298-314", 4096, 0, 0, 0, (), "both", 0.005, 0.1, "relu dropout", "298-314", 1.0, 1.0),
        Layer("fc8", "330-346", 1000, 0, 0, 0, (), "both", 0.01, 0.01, "", "330-346", 1.0, 1.0),
    ),
    pool=Pool("max", 3, 2, "ceil", "first", "82-92, 131-141, 255-265"),
    batch_norm={"momentum": 0.9, "epsilon": 1e-4, "learned": False, "of the input": False, "at": "93-103 and so on"},
    dropout=Dropout(0.5, True, "289-297, 321-329"),
    training=_BN_8K,
    schedule={"kind": "poly", "power": 2.0, "total": 15_600 * 8192, "at": "solver_8K.prototxt:9, 22-23"},
)
ALEXNET_BN_32K = dataclasses.replace(
    ALEXNET_BN_LARGE,
    rates_file="NVCAFFE models/alexnet_bn/solver_32k.prototxt",
    training=dataclasses.replace(_BN_8K, start_w=32.0, start_b=32.0, unit=32.0, batch=4 * 8192, at="solver_32k.prototxt:10, 14"),
    schedule={"kind": "poly", "power": 2.0, "total": 4_000 * 4 * 8192, "at": "solver_32k.prototxt:9, 24-25"},
)

# The initialization is that of torch.nn. Dropout comes before the classifier's layers (38, 41), so it follows conv5's pool and
# fc6. AdaptiveAvgPool2d (36) does nothing to 6 x 6. torch's SGD decays every parameter it is given: train.py gives it all.
# CIFAR-10. Pools: start 0, rounded up (layer.py:1022-1023); an average is over the pixels inside (include/cudaconv2/
# conv_util.cuh:163-166, 187). initB is 0 (layer.py:745), no decay on biases (src/layer.cu:310), batch 128 (convnet.py:175),
# no mirroring, crop or noise, and the mean image subtracted (convdata.py:33-40).
_CIFAR = ("cifar10", 10, 50_000)
_CC1_TRAINING = Training(0.001, 0.002, 1.0, 0.9, 0.004, 0.0, 128, 0.0, 1, "center of the mean image", "params; convnet.py:175")
_CC1_POOL = Pool("max", 3, 2, "ceil", "each", "23-32, the averages 53-61 and 82-90; ties: conv_util.cu:1559")

CUDA_CONVNET_18PCT = Net(
    "CC1 example-layers/layers-18pct.cfg", "CC1 example-layers/layer-params-18pct.cfg", 1, True, 32, "ceil", "normal",
    (
        Layer("conv1", "11-21", 32, 5, 1, 2, (3,), "image", 0.0001, 0.0, "pool relu spatial_norm", "6-11", 0.001, 0.002),
        Layer("conv2", "40-51", 32, 5, 1, 2, (32,), "all", 0.01, 0.0, "relu avg_pool spatial_norm", "13-18", 0.001, 0.002),
        Layer("conv3", "69-80", 64, 5, 1, 2, (32,), "all", 0.01, 0.0, "relu avg_pool", "20-25", 0.001, 0.002),
        Layer("fc4", "92-96", 10, 0, 0, 0, (), "all", 0.01, 0.0, "", "27-32", 0.001, 0.002, decay=1.0),
    ),
    pool=_CC1_POOL,
    spatial_norm=Norm(3, 0.00005, 0.75, 1.0, "space", "34-38,63-67; params 37-43; rnorm: layer.py:1128; over size^2: 1043"),
    training=_CC1_TRAINING,
    # The rates of all, weights and biases; the end is that of Caffe's copy, 70,000 batches of 100.
    schedule={"kind": "by hand", "drops": ((120, "all", 1e-4, 3), (130, "all", 1e-5, 4)), "biases too": True, "stop": (140, 0)},
    says={"top-1 error, CIFAR-10 test": (0.18, 1)},
    data=_CIFAR,
)

CUDA_CONVNET_26PCT = Net(
    "CC1 example-layers/layers-80sec.cfg", "CC1 example-layers/layer-params-80sec.cfg", 1, True, 32, "ceil", "normal",
    (
        Layer("conv1", "11-21", 32, 5, 1, 2, (3,), "image", 0.0001, 0.0, "pool relu", "4-9", 0.001, 0.002),
        Layer("conv2", "34-45", 32, 5, 1, 2, (32,), "all", 0.01, 0.0, "relu avg_pool", "11-16", 0.001, 0.002),
        Layer("conv3", "57-68", 64, 5, 1, 2, (32,), "all", 0.01, 0.0, "relu avg_pool", "18-23", 0.001, 0.002),
        Layer("fc4", "80-85", 64, 0, 0, 0, (), "all", 0.1, 0.0, "relu", "25-30", 0.001, 0.002, decay=0.03),
        Layer("fc5", "87-91", 10, 0, 0, 0, (), "all", 0.1, 0.0, "", "32-37", 0.001, 0.002, decay=0.03),
    ),
    pool=dataclasses.replace(_CC1_POOL, at="23-32, the averages 47-55 and 70-78; ties: conv_util.cu:1559"),
    training=_CC1_TRAINING,
    schedule={"kind": "by hand", "drops": ((8, "all", 1e-4, 2),), "biases too": True, "stop": (10, 0)},
    says={"top-1 error, CIFAR-10 test": (0.26, 1)},
    data=_CIFAR,
)

TORCHVISION = Net(
    "TV torchvision/models/alexnet.py", "TV-REF README.md, train.py", 1, False, 224, "floor", "torch.nn's default",
    (
        Layer("conv1", "22", 64, 11, 4, 2, (3,), "image", None, None, "relu pool", "README", 1.0, 1.0),
        Layer("conv2", "25", 192, 5, 1, 2, (64,), "all", None, None, "relu pool", "README", 1.0, 1.0),
        Layer("conv3", "28", 384, 3, 1, 1, (192,), "all", None, None, "relu", "README", 1.0, 1.0),
        Layer("conv4", "30", 256, 3, 1, 1, (384,), "all", None, None, "relu", "README", 1.0, 1.0),
        Layer("conv5", "32", 256, 3, 1, 1, (256,), "all", None, None, "relu pool dropout", "README", 1.0, 1.0),
        Layer("fc6", "39", 4096, 0, 0, 0, (9216,), "all", None, None, "relu dropout", "README", 1.0, 1.0),
        Layer("fc7", "42", 4096, 0, 0, 0, (4096,), "all", None, None, "relu", "README", 1.0, 1.0),
        Layer("fc8", "44", 1000, 0, 0, 0, (4096,), "all", None, None, "", "README", 1.0, 1.0),
    ),
    pool=Pool("max", 3, 2, "floor", "first", "24, 27, 34; ties: not read in the source of torch"),
    dropout=Dropout(0.5, True, "18, 38, 41; inverted: torch.nn.Dropout"),
    training=Training(
        0.01, 0.01, 0.01, 0.9, 0.0001, 0.0001, 256, 0.0, 1, ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        "TV-REF README.md: 8 GPUs of 32 (7, 12), lr 1e-2 (27), momentum 15, decay 16; mean and std times 255: presets.py:11-12 at 080836e5",
    ),
    schedule={"kind": "step epochs", "gamma": 0.1, "every": 30, "total": 90, "at": "TV-REF README.md:13, 17, 18"},
    says={"parameters": (61_100_840, "60"), "top-1, top-5 accuracy, one crop": (0.56522, 0.79066, "66-67")},
)
# fmt: on

NETS = {
    "alexnet": ALEXNET,
    "alexnet_continued": ALEXNET_CONTINUED,
    "cuda_convnet_18pct": CUDA_CONVNET_18PCT,
    "cuda_convnet_26pct": CUDA_CONVNET_26PCT,
    "half": HALF,
    "nonoverlap": NONOVERLAP,
    "no_lrn": NO_LRN,
    "no_communication": NO_COMMUNICATION,
    "conv6": CONV6,
    "no_norm2": NO_NORM2,
    "communicate_at_conv4": COMMUNICATE_AT_CONV4,
    "one_weird_trick": ONE_WEIRD_TRICK,
    "caffe_alexnet": CAFFE_ALEXNET,
    "caffenet": CAFFENET,
    "alexnet_bn": ALEXNET_BN,
    "alexnet_bn_large": ALEXNET_BN_LARGE,
    "alexnet_bn_32k": ALEXNET_BN_32K,
    "torchvision": TORCHVISION,
}

WITHOUT = {
    "alexnet_paper_text": "It follows sentences of the paper; its authors never ran it, so there is no file.",
    "alexnet_pool_lrn_relu": "It follows a description by somebody else, of which no code or result is known.",
    "alexnet_modern": "The net of 2012 with a schedule of our own.",
    "alexnet_wn": "Weight normalization on AlexNet: the method is from a paper on other networks.",
    "avg_pool": "No net of the released logs changes the maximum for an average.",
    "tanh": "The paper compares tanh on a small network and CIFAR-10; the released logs have no such run.",
    "no_dropout": "The paper says what happens without dropout; the released logs have no such run.",
    "no_conv2": "The paper's section 7 reports layers removed; the released logs have no such net.",
    "no_conv3": "The paper's section 7 reports layers removed; the released logs have no such net.",
    "no_conv4": "The paper's section 7 reports layers removed; the released logs have no such net.",
    "no_conv5": "The paper's section 7 reports layers removed; the released logs have no such net.",
    "no_spatial_norm": "No run of net 145 without its spatial norm alone; 148 drops all norms and 167 both of conv2's.",
}

# ---------------------------------------------------------------- where our recipes knowingly depart

_TIE = {"pool.ties": "equal maxima share the gradient; it matters only where equal maxima are not zeros behind a ReLU"}
_MEAN = {"mean": "channel means, which need no file"}
_CHUNK = {"crop_chunk": "crop and flip are drawn for each image"}
_2012 = _TIE | _MEAN | _CHUNK
_SCHEDULE = {"schedule": "the schedule of net 145, so that one thing changes"}

_LARS = {
    "batch_norm.learned": "scale and shift are learned",
    "parameters": "of scale and shift",
    "*.rate": "asked at the first step of warm-up",
    "*.bias_rate": "as above",
    "*.decay": "LARS scales what is left where the gradient is 0",
    "decay_b": "biases do not decay",
}

# {recipe: {field, or a pattern of fields: why it is not compared}}. Each must differ indeed, or the test says so.
DEPARTURES: dict[str, dict[str, str]] = {
    "alexnet": _2012,
    "alexnet_continued": _2012,
    "cuda_convnet_18pct": _TIE | _MEAN,
    "cuda_convnet_26pct": _TIE | _MEAN,
    "half": _2012 | _SCHEDULE,
    "nonoverlap": _2012 | _SCHEDULE,
    "no_lrn": _2012 | _SCHEDULE,
    "no_communication": _2012 | _SCHEDULE,
    "no_norm2": _2012 | _SCHEDULE,
    "conv6": _2012 | _SCHEDULE | {
        "*.rate": "the source fine-tunes what it learned on Fall 2011, at a tenth of the rate; here it starts anew",
        "conv6.bias_rate": "0.022 in the source, beside 0.02 everywhere else",
    },
    "communicate_at_conv4": _2012 | _SCHEDULE | {
        "conv1.features": "net 133 has 32 filters per tower, its recipe the 48 of net 145",
        "conv2.channels": "net 133 has 32 channels and a small image there, net 145 48 channels",
        "conv2.post_ops": "net 133 has a contrast norm, net 145 a spatial norm",
        "norm.k": "1 up to net 133",
        "parameters": "of the wider conv1 and conv2",
        "macs": "of the wider conv1 and conv2",
    },
    "one_weird_trick": _TIE | _MEAN,
    "caffe_alexnet": _TIE | _MEAN,
    "caffenet": _TIE | _MEAN,
    "torchvision": _TIE | {"decay_b": "biases do not decay here"},
    "alexnet_bn": _TIE | _MEAN | {
        "pixels": "224 pixels with conv1 padded by 3, as in net 145",
        "conv1.padding": "as above",
        "init": "the normal initialization of net 145",
        "batch_norm.learned": "scale and shift are learned",
        "batch_norm.of the input": "the input is not normalized",
        "parameters": "of scale and shift",
        "fc[67].post_ops": "dropout stays",
        "dropout": "dropout stays",
        "color_noise": "color noise stays, to the end",
        "blue_first": "red first",
    },
    "alexnet_bn_large": _TIE | _MEAN | _LARS,
    "alexnet_bn_32k": _TIE | _MEAN | _LARS | {"schedule": "102 epochs for 4,000 steps, which are 102.3"},
}  # fmt: skip
