"""The commands that train: each is a public function, whose arguments and settings are flags."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from jaxticket import _check, _files
from jaxticket import data as data_sets
from jaxticket.analysis.verdict import verdict
from jaxticket.cli import objects
from jaxticket.cli.flags import Flag, of_function, of_settings, omitted, pairs, parse, seeds
from jaxticket.connectivity import instability
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.runtime import Runtime
from jaxticket.loading import load
from jaxticket.nn import NETWORKS
from jaxticket.presets import Preset, preset
from jaxticket.runs import Runs, require_runs
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic import sparse_train
from jaxticket.sparsify.dynamic_imp import dynamic_imp
from jaxticket.sparsify.early_pruning import BySteps, prune_at
from jaxticket.sparsify.iterative import Pruning, find_tickets
from jaxticket.sparsify.learned import SEARCHES, search
from jaxticket.sparsify.retraining import branch
from jaxticket.transferring._transfer import transfer
from jaxticket.typing import Network

NONE = inspect.Parameter.empty
_OURS = ("runtime", "mesh", "init", "tickets", "to")
"""Arguments that are given otherwise, or not at all."""
_SEEDS = "Seeds, one network each: numbers, and ranges such as 0:5 for 0 to 4."
_STARTS = "Needed: where the results go. The same command resumes a run that was stopped."
_RENAMED = {"schedule": "pruning-schedule"}
"""Flags of pruning whose name is one of training."""


class Setting(NamedTuple):
    """What is trained, and how."""

    net: Network
    data: Data | Stream
    training: Training
    preset: Preset


def chosen(args: Sequence[str], flag: str) -> str | None:
    """What is given for a flag, before anything else is read."""
    found = None
    for place, text in enumerate(args):
        if text == flag and place + 1 < len(args):
            found = args[place + 1]
        elif text.startswith(f"{flag}="):
            found = text.partition("=")[2]
    return found


def _base(args: Sequence[str]) -> Preset:
    """The preset of a command, whose settings are the defaults of the flags."""
    name = chosen(args, "--preset")
    if name is not None:
        return preset(name)
    # the defaults of the settings themselves
    return Preset("no preset", "lenet", "digits", Training(), Pruning(), source="defaults")


def _setting_flags(base: Preset, named: bool) -> list[Flag]:
    network = base.network if isinstance(base.network, str) else base.network.__name__
    return [
        Flag("preset", str | None, base.name if named else None,
             "Network, data and settings of a paper; `jaxticket presets` lists them. Its settings "
             "are the defaults of all other flags."),
        Flag("network", str, network if named else NONE,
             f"A network: {', '.join(NETWORKS)}."),
        Flag("options", tuple[str, ...], (),
             "Options of the network's constructor: width=0.5 norm=none."),
        Flag("data", str, base.data if named else NONE,
             f"Data: {', '.join(data_sets.DATASETS)}, tfds:NAME, or the path of an .npz file or "
             f"image folder."),
        Flag("data_dir", Path | None, None,
             "Folder of prepared TFDS data sets; what JAXTICKET_DATA_DIR says if left out."),
        Flag("download", bool, False, "Allow to download and prepare data that are missing."),
        Flag("validation", float, base.validation, "Share of the training split to hold out."),
    ]  # fmt: skip


def _setting(base: Preset, given: dict[str, Any], training: dict[str, Any]) -> Setting:
    changes = {name: given[name] for name in ("network", "data", "validation") if name in given}
    if "network" in changes and changes["network"] != base.network:
        # those of another constructor
        changes["options"] = {}
    made = base.replace(**changes)
    if "options" in given:
        made = made.replace(options=made.options | pairs("options", given["options"]))
    where = {"data_dir": given.get("data_dir"), "download": given.get("download", False)}
    if made.image_size is not None and made.data == base.data:
        data = made.load(**where)
    else:
        data = data_sets.load(made.data, validation=made.validation, **where)
    return Setting(made.net(data), data, made.training.replace(**training), made)


def _run_flags(function: Callable[..., object], *without: str, **defaults: object) -> list[Flag]:
    """The flags of a function that trains; seeds are texts."""
    flags = of_function(function, without=(*_OURS, *without), defaults=defaults)
    found, starts = [], "runs" not in without
    for flag in flags:
        if flag.name == "seeds":
            kind = tuple[str, ...] | None if flag.default is None else tuple[str, ...]
            flag = flag._replace(kind=kind, help=_SEEDS)
        if flag.name == "folder" and starts:
            flag = flag._replace(help=_STARTS)
        found.append(flag)
    more = [flag for flag in of_settings(Runtime()) if flag.name in ("time_budget", "wait")]
    return [*found, *more]


def _settled(given: dict[str, Any], *, folder: bool = False) -> dict[str, Any]:
    """Arguments of a function as it takes them.

    Raises:
      ValueError: where there has to be a `folder` and there is none.
    """
    if folder and given.get("folder") is None:
        raise ValueError(
            "`folder` is needed, where the results go: --folder runs/a; the same command resumes a "
            "run that was stopped"
        )
    if given.get("seeds") is not None:
        given["seeds"] = seeds(given["seeds"])
    if isinstance(given.get("step"), tuple) and len(given["step"]) == 1:
        (given["step"],) = given["step"]
    runtime = {field.name: field.default for field in dataclasses.fields(Runtime)}
    given["runtime"] = Runtime(**{name: given.pop(name) for name in runtime if name in given})
    return given


def _seeds_of(base: Preset) -> range:
    return range(base.replicates or 5)


def find(args: Sequence[str]) -> Runs:
    """Find tickets by iterative magnitude pruning: `jt.find_tickets`."""
    base, named = _base(args), chosen(args, "--preset") is not None
    given = parse(
        {
            "setting": _setting_flags(base, named),
            "run": _run_flags(find_tickets, "net", "data", "training", "pruning",
                              seeds=_seeds_of(base)),
            "pruning": of_settings(base.pruning, called=_RENAMED),
            "training": of_settings(base.training),
        },
        args, prog="jaxticket find", description=str(find.__doc__),
    )  # fmt: skip
    run = {"seeds": _seeds_of(base), **_settled(given["run"], folder=True)}
    pruning = base.pruning.replace(**given["pruning"])
    made = _setting(base, given["setting"], given["training"])
    return find_tickets(made.net, made.data, made.training, pruning, **run)


def prune(args: Sequence[str]) -> Runs | BySteps:
    """Prune once, at a step of dense training, by a score: `jt.prune_at`."""
    base, named = _base(args), chosen(args, "--preset") is not None
    usual = base.arguments if named and base.function == "prune_at" else {}
    usual = {**usual, "seeds": _seeds_of(base)}
    given = parse(
        {
            "setting": _setting_flags(base, named),
            "run": _renamed(_run_flags(prune_at, "net", "data", "training", **usual), base),
            "training": of_settings(base.training),
        },
        args, prog="jaxticket prune", description=str(prune.__doc__),
    )  # fmt: skip
    run = {**usual, **_settled(given["run"], folder=True)}
    made = _setting(base, given["setting"], given["training"])
    return prune_at(made.net, made.data, made.training, **run)


def sparse(args: Sequence[str]) -> Runs:
    """Train sparse networks from their first step on: `jt.sparse_train`."""
    return _sparse(sparse_train, args, "sparse", str(sparse.__doc__))


def dynamic(args: Sequence[str]) -> Runs:
    """Train sparse networks whose masks change a few times: `jt.dynamic_imp`."""
    return _sparse(dynamic_imp, args, "dynamic", str(dynamic.__doc__))


def _sparse(
    function: Callable[..., Runs], args: Sequence[str], command: str, description: str
) -> Runs:
    """What a function gives that trains sparse networks; presets of a rule have its arguments."""
    base, named = _base(args), chosen(args, "--preset") is not None
    usual = base.arguments if named and base.function == function.__name__ else {}
    usual = {**usual, "seeds": _seeds_of(base)}
    flags = [
        flag._replace(help=f"{flag.help} {objects.example('rule')}")
        if flag.name == "rule"
        else flag
        for flag in _run_flags(function, "net", "data", "training", **usual)
    ]
    given = parse(
        {
            "setting": _setting_flags(base, named),
            "run": flags,
            "training": of_settings(base.training),
        },
        args, prog=f"jaxticket {command}", description=description,
    )  # fmt: skip
    run = {**usual, **_settled(given["run"], folder=True)}
    made = _setting(base, given["setting"], given["training"])
    return function(made.net, made.data, made.training, **run)


def learn(args: Sequence[str]) -> Runs:
    """Learn masks by gradient descent: `jt.search`."""
    base, named = _base(args), chosen(args, "--preset") is not None
    usual: dict[str, Any] = {"seeds": _seeds_of(base)}
    method = "concrete"
    if named and base.function == "search":
        usual, method = {**base.arguments, **usual}, str(base.finder)
    options = Flag("method_options", tuple[str, ...], (),
                   "Options of the method's paper: objective=loss length=long.")  # fmt: skip
    given = parse(
        {
            "setting": _setting_flags(base, named),
            "run": [
                *_renamed(
                    _run_flags(search, "net", "data", "training", **usual, method=method), base
                ),
                options,
            ],
            "training": of_settings(base.training),
        },
        args, prog="jaxticket search", description=str(learn.__doc__),
    )  # fmt: skip
    run = _settled(given["run"], folder=True)
    given_options = pairs("method_options", run.pop("method_options", ()))
    if "method" not in run and named and base.function == "search":
        found = base.replace(settings=base.settings | given_options).search
    else:
        make = _check.from_table("method", run.pop("method", method), SEARCHES)
        found = make(**given_options)
    made = _setting(base, given["setting"], given["training"])
    return search(made.net, made.data, made.training, found, **{**usual, **run})


def _renamed(flags: list[Flag], base: Preset) -> list[Flag]:
    """Flags that do not collide with those of the training."""
    taken = {flag.called or flag.name for flag in of_settings(base.training)}
    return [
        flag._replace(called=f"pruning-{flag.name.replace('_', '-')}")
        if flag.name in taken
        else flag
        for flag in flags
    ]


def unstable(args: Sequence[str]) -> object:
    """Measure whether training from a step depends on SGD noise: `jt.instability`."""
    base, named = _base(args), chosen(args, "--preset") is not None
    tickets = chosen(args, "--tickets") is not None
    setting = _setting_flags(base, named or tickets)
    if tickets:
        # they have all that, and what is typed is refused, whatever it says
        setting = [omitted(flag) for flag in setting]
    own = Flag("tickets", Path | None, None,
               "Folder of a run: its tickets, network, data and training.")  # fmt: skip
    given = parse(
        {
            "setting": setting,
            "run": [own, *_renamed(_run_flags(instability, "net", "data", "training"), base)],
            "training": of_settings(base.training),
        },
        args, prog="jaxticket instability", description=str(unstable.__doc__),
    )  # fmt: skip
    run = _settled(given["run"], folder=True)
    folder = run.pop("tickets", None)
    if folder is None:
        made = _setting(base, given["setting"], given["training"])
        return instability(made.net, made.data, made.training, **run)
    if given["setting"]:
        raise ValueError(
            f"`tickets` {str(folder)!r} have a network and data; leave out "
            f"{', '.join(given['setting'])}"
        )
    runs = _runs(folder)
    training = runs.training.replace(**given["training"])
    return instability(runs.net, runs.data, training, tickets=runs, **run)


# what works on the folder of a run


def _runs(folder: Path) -> Runs:
    return require_runs("folder", load(folder))


_FOLDER = Flag("of", Path, NONE, "Folder of the run.")
_TRAINING = Flag("training", tuple[str, ...], (),
                 "Other settings of training than the run's: lr=0.1 steps=300.")  # fmt: skip


def _trained(runs: Runs, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with the run's training, where some of it is to change."""
    changes = pairs("training", given.pop("training", ()))
    takes = {flag.name for flag in of_settings(runs.training) if flag.objects}
    changes |= {name: objects.made(name, value) for name, value in changes.items() if name in takes}
    return {**given, "training": runs.training.replace(**changes)} if changes else given


