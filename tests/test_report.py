"""`jt.report`: one page of a run, whole by itself, with everything that users name escaped."""

import base64
import gzip
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from buckets import buckets
from flax import nnx
from stops import killed

import jaxticket as jt
from jaxticket.cli import main
from jaxticket.reporting import rendering

__all__ = ["buckets"]

EVIL = "<script>alert(1)</script>"
TRAINING = jt.Training(steps=30, batch_size=60, eval_every=10)
VOID = {"meta", "img", "br", "hr", "link", "input"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def digits():
    found = jt.data.load("digits", validation=0.1)
    splits = {name: (part.x, part.y) for name, part in found.splits.items()}
    return jt.data.from_arrays(splits=splits, name=EVIL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of every kind of run, by the name of its function."""
    top = tmp_path_factory.mktemp("report")
    # plain names of folders: the page is that of the data
    data = digits()
    net = jt.networks.lenet(data.shape, data.classes, widths=(12,))
    setting = net, data, TRAINING
    own = {"seeds": range(2), "progress": False}
    runs = jt.find_tickets(
        *setting,
        jt.Pruning(levels=2),
        branches=("reinit",),
        keep="trained",
        folder=top / "find_tickets",
        **own,
    )
    jt.branch(runs, "shuffle", name="<b>&\"'", progress=False)
    jt.verdict(runs, level=2, points=3, progress=False, folder=top / "verdict")
    jt.verdict(runs, level=1, points=3, progress=False)
    jt.measure(runs, "gradient_norm", folder=top / "measure", progress=False)
    jt.telemetry(runs, folder=top / "telemetry", progress=False)
    jt.surface(runs, points=3, levels=(1,), seeds=(0,), folder=top / "surface", progress=False)
    jt.instability(*setting, at=(0, 10), points=3, throughout=3, folder=top / "instability", **own)
    jt.prune_at(*setting, density=(0.5, 0.2), step=(0, 10), folder=top / "prune_at", **own)
    method = jt.SEARCHES["concrete"](objective="loss")
    jt.search(*setting, method, density=0.5, folder=top / "search", **own)
    jt.sparse_train(
        *setting, density=0.5, rule=jt.dynamic.SET(every=5), folder=top / "sparse_train", **own
    )
    return top


class Page(html.parser.HTMLParser):
    """What a page has: tags, which have to be closed, attributes, texts by section."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.sections, self.rows, self._section = {}, [], ""
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self._section = dict(attrs)["id"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def of(self, tag, name):
        return [value for own, key, value in self.attributes if (own, key) == (tag, name)]

    def files(self):
        """What its links give, by name."""
        names, links = self.of("a", "download"), self.of("a", "href")
        held = [link for link in links if link.startswith("data:")]
        assert len(names) == len(held)
        return {
            name: base64.b64decode(link.partition("base64,")[2])
            for name, link in zip(names, held, strict=True)
        }


KINDS = ("find_tickets", "verdict", "measure", "telemetry", "surface", "instability", "prune_at",
         "search", "sparse_train")  # fmt: skip


@pytest.fixture(scope="module")
def pages(folder):
    found = {kind: jt.report(folder / kind) for kind in KINDS}
    assert all(path == folder / kind / "report.html" for kind, path in found.items())
    return {kind: Page(path) for kind, path in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_refers_to_nothing_outside(pages, kind):
    page = pages[kind]
    links = page.of("a", "href") + page.of("img", "src")
    anchors = set(page.of("section", "id"))
    assert all(
        link.startswith(("data:image/svg+xml;base64,", "data:text/csv"))
        or link.removeprefix("#") in anchors
        for link in links
    )
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert not re.search(r"url\(|@import|src=\"http|https?://", page.text)
    # nor do its figures, which are whole files
    for source in page.of("img", "src"):
        drawn = base64.b64decode(source.partition("base64,")[2]).decode()
        assert drawn.startswith("<svg") and drawn.rstrip().endswith("</svg>")
        assert not re.search(r'href="(?!#)', drawn) and "<script" not in drawn


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_users_are_escaped(pages, kind):
    page = pages[kind]
    assert EVIL not in page.text and "&lt;script&gt;alert(1)&lt;/script&gt;" in page.text
    assert EVIL in page.sections[""]


@pytest.mark.parametrize("kind", KINDS)
def test_every_page_has_figures_with_a_description_and_the_environment(pages, kind):
    page = pages[kind]
    figures = [alt for alt in page.of("img", "alt") if len(alt) > 30]
    assert len(figures) == page.tags.count("img") == page.tags.count("figure") > 0
    environment = page.sections["environment"]
    assert jax.__version__ in environment and "xla_flags" in environment
    assert "jaxticket" in environment and "settings.json" in page.sections["folder"]
    assert page.sections[""].startswith("\n") and kind in page.sections[""]


def test_the_summary_has_means_over_seeds(pages, folder):
    runs = jt.load(folder / "find_tickets", data=digits())
    page = pages["find_tickets"]
    rows = [row for row in page.rows if len(row) == 9 and row[0] in "012"]
    # level 0 once per branch: dense, reinit and shuffle; then three branches of two levels
    assert len(rows) == 9
    final = jt.speed.final(runs.table())
    for branch in ("ticket", "reinit"):
        own = 100 * final[(final.level == 2) & (final.branch == branch)]["value"]
        (row,) = (row for row in rows if row[0] == "2" and row[2] == branch)
        assert row[1] == f"{100 * runs.densities[2]:.3g}" and row[7] == "2"
        written = [f"{x:.2f}" for x in (own.mean(), own.std(), own.min(), own.max())]
        assert row[3:7] == written
        matches = jt.speed.matching(runs.table(), test_size=len(runs.data.test))
        known = matches[(matches.level == 2) & (matches.branch == branch)]["matching"].item()
        assert row[8] == ("yes" if known else "no")
    assert {row[2] for row in rows} == {"dense", "ticket", "reinit", "<b>&\"'"}


def test_verdicts_are_there_with_their_conditions(pages, folder):
    runs = jt.load(folder / "find_tickets", data=digits())
    said = pages["find_tickets"].sections["summary"]
    winning = runs.winning()
    word = "No winning ticket." if winning is None else f"level {winning}."
    assert word in said and "from initialization" in said
    (below,) = (folder / "find_tickets" / "verdicts").iterdir()
    alone = pages["verdict"].sections["summary"]
    for path, text in ((below, said), (folder / "verdict", alone)):
        found = jt.load(path)
        last = str(found).splitlines()[-1].removeprefix("verdict: ")
        assert last[1:] in text
        for row in found.conditions().to_dict("records"):
            assert row["condition"] in text and f"{100 * row['value']:.2f}" in text


def test_what_differs_from_the_defaults_comes_first(pages):
    said = pages["find_tickets"].sections["settings"]
    changed, _, rest = said.partition("Training: Training")[2].partition("as by default")
    assert re.search(r"steps\W*30\W*", changed) and "eval_every" in changed
    assert "momentum" not in changed and "momentum" in rest
    assert "Pruning: Pruning" in said and "Network" in said and "widths" in said


def test_the_files_that_a_page_holds_are_those_of_the_folder(pages, folder):
    runs = jt.load(folder / "find_tickets", data=digits())
    (below,) = (folder / "find_tickets" / "branches").rglob("table.parquet")
    wanted = jt.results.concat([runs.table(), pd.read_parquet(below)])
    found = pd.read_csv(io.BytesIO(pages["find_tickets"].files()["table.csv"]))
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-12)
    copies = pages["instability"].files()["copies.csv"]
    assert copies.decode() == (folder / "instability" / "copies.csv").read_text()


def test_large_files_are_packed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(rendering, "_LARGE", 100)
    held = Page(jt.report(folder / "prune_at", tmp_path / "a.html")).files()["table.csv.gz"]
    table = pd.read_csv(io.BytesIO(gzip.decompress(held)))
    assert set(table["pruned_at"]) == {0, 10}


def test_equal_runs_give_equal_pages(folder, tmp_path):
    one, other = (jt.report(folder / "search", tmp_path / name) for name in ("a.html", "b.html"))
    assert one.read_bytes() == other.read_bytes()


def test_tickets_are_listed_with_their_density(pages, folder):
    runs = jt.load(folder / "find_tickets", data=digits())
    said = pages["find_tickets"].sections["folder"]
    for level, share in zip(runs.levels, runs.densities, strict=True):
        assert f"{100 * share:.4g}" in said and f"ticket-level-{level:02d}-seed-*" in said
    assert "tickets: masks and starting weights" in said
    assert "jt.load('find_tickets', data=data)" in pages["find_tickets"].sections["continue"]
    assert "jt.find_tickets" in pages["find_tickets"].sections["continue"]


def test_barriers_are_in_points(pages, folder):
    found = jt.load(folder / "instability", data=digits()).stable()
    (row,) = (row for row in pages["instability"].rows if row[:1] == ["dense"] and row[3] == "10")
    mean = found[found["at"] == 10]["mean"].item()
    assert row[4] == f"{100 * mean:.2f}" and "barrier (points)" in str(pages["instability"].rows)


def begun(folder, *, units):
    """A run of three levels that dies after its first unit, or its first state before that."""
    data = digits()
    net = jt.networks.lenet(data.shape, data.classes, widths=(12,))
    runtime = jt.Runtime(folder=folder, progress=False, save_every=1000 if units else 0)
    with killed(1, units=units):
        jt.find_tickets(
            net, data, TRAINING, jt.Pruning(levels=2), seeds=range(2), branches=("reinit",),
            runtime=runtime,
        )  # fmt: skip
    assert len(list((folder / "units").glob("*.npz"))) == int(units)


def test_of_an_unfinished_run_it_says_what_is_missing(tmp_path):
    begun(tmp_path / "a", units=True)
    page = Page(jt.report(tmp_path / "a"))
    assert "not finished" in page.sections[""] and EVIL not in page.text
    assert EVIL in page.sections[""]
    # two seeds, ticket and reinit
    assert ["level 1", "4 of 4 trainings"] in page.rows
    assert ["level 2", "4 of 4 trainings"] in page.rows
    missing = page.sections["missing"]
    assert "level 0" not in missing and "written at the end" in missing
    (done,) = (row for row in page.rows if row[:1] == ["level 0"])
    assert done[2] == "30" and done[3].endswith("%)")
    assert "same call with this folder again finishes" in page.sections["continue"]
    training = page.sections["settings"].partition("Training")[2]
    assert "eval_every" in training.partition("as by default")[0]


def test_a_run_without_a_finished_evaluation_is_refused(tmp_path):
    begun(tmp_path / "a", units=False)
    with pytest.raises(ValueError, match=r"`folder` .* has no finished evaluation yet: .* run the"):
        jt.report(tmp_path / "a")
    assert not (tmp_path / "a" / "report.html").exists()


def test_mistakes_are_named(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`folder` 'nowhere' is no folder; pass that of a run"):
        jt.report("nowhere")
    with pytest.raises(ValueError, match=r"`folder` must be the path of a run's folder, got 3"):
        jt.report(3)
    with pytest.raises(ValueError, match=r"`folder` .*empty' is no folder of a run"):
        jt.report(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"`file` .* in a folder that is not there; make it first"):
        jt.report(folder / "search", tmp_path / "nowhere" / "a.html")
    with pytest.raises(ValueError, match=r"`file` .* is a folder; pass the path of a page"):
        jt.report(folder / "search", tmp_path)
    with pytest.raises(ValueError, match=r"`file` must be the path of the page, or None"):
        jt.report(folder / "search", 3)


def own_loss(logits, labels):
    return -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels]


def test_code_of_ones_own_is_passed(tmp_path):
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, data.classes, widths=(8,))
    training = jt.Training(steps=4, batch_size=20, loss=own_loss)
    jt.find_tickets(
        net, data, training, jt.Pruning(levels=1), seeds=(0,), folder=tmp_path / "a", progress=False
    )
    with pytest.raises(ValueError, match="`training` is needed"):
        jt.report(tmp_path / "a")
    page = Page(jt.report(tmp_path / "a", training=training))
    assert "own_loss" in page.sections["settings"]
    # one seed has no spread
    (row,) = (row for row in page.rows if row[:1] == ["1"] and len(row) >= 8)
    assert "nan" not in page.sections["summary"]
    assert row[-1] in ("yes", "no") and "1" in row


class Own(nnx.Module):
    """Statistics, and a list of layers, whose paths hold whole numbers."""

    def __init__(self, units, rngs):
        self.layers = nnx.List([nnx.Linear(64, units, rngs=rngs), nnx.Linear(units, 10, rngs=rngs)])
        self.norm = nnx.BatchNorm(units, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.layers[0](x.reshape(len(x), -1))))
        return self.layers[1](x)


def own_network(units=12):
    return jt.from_nnx(
        lambda rngs: Own(units, rngs),
        (8, 8, 1),
        name=f"own {units}",
        resized=lambda width: own_network(max(1, round(width * units))),
    )


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory):
    """Runs of a network and data of the user's own, with all that can lie below them."""
    top = tmp_path_factory.mktemp("own")
    data, net = digits(), own_network()
    own = {"seeds": range(2), "progress": False}
    runs = jt.find_tickets(
        net, data, TRAINING, jt.Pruning(levels=2, rewind=5), folder=top / "runs", **own
    )
    jt.branch(runs, "shuffle", progress=False)
    jt.verdict(runs, level=1, points=3, progress=False)
    jt.verdict(runs, level=2, points=3, small_dense=own_network(3), progress=False)
    jt.transfer(runs, to=digits(), folder=top / "transfer", progress=False)
    jt.instability(
        net, data, TRAINING, at=(0, 10), points=3, tickets=runs, levels=(2,),
        folder=top / "instability", **own,
    )  # fmt: skip
    return top


