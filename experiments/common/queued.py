"""The runs of the reproduction queue, which `experiments.run_queue` works off."""

from __future__ import annotations

import dataclasses
import hashlib
import json


@dataclasses.dataclass(frozen=True)
class Run:
    """One command of the queue.

    Attributes:
      name: a short name, the beginning of its folder's.
      module: the script, such as "experiments.thesis_ch3.curves".
      options: its options.
      makes: what it reproduces.
      accelerator: further options where the device is a GPU or TPU.
      minutes: None for scripts that take --folder, and --budget, and go on where they stopped;
        others are started only when so many minutes are left.
      shares: the name of the folder of runs that look at the same networks, which the first of them
        trains; "" for a folder of its own.
    """

    name: str
    module: str
    options: tuple[str, ...]
    makes: str
    accelerator: tuple[str, ...] = ()
    minutes: float | None = None
    shares: str = ""

    @property
    def key(self) -> str:
        """The name and a hash of the command: a run whose command was changed is another run."""
        words = json.dumps([self.module, self.options, self.accelerator])
        return f"{self.name}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.shares or self.key


# scripts that look at the tickets of chapter 3 and at the networks of KD-LTS
_SHARED = {
    **{
        f"experiments.{script}": "tickets"
        for script in (
            *(f"thesis_ch3.{name}" for name in ("curves", "one_shot", "lrr_and_random")),
            "thesis_ch3.ablations",
            "thesis_ch4.table_4_2",
        )
    },
    **{
        f"experiments.kd_lts.{script}": "networks"
        for script in (
            *("activations", "adversarial", "attacked_digits", "attacks", "distribution_shifts"),
            *("explanations", "landscape", "surfaces", "telemetry"),
        )
    },
}


def _paper(script: str, preset: str, makes: str, *options: str, short: str | None = None) -> Run:
    # the hardware's own products of float32: the thesis trained on TPUs, which have bfloat16 ones
    exact = ("--precision", "default")
    return _sized("paper", script, preset, makes, *exact, "--publish", *options, short=short)


def _reduced(script: str, preset: str, makes: str, *options: str, short: str | None = None) -> Run:
    return _sized("reduced", script, preset, makes, "--publish", *options, short=short)


def _sized(
    size: str, script: str, preset: str, makes: str, *options: str, short: str | None
) -> Run:
    module = f"experiments.{script}"
    name = f"{short or script.rpartition('.')[2]}-{preset}"
    same = f"{_SHARED[module]}-{preset}-{size}" if module in _SHARED else ""
    options = ("--preset", preset, "--size", size, *options)
    return Run(name, module, options, makes, shares=same)


_LENET = "lenet-mnist"
_RESNET20 = tuple(f"resnet20-cifar10{variant}" for variant in ("", "-low", "-warmup"))
_VGG16 = tuple(f"vgg16-cifar10{variant}" for variant in ("", "-low", "-warmup"))
# the steps around which tickets (500) and dense networks (2,000) become stable
_STEPS = ("--at", "0", "100", "250", "500", "1000", "2000", "4000")
_CONVS = tuple(f"conv{depth}-cifar10" for depth in (4, 6, 8))
_RESNET50 = "resnet50-imagenet"
_VGG19_CIFAR10 = "vgg19-cifar10-one_ticket"
_VGG19, _RESNET50_NET = (("--network", name) for name in ("vgg19", "resnet50"))
_HALVES = ("--among", "cifar10a", "cifar10b")
_CHAPTER_5 = (_RESNET20[0], _VGG16[0])
_EARLY = (
    ("at_initialization", "Figures 5-4, 5-6, 5-10 and 5-11"),
    ("by_step", "Figures 5-12 and 5-14"),
    ("ablations", "Figures 5-5 and 5-8"),
    ("after_training", "Figure 5-13"),
    ("variants", "Figures 5-7 and 5-9"),
)
_KD_LTS = ("lenet-mnist-kd_lts", "resnet20-cifar10-kd_lts", "vgg16-cifar10-kd_lts")
_DISTILLED = (
    ("accuracy", "Figures 3, 6 and Table 2", ()),
    ("accuracy", "Figures 2, 5, 23 and Table 3", ("--start", "late")),
    ("stability", "Figures 10 and 27", ()),
    ("layers", "Figure 28", ()),
    ("hamming", "Figure 4", ()),
    ("verdicts", "Figure 11 and Table 1", ()),
    ("adversarial", "Figure 13", ()),
    ("attacks", "Figure 20", ()),
)
_CTS = (
    ("accuracy", "CTS, Figure 2 and the headline"),
    ("objectives", "CTS, Figure 3"),
    ("sanity", "CTS, Figure 4"),
    ("saliency", "CTS, Figure 1"),
)
_BALANCE = ("balance", "GradBalance against a multiplier")
# of networks that these scripts share
_LANDSCAPE = (("telemetry", "Figure 7"), ("landscape", "Figure 8"), ("surfaces", "Figure 9"))
_SNIP = ("vgg16", "vgg2_16", "wrn14_8", "wrn14_10", "wrn20_8")

