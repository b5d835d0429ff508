"""Evaluation of an exported folder: the report compared with metrics computed by hand, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsicrc
from rsicrc.datasets.levir_cc import CaptionedPair, read_levir
from rsicrc.engine import Engine
from rsicrc.errors import ArgumentError, DataError, ImageError
from rsicrc.evaluation.evaluate import EvaluationReport, Prediction, Truth, evaluate
from rsicrc.evaluation.metrics import captioning
from rsicrc.evaluation.metrics.captioning import caption_metrics
from rsicrc.reports.evaluation_page import BEST, WORST, WRONG, select_pairs
from rsicrc.results import Caption, PairFailure
from tests.runtime.conftest import Command, Ended

NO_CHANGE = ("the scene is the same as before", "nothing has changed", "there is no change")
# The first captions, in words of the random model. The third and the fifth caption are equal.
FIRST = [NO_CHANGE[0], "a road is built", "houses are built", NO_CHANGE[1], "houses are built", "trees along the road"]
CHANGED = [text not in NO_CHANGE for text in FIRST]


@pytest.fixture(autouse=True)
def _no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide Java, which takes longer to start than all these tests; METEOR has a test of its own."""
    monkeypatch.setenv("PATH", "")
    captioning.meteor_problem.cache_clear()


@pytest.fixture(scope="module")
def engine(model_folder: Path) -> Engine:
    pytest.importorskip("pycocoevalcap", reason="needs rsicrc[train]")
    engine = rsicrc.load(model_folder)
    assert engine.manifest.no_change_sentences == NO_CHANGE
    return engine


class Progress:
    """A progress callback that counts the steps."""

    steps = 0

    def __call__(self, steps: int = 1, note: str | None = None) -> None:
        self.steps += steps


