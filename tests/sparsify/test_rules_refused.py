"""What mask rules refuse, by the name of the argument, before anything is trained."""

import dataclasses

import numpy as np
import pytest
from mask_rules import NET, TRAINING, D, train

import jaxticket as jt

NAN = float("nan")
SHRINKING = [D.Gradual, D.Iterative]
EXCHANGING = [D.RigL, D.SET]
TIMED = [*SHRINKING, *EXCHANGING, D.StraightThrough, D.ACDC, D.TopKAST]

WRONG = [
    *((rule, name, bad, f"`{name}` must be a")
      for rule in TIMED for name in ("every", "end") for bad in (None, "3", NAN, 0, 0.0, -1, 1.5)),
    *((rule, "begin", bad, "`begin` must be a")
      for rule in (*SHRINKING, D.ACDC) for bad in (None, "3", NAN, -1, 1.5)),
    *((rule, "scope", bad, "`scope` must be one of 'global', 'layer'")
      for rule in TIMED if rule not in EXCHANGING for bad in (None, "layers", 1)),
    *((rule, "layout", bad, "`layout` is unknown")
      for rule in (*EXCHANGING, D.Static) for bad in (None, "erg", 0.5)),
    *((rule, "fraction", bad, "`fraction` must be a")
      for rule in EXCHANGING for bad in (None, "0.3", NAN, -0.1, 1.1)),
    *((rule, "decay", bad, "`decay` must be one of 'cosine', 'constant'")
      for rule in EXCHANGING for bad in (None, "linear", 0.1)),
    *((D.RigL, "skip", bad, "`skip` must be True or False") for bad in (None, "no", 1, NAN)),
    *((D.Gradual, "power", bad, "`power` must be a") for bad in (None, "3", NAN, 0, -1)),
    *((D.StraightThrough, "score", bad, "`score` must be one of 'magnitude', 'random'")
      for bad in (None, "snip", 1)),
    *((D.TopKAST, "extra", bad, "`extra` must be a") for bad in (None, "0.1", NAN, -0.1, 1.1)),
    *((D.TopKAST, "decay", bad, "`decay` must be a") for bad in (None, "0.1", NAN, -0.1)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "name", "bad", "message"), WRONG)
def test_settings_of_rules_are_checked(rule, name, bad, message):
    with pytest.raises(ValueError, match=message):
        rule(**{name: bad})


def test_every_setting_of_every_rule_is_tried():
    tried = {(rule, name) for rule, name, *_ in WRONG}
    for rule in (*TIMED, D.Static):
        # a structure is an argument of sparse_train
        for setting in dataclasses.fields(rule):
            assert setting.name == "units" or (rule, setting.name) in tried


@pytest.mark.parametrize("rule", TIMED)
def test_times_must_fit_the_training(rule):
    name = rule.__name__
    with pytest.raises(ValueError, match=rf"`end` 13 of {name} must be at most 1[12] in a train"):
        train(rule(every=1, end=13))
    with pytest.raises(ValueError, match=f"`every` 20 of {name} leaves no update .*1.0 the whole"):
        train(rule(every=20, end=9))
    with pytest.raises(ValueError, match=f"`every` 0 of {name} leaves no update"):
        train(rule(every=0.01, end=9))
    # a step, not the whole training
    with pytest.raises(ValueError, match=r"1 is the first step, 1\.0 the whole training"):
        train(rule(every=3, end=1))


@pytest.mark.parametrize("rule", [*SHRINKING, D.ACDC])
def test_pruning_begins_before_it_ends_and_training_goes_on(rule):
    with pytest.raises(ValueError, match=f"`end` 4 of {rule.__name__} must be after `begin` 6"):
        train(rule(begin=6, end=4, every=1))
    with pytest.raises(ValueError, match=f"`end` 12 of {rule.__name__} must be at most 11"):
        train(rule(begin=0, end=1.0, every=1))


def test_shares_are_steps_of_the_training():
    assert D.RigL(every=0.25, end=0.75).for_training(TRAINING) == D.RigL(every=3, end=9)
    assert D.StraightThrough().for_training(TRAINING).end == 12