_BENCHMARKS = (
    Run(
        "replicas",
        "experiments.benchmarks.replicas",
        ("--publish",),
        "which form of replicas is fast on this device: LeNet, ResNet-20, WRN-16-4",
        accelerator=("--replicas", "1", "4", "8", "16", "32", "64"),
        minutes=20,
    ),
    Run(
        "convolution",
        "experiments.benchmarks.convolution",
        ("--publish",),
        "table of convolutions: which form is fast on this device",
        accelerator=(
            *("--replicas", "1", "8", "--dtype", "bfloat16"),
            *("--forms", "chosen", "separate", "loop", "grouped", "products"),
        ),
        minutes=8,
    ),
    Run(
        "resnet20",
        "experiments.benchmarks.resnet20",
        ("--publish",),
        "images per second of ResNet-20 against Flax and PyTorch on the same device",
        accelerator=("--seeds", "1", "8", "32", "64", "--dtype", "bfloat16"),
        minutes=15,
    ),
)
_INSTABILITY = Run(
    "instability",
    "experiments.benchmarks.instability",
    ("--ten", "--publish"),
    "nine copies together against one after the other, and what the comparison costs",
    accelerator=("--resnet-steps", "2000"),
    minutes=20,
)
_GROWTH = Run(
    "growth",
    "experiments.benchmarks.growth",
    ("--publish",),
    "speed and memory by number of networks, width and search",
    minutes=30,
)
_FAST = Run(
    "fast_cifar10",
    "experiments.own_networks.fast_cifar10",
    ("--batch-size", "1024", "--lr", "4.0", "--compute-dtype", "bfloat16", "--seeds", "8"),
    "tickets in a network that learns CIFAR-10 in seconds, beside controls",
    minutes=10,
)
RUNS = (
    *_BENCHMARKS,
    _FAST,
    *(
        _paper("thesis_ch4.table_4_2", preset, makes)
        for preset, makes in (
            (_RESNET20[0], "Tables 4.1 and 4.2, ResNet-20 standard; rewinding to 500 and 1000"),
            (_LENET, "Tables 4.1 and 4.2, LeNet"),
            (_RESNET20[1], "Tables 4.1 and 4.2, ResNet-20 low"),
            (_RESNET20[2], "Tables 4.1 and 4.2, ResNet-20 warmup"),
            (_VGG16[0], "Tables 4.1 and 4.2, VGG-16 standard; rewinding to 1000"),
            (_VGG16[1], "Tables 4.1 and 4.2, VGG-16 low"),
            (_VGG16[2], "Tables 4.1 and 4.2, VGG-16 warmup"),
        )
    ),
    _GROWTH,
    _INSTABILITY,
    _paper(
        "thesis_ch4.dense",
        _RESNET20[0],
        "Figures 4-2 to 4-12, dense ResNet-20",
        *_STEPS,
    ),
    _paper(
        "thesis_ch4.tickets",
        _RESNET20[0],
        "Figures 4-14 to 4-17, ResNet-20 tickets at 16.8%",
        *_STEPS,
        *("--all-levels", "False"),
    ),
    *(
        _paper(f"thesis_ch4.{script}", preset, f"{figures}, {preset}")
        for preset in (_LENET, _VGG16[0], *_RESNET20[1:], *_VGG16[1:])
        for script, figures in (
            ("dense", "Figures 4-2 to 4-12, 4-31 and 4-32"),
            ("tickets", "Figures 4-13 to 4-30 and 4-33"),
        )
    ),
    *(
        _paper(f"thesis_ch3.{script}", _LENET, f"{figures}, the LeNet panel")
        for script, figures in (
            ("curves", "Figures 3-1 and 3-2"),
            ("one_shot", "Figure 3-3"),
            ("lrr_and_random", "Figure 3-5"),
            ("ablations", "Figure 3-7"),
            ("early_stopping", "Figure 3-8"),
            ("dilation", "Figure 3-9"),
        )
    ),
    *(
        _paper(f"thesis_ch3.{script}", preset, f"{figures}, {preset}")
        for script, figures in (
            ("ablations", "Figure 3-7"),
            ("lrr_and_random", "Figures 3-5 and 3-6"),
            ("one_shot", "Figures 3-3 and 3-4"),
        )
        for preset in (*_RESNET20, *_CONVS, *_VGG16)
    ),
    *(_paper("thesis_ch3.early_stopping", preset, f"Figure 3-8, {preset}") for preset in _CONVS),
    _paper("one_ticket.global_and_layerwise", _VGG19_CIFAR10, "One ticket, Fig. 1"),
    _paper("one_ticket.random_masks", _VGG19_CIFAR10, "One ticket, Fig. A1"),
    *(
        Run(
            f"{short}-{network}",
            f"experiments.one_ticket.{script}",
            (*options, "--size", "paper", "--precision", "default", "--publish"),
            f"One ticket, {makes}",
        )
        for network, script, short, options, makes in (
            ("vgg19", "data_sets", "halves", (*_VGG19, *_HALVES), "Fig. 2, VGG-19"),
            ("vgg19", "optimizers", "optimizers", ("--preset", _VGG19_CIFAR10), "Fig. 5"),
            ("vgg19", "data_sets", "data_sets", _VGG19, "Fig. 3, the data sets in memory"),
            ("resnet50", "data_sets", "halves", (*_RESNET50_NET, *_HALVES), "Fig. 2, ResNet-50"),
            ("resnet50", "data_sets", "data_sets", _RESNET50_NET, "Fig. 4, those in memory"),
        )
    ),
    # chapter 5 and the leaderboard
    *(
        _paper(f"thesis_ch5.{script}", preset, f"{figures}, {preset}", short=f"ch5_{script}")
        for preset in _CHAPTER_5
        for script, figures in _EARLY
    ),
    *(
        _paper(f"thesis_ch5.{script}", _LENET, f"{figures}, LeNet", short=f"ch5_{script}")
        for script, figures in _EARLY
    ),
    *(
        _paper("thesis_ch6.dynamic_imp", preset, "Algorithm 5", short="ch6_dynamic_imp")
        for preset in (_RESNET20[0], _LENET)
    ),
    *(
        _paper("leaderboard", preset, "accuracy, cost and controls of every method")
        for preset in (_RESNET20[0], _LENET)
    ),
    # of its accuracies some are printed: the script compares with them
    _paper(
        "mask_rules.rigl_reference",
        "wrn22_2-cifar10-rigl",
        "RigL's accuracies on CIFAR-10, static and at twice the length too",
        "--longer",
    ),
    _paper("mask_rules.figure_5_1", _RESNET20[0], "Figure 5-1 measured, ResNet-20"),
    *(
        _paper("thesis_ch5.replication", f"{network}-cifar10-grasp", "sections 5.3.5 and 5.4.4")
        for network in ("wrn32_2", "vgg19")
    ),
    *(
        _paper("thesis_ch5.replication", f"{network}-cifar10-snip", "section 5.3.4")
        for network in _SNIP
    ),
    *(
        _paper("thesis_ch5.replication", preset, "Table 5.2")
        for preset in (
            *(f"{network}-cifar10-synflow" for network in ("vgg11", "vgg16", "resnet18")),
            "resnet18-cifar10-synflow_tuned",
        )
    ),
    *(
        _paper(
            "thesis_ch5.at_initialization",
            f"{network}-cifar10-synflow",
            "Figure 5-3",
            *("--fraction", "0.5"),
        )
        for network in ("vgg11", "vgg16")
    ),
    # learned masks
    *(
        _paper(f"concrete.{script}", f"{network}-cifar10-cts", f"CTS, {figure}", short=short)
        for network in ("resnet20", "vgg16")
        for script, figure, short in (
            ("accuracy", "Figure 2 and the headline", "cts_accuracy"),
            ("sanity", "Figures 4 and 5", "cts_sanity"),
            ("objectives", "Figure 3", "cts_objectives"),
            (*_BALANCE, "cts_balance"),
        )
    ),
    _paper("concrete.saliency", "vgg16-cifar10-cts", "CTS, Figure 1", short="cts_saliency"),
    *(
        _paper(f"concrete.{script}", _LENET, f"{makes}, LeNet", short=f"cts_{script}")
        for script, makes in (*_CTS, _BALANCE)
    ),
    *(
        _paper("supermasks.accuracy", preset, "KD-LTS, Figure 22", short="supermasks")
        for preset in (_LENET, _RESNET20[0], _VGG16[0])
    ),
    # KD-LTS
    *(
        _paper(
            f"kd_lts.{script}",
            preset,
            f"KD-LTS, {figures}",
            *options,
            short=f"kd_{script}{'_late' if options else ''}",
        )
        for preset in _KD_LTS
        for script, figures, options in _DISTILLED
    ),
    _paper("kd_lts.transfer", _KD_LTS[0], "KD-LTS, Figure 21, LeNet", short="kd_transfer"),
    _paper(
        "kd_lts.transfer",
        _KD_LTS[1],
        "KD-LTS, Figure 21",
        "--to-data",
        "cifar100",
        short="kd_transfer",
    ),
    _paper(
        "kd_lts.transfer",
        "resnet20-cifar100-kd_lts",
        "KD-LTS, Figure 21, from CIFAR-100",
        *("--kinds", "data", "--to-data", "cifar10"),
        short="kd_transfer",
    ),
    *(
        _paper(
            f"kd_lts.{script}",
            "resnet20-cifar100-kd_lts",
            f"KD-LTS, {figure}, CIFAR-100",
            short=f"kd_{script}",
        )
        for script, figure in (
            ("accuracy", "Figure 3"),
            ("adversarial", "Figure 13"),
            ("attacks", "Figure 20"),
            ("distribution_shifts", "Figure 32"),
        )
    ),
    _paper(
        "kd_lts.distribution_shifts",
        _KD_LTS[1],
        "KD-LTS, Figure 16",
        short="kd_distribution_shifts",
    ),
    *(
        _paper(f"kd_lts.{script}", _KD_LTS[1], f"KD-LTS, {figure}", short=f"kd_{script}")
        for script, figure in _LANDSCAPE
    ),
    _paper("kd_lts.activations", _KD_LTS[2], "KD-LTS, Figures 19 and 26", short="kd_activations"),
    _paper("kd_lts.ablations", _KD_LTS[0], "KD-LTS, Figure 15", short="kd_ablations"),
    _paper(
        "kd_lts.distilled", "resnet50-cifar10-kd_lts", "KD-LTS, appendix D", short="kd_distilled"
    ),
    # these stream ImageNet, or hold Tiny-ImageNet, which have to be prepared first
    _paper(
        "kd_lts.accuracy",
        "resnet18-tiny_imagenet-kd_lts",
        "KD-LTS, Figure 3 and Table 2, Tiny-ImageNet",
        short="kd_accuracy",
    ),
    *(
        _paper(f"thesis_ch4.{script}", _RESNET50, f"{figures}, ResNet-50 on ImageNet")
        for script, figures in (
            ("table_4_2", "Tables 4.1 and 4.2"),
            ("dense", "Figures 4-2 to 4-12"),
            ("tickets", "Figures 4-13 to 4-30"),
        )
    ),
    *(
        _paper(f"thesis_ch5.{script}", preset, f"{figures}, {preset}", short=f"ch5_{script}")
        for preset in ("resnet18-tiny_imagenet", f"{_RESNET50}-early")
        for script, figures in _EARLY
    ),
    *(
        _paper("thesis_ch5.replication", preset, sections)
        for preset, sections in (
            ("resnet18-tiny_imagenet-synflow", "Table 5.2"),
            (f"{_RESNET50}-grasp", "section 5.3.5"),
        )
    ),
    # twenty dilations of every level: the dearest figure comes last
    *(
        _paper("thesis_ch3.dilation", preset, f"Figure 3-9, {preset}")
        for preset in (*_CONVS, *_RESNET20, *_VGG16)
    ),
)
"""All runs; those that are done or failed are remembered by `Run.key`."""
REDUCED = (
    # the dense network is among what this compares
    _reduced(
        "thesis_ch4.tickets",
        _RESNET20[0],
        "Figures 4-13 to 4-17, 4-22 to 4-26 and 4-33",
        *("--at", "0", "234"),
    ),
    # all densities, and steps up to half of training, between which thresholds are crossed
    *(
        _reduced(
            "thesis_ch4.tickets",
            preset,
            "Figures 4-13 to 4-30 and 4-33",
            *("--at", "0", "117", "234", "469", "1172"),
            *("--all-levels", "True"),
            short="tickets_by_k",
        )
        for preset in (_RESNET20[0], _VGG16[0])
    ),
    *(
        _reduced(f"thesis_{script}", preset, makes)
        for preset in (_RESNET20[0], _VGG16[0])
        for script, makes in (
            ("ch3.ablations", "Figure 3-7"),
            ("ch3.lrr_and_random", "Figure 3-5"),
            ("ch4.table_4_2", "Table 4.2"),
            ("ch4.dense", "Figures 4-2 to 4-12, 4-31 and 4-32"),
        )
    ),
    *(
        _reduced(f"thesis_ch5.{script}", preset, figures, short=f"ch5_{script}")
        for preset in (_VGG16[0], _RESNET20[0])
        for script, figures in _EARLY
    ),
    *(
        _reduced(f"concrete.{script}", "resnet20-cifar10-cts", makes, short=f"cts_{script}")
        for script, makes in (*_CTS, _BALANCE)
    ),
    *(
        _reduced(f"kd_lts.{script}", _KD_LTS[1], f"KD-LTS, {figures}", *options,
                 short=f"kd_{script}{'_late' if options else ''}")
        for script, figures, options in _DISTILLED[:3]
    ),
    _reduced("kd_lts.stability", _KD_LTS[2], "KD-LTS, Figure 27", short="kd_stability"),
    _reduced("leaderboard", _RESNET20[0], "the leaderboard of ResNet-20"),
    *(
        _reduced(f"one_ticket.{script}", _VGG19_CIFAR10, f"One ticket, {figure}")
        for script, figure in (
            ("global_and_layerwise", "Figure 1"),
            ("random_masks", "Figure A1"),
            ("optimizers", "Figure 5"),
        )
    ),
    # other figures of chapters 3 and 4 are run at the source's size, above
    *(
        _reduced(f"thesis_ch5.{script}", _LENET, f"{figures}, LeNet", short=f"ch5_{script}")
        for script, figures in _EARLY
    ),
    *(
        _reduced(f"concrete.{script}", _LENET, f"{makes}, LeNet", short=f"cts_{script}")
        for script, makes in (*_CTS, _BALANCE)
    ),
    _reduced("supermasks.accuracy", _LENET, "KD-LTS, Figure 22, LeNet", short="supermasks"),
    _reduced("one_ticket.optimizers", _LENET, "One ticket, Figure 5, LeNet"),
    _reduced("leaderboard", _LENET, "the leaderboard of LeNet"),
    Run(
        "halves-vgg19",
        "experiments.one_ticket.data_sets",
        (*_VGG19, *_HALVES, "--size", "reduced", "--publish"),
        "One ticket, Figure 2, VGG-19",
    ),
    Run(
        "halves-lenet",
        "experiments.one_ticket.data_sets",
        ("--network", "lenet", "--size", "reduced", "--publish"),
        "One ticket, Figure 2, halves of MNIST",
    ),
    # all levels at 24,000 steps take hours on CPUs
    _reduced("thesis_ch3.early_stopping", _LENET, "Figure 3-8, LeNet"),
    _reduced("thesis_ch3.dilation", _LENET, "Figure 3-9, LeNet"),
)  # fmt: skip
"""Runs of reduced size, for CPUs."""