def control(args: Sequence[str]) -> Runs:
    """Retrain the tickets of a run, changed in one way: `jt.branch`."""
    change = Flag("change", str, NONE, "The control: reinit, shuffle, random, ...")
    given = parse(
        {
            "": [_FOLDER, change],
            "run": [*_run_flags(branch, "runs", "change", "training"), _TRAINING],
        },
        args, prog="jaxticket branch", description=str(control.__doc__),
    )  # fmt: skip
    runs = _runs(Path(str(given[""]["of"])))
    named = cast("str | Change", objects.made("change", given[""]["change"]))
    return branch(runs, named, **_trained(runs, _settled(given["run"])))


def move(args: Sequence[str]) -> Runs:
    """Train the tickets of a run on other data, or in a deeper network: `jt.transfer`."""
    to = Flag("to", str, NONE, "The target: data, as of `find --data`, or the folder of a run.")
    network = Flag("network", str | None, None,
                   "The target's network, such as resnet32; that of the run, or of the target's "
                   "run, if left out.")  # fmt: skip
    options = Flag("options", tuple[str, ...], (), "Options of the target's network: width=0.5.")
    where = Flag("data_dir", Path | None, None, "Folder of prepared TFDS data sets.")
    given = parse(
        {
            "": [_FOLDER],
            "run": [
                to, network, options, *_run_flags(transfer, "runs", "net", "training"), _TRAINING,
                where,
            ],
        },
        args, prog="jaxticket transfer", description=str(move.__doc__),
    )  # fmt: skip
    runs, run = _runs(Path(str(given[""]["of"]))), _settled(given["run"])
    target = str(run.pop("to"))
    data_dir = run.pop("data_dir", None)
    of_run = _files.to_path(target, "to")
    is_run = (of_run / "settings.json").exists()
    to_data = _runs(of_run) if is_run else data_sets.load(target, data_dir=data_dir)
    name, options_of = run.pop("network", None), run.pop("options", ())
    if options_of and name is None:
        raise ValueError("`options` are those of `network`, which is not given; name it too")
    if name is not None:
        make = Preset("transfer", name, target, runs.training, Pruning(), source="flags")
        data = to_data.data if isinstance(to_data, Runs) else to_data
        run["net"] = make.replace(options=pairs("options", options_of)).net(data)
    return transfer(runs, to=to_data, **_trained(runs, run))


def judge(args: Sequence[str]) -> object:
    """Judge whether the tickets of a level win, by the strict definition: `jt.verdict`."""
    flags = _run_flags(verdict, "runs", "net", "data", "training", "rules")
    given = parse(
        {"": [_FOLDER], "run": [*flags, _TRAINING]},
        args, prog="jaxticket verdict", description=str(judge.__doc__),
    )  # fmt: skip
    runs = _runs(Path(str(given[""]["of"])))
    return verdict(runs, **_trained(runs, _settled(given["run"])))


TRAINING: dict[str, Callable[[Sequence[str]], object]] = {
    "find": find,
    "prune": prune,
    "search": learn,
    "sparse": sparse,
    "dynamic": dynamic,
    "branch": control,
    "transfer": move,
    "instability": unstable,
    "verdict": judge,
}
"""The commands that train, by name."""