@pytest.mark.parametrize("kind", ["runs", "transfer", "instability"])
def test_networks_of_ones_own_need_not_be_passed(own_folder, tmp_path, kind):
    folder = own_folder / kind
    page = Page(jt.report(folder, tmp_path / "alone.html"))
    text = " ".join(page.sections["continue"].split())
    assert f"jt.load('{kind}', net=net, data=data)" in text
    assert "own 12" in page.sections[""]
    passed = Page(jt.report(folder, tmp_path / "passed.html", net=own_network(), data=digits()))
    assert passed.rows == page.rows
    with pytest.raises(ValueError, match=r"`net` is needed: .* pass net=\.\.\."):
        jt.load(folder)


def test_the_verdicts_below_have_networks_of_their_own(own_folder, tmp_path):
    page = Page(jt.report(own_folder / "runs", tmp_path / "a.html"))
    assert page.sections["summary"].count("Verdict at") == 2
    (file,) = (own_folder / "runs" / "verdicts").glob("level-02*/verdict.json")
    found = jt.load(file.parent)
    # 64 x 3 + 3, 3 x 10 + 10, and two numbers of each normalized unit
    assert jt.networks.parameters(found.small) == 241 and "small_dense" in str(found)
    with pytest.raises(ValueError, match="'own 3' was made of code of your own"):
        found.small.init(jax.random.key(0))
    # it has tables alone: the network of the runs is neither needed nor refused
    assert jt.load(file.parent, net=own_network()).conditions().equals(found.conditions())
    assert repr(found.small).startswith("<Network own 3: 8×8×1 to 10 logits, 241 parameters")


