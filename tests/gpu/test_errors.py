"""What goes wrong on a GPU alone: one line that says what to do, or the work done in another way, and that said."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from common import card, present

import rsicrc
from rsicrc import BackendError, Engine, RsicrcError
from rsicrc.backends.tensorrt import library, plans
from rsicrc.backends.tensorrt.profiles import Profile
from rsicrc.manifest import EXACT, Manifest
from tests.gpu.conftest import DEVICE, MOST, Open, Pairs

pytestmark = pytest.mark.gpu

LEFT = 32 << 20  # bytes; the first convolution of 64 pairs needs more


@pytest.fixture
def copied(open_engine: Open, tmp_path: Path) -> Path:
    """A copy of the folder, with the plans of float32 for this GPU."""
    engine = open_engine(present.TENSORRT if card.is_card(DEVICE) else present.ONNX_RUNTIME, EXACT)
    if not card.is_card(DEVICE):
        pytest.skip("plans are for GPUs")
    warm(engine)
    return shutil.copytree(engine.folder, tmp_path / "model")


def warm(engine: Engine) -> None:
    engine.embed_texts(["the road"])


def opened(folder: Path) -> Engine:
    return rsicrc.load(folder, DEVICE, backend=present.TENSORRT)


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text.strip()
    return text


def test_plans_of_another_device_are_built_again_and_said(
    copied: Path, pairs: Pairs, caplog: pytest.LogCaptureFixture
) -> None:
    index = copied / "engines" / "engines.json"
    document = json.loads(index.read_text())
    for plan in document["engines"]:
        plan.update(device="NVIDIA Other 1.0", compute_capabilities=[])
    index.write_text(json.dumps(document))
    there = card.describe(DEVICE)
    device = f"{there.name} {there.capability[0]}.{there.capability[1]}"
    with pytest.raises(BackendError, match=r"NVIDIA Other 1\.0, not ") as caught:
        plans.find_plan(copied, Manifest.load(copied), "decoder", library.open_library(), device)
    one_line(caught.value)
    with caplog.at_level(logging.INFO, logger="rsicrc"):
        captions = opened(copied).caption(pairs[:2], beams=1)
    assert len(captions) == 2
    assert "building a plan" in caplog.text


def test_a_changed_plan_is_refused(copied: Path, pairs: Pairs) -> None:
    for plan in (copied / "engines").glob("*.plan"):
        content = bytearray(plan.read_bytes())
        content[len(content) // 2] ^= 1
        plan.write_bytes(content)
    with pytest.raises(RsicrcError, match="changed since it was built") as caught:
        opened(copied).caption(pairs[:2], beams=1)
    one_line(caught.value)


def test_a_batch_outside_the_profile(copied: Path, pairs: Pairs) -> None:
    shutil.rmtree(copied / "engines")
    there = card.describe(DEVICE)
    device = f"{there.name} {there.capability[0]}.{there.capability[1]}"
    profile = Profile((1, 2, 2), (1, 1, 1))
    plans.ensure_plans(copied, Manifest.load(copied), library.open_library(), device, profile)
    engine = opened(copied)
    assert len(engine.caption(pairs[:2], beams=1, batch_size=2)) == 2
    with pytest.raises(RsicrcError, match="profile") as caught:
        engine.embed_images(pairs[:4], batch_size=4)
    one_line(caught.value)
    with pytest.raises(RsicrcError, match="profile") as caught:
        engine.caption(pairs[:2], beams=3, batch_size=2)
    one_line(caught.value)
    assert len(engine.caption(pairs[:2], beams=1, batch_size=2)) == 2


def test_a_full_device(open_engine: Open, backend: str, pairs: Pairs, caplog: pytest.LogCaptureFixture) -> None:
    """The batch is halved once, with a line, or there is one clear error; and all is well when there is room again."""
    there = open_engine(backend, EXACT)
    if not card.is_card(DEVICE):
        pytest.skip("this is about a GPU's memory")
    told = [caption.text for caption in there.caption(pairs, beams=5, batch_size=MOST)]
    engine = rsicrc.load(there.folder, DEVICE, backend=backend)
    engine.caption(pairs[:1], beams=5, batch_size=1)
    with caplog.at_level(logging.INFO, logger="rsicrc"), card.filled(DEVICE, LEFT):
        try:
            said = [caption.text for caption in engine.caption(pairs, beams=5, batch_size=MOST)]
            complaint = None
        except BackendError as error:
            said, complaint = told, one_line(error)
    assert said == told
    assert complaint is None or "memory" in complaint
    halvings = [record for record in caplog.records if "halv" in record.getMessage() or "half" in record.getMessage()]
    assert len(halvings) <= 1
    assert [caption.text for caption in engine.caption(pairs, beams=5, batch_size=MOST)] == told


def test_a_device_that_is_not_there(open_engine: Open, backend: str) -> None:
    folder = open_engine(backend, EXACT).folder
    reason = "cuda:99" if card.is_card(DEVICE) else "no NVIDIA driver|on the CPU alone"
    with pytest.raises(BackendError, match=reason) as caught:
        rsicrc.load(folder, "cuda:99", backend=backend).embed_texts(["the road"])
    one_line(caught.value)