def write_captions(data: Path, sentences: list[list[str]], changed: list[bool]) -> None:
    images = [
        {
            "filename": f"{number}.png",
            "split": "test",
            "changeflag": int(flag),
            "sentences": [{"tokens": text.split(), "raw": f" {text} ."} for text in texts],
        }
        for number, (texts, flag) in enumerate(zip(sentences, changed, strict=True))
    ]
    (data / "LevirCCcaptions.json").write_text(json.dumps({"images": images}))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder of six pairs in LEVIR-CC's layout, two of them unchanged."""
    generator = np.random.default_rng(5)
    for date in "AB":
        folder = tmp_path / "data" / "images" / "test" / date
        folder.mkdir(parents=True)
        for number in range(len(FIRST)):
            coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((100, 100), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    texts = [list(NO_CHANGE[:2]) if text in NO_CHANGE else [text, f"many {text}"] for text in FIRST]
    write_captions(tmp_path / "data", [[first, *rest] for first, (_, *rest) in zip(FIRST, texts, strict=True)], CHANGED)
    return tmp_path / "data"


@pytest.fixture
def run(model_folder: Path, rsicrc_run: Command) -> Command:
    """Return a function that runs `rsicrc-run evaluate` with the random model, in this process."""
    pytest.importorskip("pycocoevalcap", reason="needs rsicrc[train]")

    def command(*args: str | Path) -> Ended:
        return rsicrc_run("evaluate", *args, "--model", model_folder)

    return command


def test_report_matches_metrics_computed_by_hand(engine: Engine, data: Path) -> None:
    progress = Progress()
    report = evaluate(engine, data, beams=2, advance=progress)
    pairs = read_levir(data, "test")
    paths = [(pair.before, pair.after) for pair in pairs]
    captions = engine.caption(paths, beams=2)

    assert (report.pairs, report.changed, report.failed, report.beams) == (6, 4, 0, 2)
    assert progress.steps == 6
    assert [prediction.result for prediction in report.predictions] == captions
    assert report.notes == ("METEOR was skipped: it needs Java, and there is no `java` on the PATH",)
    for protocol in "published", "period-free":
        every = caption_metrics([each.text for each in captions], [pair.sentences for pair in pairs], protocol)
        assert report.captions["all"][protocol] == every
    rows = [row for row in range(6) if CHANGED[row]]
    changed = caption_metrics([captions[row].text for row in rows], [pairs[row].sentences for row in rows])
    assert report.captions["changed"]["period-free"] == changed

    similarity = engine.embed_texts(FIRST) @ engine.embed_images(paths).T
    same = [{0, 3}, {1}, {2, 4}, {0, 3}, {2, 4}, {5}]
    best = similarity.argmax(axis=1)
    assert report.retrieval["all"]["published"]["P@1"] == pytest.approx(np.mean([best[i] in same[i] for i in range(6)]))
    best = similarity[np.ix_(rows, rows)].argmax(axis=1)
    hits = [rows[best[number]] in same[row] for number, row in enumerate(rows)]
    assert report.retrieval["changed"]["published"]["P@1"] == pytest.approx(np.mean(hits))
    own = [(row, sentence) for row in rows for sentence in pairs[row].sentences]
    similarity = engine.embed_texts([sentence for _, sentence in own]) @ engine.embed_images(paths).T
    found = [similarity[number].argmax() == row for number, (row, _) in enumerate(own)]
    assert report.retrieval["all"]["strict"]["R@1"] == pytest.approx(np.mean(found))

    scores = np.array([each.change_score for each in captions])
    assert report.change["change_score"]["accuracy"] == np.mean((scores >= 0.5) == CHANGED)
    assert report.change["change_score"]["Brier"] == pytest.approx(np.mean((scores - CHANGED) ** 2))
    decided = [each.text not in NO_CHANGE for each in captions]
    assert report.change["caption"]["accuracy"] == np.mean(np.array(decided) == CHANGED)


def test_model_is_perfect_on_its_own_captions(engine: Engine, data: Path) -> None:
    pairs = read_levir(data, "test")
    own = [each.text for each in engine.caption([(pair.before, pair.after) for pair in pairs])]
    write_captions(data, [[text, "the road"] for text in own], [text not in NO_CHANGE for text in own])
    headline = evaluate(engine, data).headline()
    assert headline["BLEU-4, changed pairs, period-free"] == pytest.approx(1.0)
    assert headline["change/no-change accuracy, by caption"] == 1.0
    assert list(headline) == [
        "change/no-change accuracy, by caption",
        "change/no-change accuracy, by change_score",
        "BLEU-4, changed pairs, period-free",
        "CIDEr, changed pairs, period-free",
        "P@1 text to pair, changed pairs, published",
    ]


def test_masks_and_scenes_enter_the_report(engine: Engine, data: Path) -> None:
    masks = data / "masks"
    masks.mkdir()
    for number, share in enumerate((0.0, 0.5, 0.005, 0.0, 0.2, 0.3)):
        pixels = np.zeros((100, 100), np.uint8)
        pixels.flat[: round(share * pixels.size)] = 255
        Image.fromarray(pixels).save(masks / f"{number}.png")
    report = evaluate(engine, data, truth=Truth(masks, re.compile("[0-9]")))
    scores = np.array([each.result.change_score for each in report.predictions if isinstance(each.result, Caption)])
    assert set(report.separation) == {"flag", "mask"}
    mask = report.separation["mask"]
    pairs = [(scores[changed], scores[unchanged]) for changed in (1, 4, 5) for unchanged in (0, 3)]  # 2 is unclear
    expected = np.mean([0.5 * (one == other) + (one > other) for one, other in pairs])
    assert mask["model"]["AUC"] == pytest.approx(expected)
    assert mask["difference"]["AUC"] == pytest.approx(mask["model"]["AUC"] - mask["baseline"]["AUC"])
    assert mask["model"]["low"] <= mask["model"]["AUC"] <= mask["model"]["high"]
    assert 0 <= report.separation["flag"]["baseline"]["AUC"] <= 1
    with pytest.raises(DataError, match=r"0\.png does not match the scene 'test_'"):
        evaluate(engine, data, truth=Truth(scene=re.compile("test_")))
    (masks / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png: no such file.*A mask has the name of the after image"):
        evaluate(engine, data, truth=Truth(masks))


def test_captions_are_compared_with_the_best_fixed_sentence(engine: Engine, data: Path) -> None:
    report = evaluate(engine, data)
    model, (name, fixed) = report.fixed["model"], list(report.fixed.items())[1]
    assert name in {f'always "{text}"' for text in ("houses are built", "many houses are built")}
    assert fixed["distinct captions"] == 1
    assert model["CIDEr"] == report.captions["changed"]["period-free"]["CIDEr"]
    assert fixed["CIDEr"] > 0


def test_metrics_of_changed_pairs_are_absent_without_any(engine: Engine, data: Path) -> None:
    report = evaluate(engine, data, limit=1)
    assert (report.pairs, report.changed, report.beams) == (1, 0, engine.manifest.search.beams)
    assert list(report.captions) == ["all"]
    assert list(report.retrieval) == ["all"]
    assert list(report.retrieval["all"]) == ["published"]
    assert report.notes[-1] == "no changed pairs: metrics of changed pairs and strict retrieval are absent"
    assert len(report.headline()) == 2


def test_unknown_words_are_counted_in_one_note(engine: Engine, data: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_captions(data, [["a villa"], [f"{'the ' * 12}road", "a road"], ["a road"]], [True, True, False])
    assert evaluate(engine, data).notes[-1] == "2 of 3 queries are too long or hold words that the model does not know"
    assert not caplog.records


def test_damaged_pair_is_left_out(engine: Engine, data: Path) -> None:
    (data / "images" / "test" / "B" / "1.png").write_bytes(b"")
    progress = Progress()
    report = evaluate(engine, data, advance=progress)
    assert (report.pairs, report.changed, report.failed, progress.steps) == (5, 3, 1, 6)
    assert report.notes[-1] == "1 of 6 pairs could not be read and are left out"
    assert "the file is empty" in report.predictions[1].to_dict()["error"]


def test_wrong_arguments_are_refused(engine: Engine, data: Path) -> None:
    with pytest.raises(ArgumentError, match="limit must be at least 1"):
        evaluate(engine, data, limit=0)
    with pytest.raises(DataError, match="no pairs in the split 'val'"):
        evaluate(engine, data, "val")
    for path in (data / "images" / "test" / "A").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 6 pairs could be read; the first: .*0\.png: no such file"):
        evaluate(engine, data)
    write_captions(data, [["a road"], []], [True, True])
    with pytest.raises(DataError, match=r"1\.png: no sentence"):
        evaluate(engine, data)


def test_evaluate_command_prints_tables(run: Command, data: Path) -> None:
    ended = run(data, "--beams", "1")
    lines = ended.out.splitlines()
    assert ended.code == 0
    assert ended.err.splitlines()[1].startswith("note: METEOR was skipped")
    assert lines[0] == f"{data}, test: 6 pairs, 4 of them changed; 1 beams"
    assert lines[2] == "Headline metrics"
    assert [line.rsplit(maxsplit=1)[0].strip() for line in lines[3:8]][2] == "BLEU-4, changed pairs, period-free"
    titles = ["Captions", "Retrieval, published", "Retrieval, strict", "Change or not", "Captions of changed"]
    assert [title for title in titles if any(line.startswith(title) for line in lines)] == titles


def test_evaluate_command_prints_json(run: Command, engine: Engine, data: Path) -> None:
    output = data.parent / "predictions.jsonl"
    ended = run(data, "--json", "--limit", "5", "-o", output)
    document = json.loads(ended.out)
    assert ended.code == 0
    assert (document["data"], document["split"], len(document["model"])) == (str(data), "test", 12)
    report = evaluate(engine, data, limit=5)
    assert {name: document[name] for name in report.to_dict()} == json.loads(json.dumps(report.to_dict()))
    assert list(document["headline"]) == list(report.headline())
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert written == [prediction.to_dict() for prediction in report.predictions]
    assert [path.name for path in data.parent.iterdir() if path.is_file()] == ["predictions.jsonl"]


def test_evaluate_command_reports_a_damaged_pair(run: Command, data: Path) -> None:
    (data / "images" / "test" / "A" / "0.png").unlink()
    output = data.parent / "predictions.jsonl"
    ended = run(data, "-o", output)
    assert ended.code == 1
    assert "note: 1 of 6 pairs could not be read" in ended.err
    assert ["error" in json.loads(line) for line in output.read_text().splitlines()] == [True, *[False] * 5]


def test_evaluate_command_refuses_wrong_arguments(run: Command, data: Path) -> None:
    assert run(data / "nowhere").code == 1
    ended = run(data, "--scene", "(")
    assert (ended.code, ended.out) == (2, "")
    assert "--scene '(' is not a regular expression" in ended.err
    assert run(data, "--limit", "0").code == 2
    ended = run(data, "-o", data / "nowhere" / "predictions.jsonl")
    assert (ended.code, ended.out) == (1, "")
    assert "No such file or directory" in ended.err


def test_evaluation_page_selects_best_worst_and_wrong_pairs() -> None:
    pytest.importorskip("pycocoevalcap", reason="needs rsicrc[train]")

    def predict(text: str, change: float, score: float, references: tuple[str, ...]) -> Prediction:
        pair = CaptionedPair(Path("a.png"), Path(f"{text}.png"), references, changed=references[0] not in NO_CHANGE)
        return Prediction(pair, Caption(text, score, (), (), change))

    predictions = (
        predict("a road is built", 0.9, -1.0, ("a road is built", "there is a road")),
        predict("trees along the road", 0.7, -3.0, ("houses are built",)),
        predict("many trees", 0.6, -2.0, ("a pond appears",)),
        predict(NO_CHANGE[0], 0.2, -1.0, (NO_CHANGE[0],)),
        predict("a pond", 0.95, -1.0, (NO_CHANGE[1],)),
        predict(NO_CHANGE[2], 0.1, -1.0, ("a house appears",)),
        Prediction(
            CaptionedPair(Path("a"), Path("b"), ("a road",), changed=True), PairFailure(6, ImageError("broken"))
        ),
    )
    report = EvaluationReport(6, 4, 1, {}, {}, {}, (), predictions)
    chosen = select_pairs(report, 2)
    names = {section: [row["id"] for row in rows] for section, rows in chosen.items()}
    assert names == {
        BEST: ["a road is built.png", "trees along the road.png"],
        WORST: [f"{NO_CHANGE[2]}.png", "many trees.png"],
        WRONG: ["a pond.png", f"{NO_CHANGE[2]}.png"],
    }
    assert chosen[BEST][0]["cider"] > 1 > chosen[WORST][0]["cider"]
    assert chosen[WORST][0]["references:"] == "a house appears"
    assert [len(rows) for rows in select_pairs(report, 8).values()] == [2, 2, 2]


def test_evaluate_command_writes_the_page(run: Command, data: Path) -> None:
    page = data.parent / "page.html"
    assert run(data, "--html", page).code == 0
    content = page.read_text()
    assert content.startswith("<!doctype html>")
    assert content.count("data:image/jpeg;base64,") >= 3 * 4
    for text in (BEST, WORST, "6 pairs, 4 of them changed", "references:", "CIDEr"):
        assert text in content
    ended = run(data, "--html", data / "nowhere" / "page.html")
    assert (ended.code, ended.out) == (1, "")