def test_the_shell_reads_tables_of_ones_own_network(own_folder, tmp_path, capsys):
    main(["show", str(own_folder / "runs"), "--csv"])
    out = capsys.readouterr().out
    assert out.startswith("seed,") and ",shuffle," in out
    main(["plot", str(own_folder / "runs"), "--out", str(tmp_path / "figure.svg")])
    assert (tmp_path / "figure.svg").stat().st_size > 1_000


def test_the_figure_that_needs_the_network_says_so(own_folder, tmp_path):
    without = Page(jt.report(own_folder / "runs", tmp_path / "a.html"))
    figure = "Not drawn: the order of the layers"
    assert figure in " ".join(without.sections["figures"].split())
    whole = Page(jt.report(own_folder / "runs", tmp_path / "b.html", net=own_network()))
    assert figure not in " ".join(whole.sections["figures"].split())


def test_controls_that_start_late_are_in_every_figure(own_folder, tmp_path):
    page = Page(jt.report(own_folder / "runs", tmp_path / "a.html"))
    alts = page.of("img", "alt")
    (speed,) = [text for text in alts if text.startswith("The step of least validation loss")]
    assert "shuffle" in speed


def test_labels_that_are_numbers_have_no_accuracy(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (80, 4, 4)).astype(np.uint8)
    y = (x.mean(axis=(1, 2)) / 255).astype(np.float32)
    data = jt.data.from_arrays(x[:60], y[:60], x[60:], y[60:], name="means")
    net = jt.networks.lenet(data.shape, 1, widths=(4,))
    training = jt.Training(steps=8, batch_size=20, loss="mse", metrics=("r2",))
    jt.find_tickets(
        net, data, training, jt.Pruning(levels=1), seeds=(0, 1), folder=tmp_path / "a",
        progress=False,
    )  # fmt: skip
    page = Page(jt.report(tmp_path / "a"))
    assert "Not judged" in page.sections["summary"] and "Test r2" in page.sections["summary"]
    assert "Test accuracy" not in page.sections["tables"]