@pytest.mark.parametrize("density", [1.2, 0, -0.1, NAN, None, "0.1", ()])
@pytest.mark.parametrize("rule", jt.RULES)
def test_densities_are_shares(rule, density):
    long = TRAINING.replace(steps=200)
    with pytest.raises(ValueError, match="`density`"):
        train(rule, training=long, density=density)


@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        (D.Static("uniform"), "`layout` 'uniform'"),
        (D.RigL("uniform", every=3, end=9), "`layout` 'uniform'"),
        (D.SET("uniform", every=3, end=9), "`layout` 'uniform'"),
        *((rule(every=3, end=9, scope="layer"), "`scope` 'layer'") for rule in SHRINKING),
        (D.ACDC(every=2, end=9, scope="layer"), "`scope` 'layer'"),
        (D.StraightThrough(scope="layer"), "`scope` 'layer'"),
        (D.TopKAST(every=3, end=9), "`scope` 'layer'"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, D.MaskRule) else None,
)
def test_a_layer_that_would_be_gone_is_named(rule, setting):
    """5 and 0 of 320 and 50 weights."""
    message = f"`density` 0.008 with {setting} keeps no weight of 'dense_1/kernel'; use a higher"
    with pytest.raises(ValueError, match=message):
        train(rule, density=0.008)


@dataclasses.dataclass(frozen=True)
class Rewound(D.Static):
    rewind: int = 100


def test_rules_do_not_rewind():
    with pytest.raises(ValueError, match=r"`rewind` of `rule` .* means nothing in sparse_train"):
        train(Rewound())


@pytest.mark.parametrize("rewind", [100, None])
def test_rewinding_is_what_find_tickets_does(rewind):
    message = rf"`rewind` {rewind} is no argument of sparse_train: .* rewind with jt.find_tickets"
    with pytest.raises(ValueError, match=message):
        train("rigl", rewind=rewind)
    with pytest.raises(TypeError, match="'rewound'"):
        train("rigl", rewound=rewind)


def test_frozen_weights_do_not_come_back():
    """They would stay zero; rules that only prune may prune them, and others the rest."""
    training = TRAINING.replace(trainable=("dense_1/*",))
    for rule in (
        D.RigL(every=3, end=9),
        D.StraightThrough(),
        D.ACDC(every=2, end=9),
        D.TopKAST(every=3),
    ):
        with pytest.raises(ValueError, match=r"`trainable` .* leaves out 'dense_0/kernel', where"):
            train(rule, training=training)
    whole = NET.init(jt.random.stream(jt.random.root_keys((0,))[0], "init"))[0]
    runs = train(
        D.RigL(every=3, end=9), training=training, exclude=("dense_0",), keep="trained", seeds=(0,)
    )
    kernel = np.asarray(runs.trained(1)[0]["dense_0"]["kernel"])
    np.testing.assert_allclose(kernel.reshape(320), np.ravel(whole["dense_0"]["kernel"]), rtol=1e-6)
    runs = train(D.Gradual(every=3, end=9), training=training, seeds=(0,))
    mask = runs.ticket(1, 0).mask["dense_0"]["kernel"]
    assert 0 < mask.sum() < 320


def test_a_layer_that_is_gone_in_the_end_is_reported(capsys):
    """With scope "global" nobody knows before; the message is that of other ways to find masks."""
    scale = {"dense_0": 1.0, "dense_1": 1e-6}
    params, _ = NET.init(jt.random.root_keys((3,))[0])
    small = {
        name: {key: w * scale[name] for key, w in leaves.items()} for name, leaves in params.items()
    }
    training, rule = TRAINING.replace(lr=1e-6), D.Gradual(begin=0, every=1, end=2)
    train(rule, training=training, init=small, density=0.05)
    told = capsys.readouterr().out
    assert "layer collapse: density 0.05, keeps nothing of dense_1/kernel (seeds 0, 1)" in told
    assert "`scope`='layer' of the rule keeps some of each" in told