def test_a_page_in_a_bucket(buckets, folder):
    data = digits()
    net = jt.networks.lenet(data.shape, data.classes, widths=(12,))
    url = "gs://bucket/a"
    jt.find_tickets(
        net, data, TRAINING, jt.Pruning(levels=1), seeds=(0,), folder=url, progress=False
    )
    path = jt.report(url)
    assert str(path) == f"{url}/report.html"
    text = path.read_text()
    assert "ticket-level-01-seed-*" in text and "Accuracy by density" in text


MEASURE = """
<script>
addEventListener("load", () => parent.postMessage(JSON.stringify({
  width: innerWidth, scroll: document.documentElement.scrollWidth,
  images: [...document.images].map(i => [i.naturalWidth, i.naturalHeight, i.clientWidth]),
  outside: performance.getEntriesByType("resource").map(e => e.name)
    .filter(name => !name.startsWith("data:")),
}), "*"));
</script>
</body>
"""
# windows are 500 pixels wide at least, and frames are as wide as they are made
FRAME = """
<!DOCTYPE html><body><script>
addEventListener("message", e => document.body.setAttribute("data-found", e.data));
</script><iframe src="page.html" style="width: {}px; height: 900px; border: 0"></iframe></body>
"""


def browser(*arguments, profile):
    """What headless Chromium writes."""
    assert CHROMIUM is not None, "install chromium: apt-get install -y chromium"
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
               f"--user-data-dir={profile}", *arguments]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


needs_browser = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed"
)


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_every_figure_and_nothing_is_too_wide(pages, folder, tmp_path, width):
    outer = tmp_path / "frame.html"
    outer.write_text(FRAME.format(width))
    for kind in KINDS:
        page = (folder / kind / "report.html").read_text(encoding="utf-8")
        (tmp_path / "page.html").write_text(page.replace("</body>", MEASURE), encoding="utf-8")
        out = browser(
            "--dump-dom", "--window-size=1400,1000", "--virtual-time-budget=10000",
            f"file://{outer}", profile=tmp_path / "profile",
        )  # fmt: skip
        attribute = re.search(r'data-found="([^"]*)"', out)
        assert attribute is not None, kind
        found = json.loads(html.unescape(attribute[1]))
        # a scroll bar takes some of it
        assert width - 20 <= found["width"] <= width
        assert found["scroll"] <= found["width"], kind
        assert len(found["images"]) == pages[kind].tags.count("img")
        for wide, high, shown in found["images"]:
            assert wide > 0 and high > 0 and 300 < shown <= width, kind
        assert not found["outside"]


@needs_browser
def test_a_page_is_dark_where_its_reader_wants_it(pages, folder, tmp_path):
    from PIL import Image

    corners = []
    for scheme in (1, 0):
        out = tmp_path / f"{scheme}.png"
        browser(
            f"--screenshot={out}", "--window-size=1280,900",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"file://{folder / 'find_tickets' / 'report.html'}", profile=tmp_path / "profile",
        )  # fmt: skip
        with Image.open(out) as image:
            corners.append(image.convert("L").getpixel((5, 5)))
    assert corners[0] > 240 and corners[1] < 40


def test_the_template_is_beside_the_module():
    """Where a wheel puts it; .ci/run looks into the wheel."""
    assert Path(rendering.__file__).with_name("page.html").is_file()
