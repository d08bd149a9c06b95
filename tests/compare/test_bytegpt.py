from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from stepwell.compare import bytegpt
from stepwell.compare.bytegpt import CONTEXT, SEQUENCES, ByteGPT
from stepwell.compare.task import TaskError


@pytest.fixture(scope="module")
def task():
    return bytegpt.task(0)


def test_the_model_has_about_a_million_weights():
    # Embedding and head: 256 × 128 each. A block: 4 × 128² + 2 × 4 × 128², and two norms. One norm at the end.
    expected = 2 * 256 * 128 + 5 * (12 * 128**2 + 2 * 128) + 128
    assert sum(parameter.numel() for parameter in ByteGPT().parameters()) == expected == 1_049_984


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("embedding.weight", 1.0),
        ("blocks.0.query.weight", 128**-0.5),
        ("blocks.3.expand.weight", 128**-0.5),
        ("blocks.0.mix.weight", (128 * 10) ** -0.5),
        ("blocks.4.contract.weight", (512 * 10) ** -0.5),
        ("head.weight", 128**-0.5),
    ],
)
def test_initialisation_is_width_aware(name, deviation):
    torch.manual_seed(0)
    weights = ByteGPT().get_parameter(name)
    # The estimate from n weights has a relative error of about 1/√(2n); six of these are allowed.
    assert weights.std().item() == pytest.approx(deviation, rel=6 / math.sqrt(2 * weights.numel()))
    assert abs(weights.mean().item()) < 6 * deviation / math.sqrt(weights.numel())


def test_a_byte_is_predicted_from_the_bytes_before_it():
    torch.manual_seed(0)
    model = ByteGPT(width=16, layers=2, heads=2, context=8)
    text = torch.randint(256, (1, 8))
    changed = text.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 256
    before, after = model(text), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5], after[:, 5])


def test_attention_depends_on_the_distance_alone():
    cosine, sine = bytegpt.rotary_angles(8, 16)
    torch.manual_seed(0)
    query, key = torch.randn(8).expand(16, 8), torch.randn(8).expand(16, 8)
    scores = bytegpt.rotate(query, cosine, sine) @ bytegpt.rotate(key, cosine, sine).T
    for distance in (0, 1, 5):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-4)
    assert scores[0, 0].item() == pytest.approx((query[0] @ key[0]).item(), rel=1e-5)


def test_a_batch_follows_from_seed_and_step(task):
    again = bytegpt.task(0)
    assert task.batch(3).shape == (SEQUENCES, CONTEXT + 1)
    assert torch.equal(task.batch(3), again.batch(3))
    assert not torch.equal(task.batch(3), task.batch(4))
    assert not torch.equal(task.batch(3), bytegpt.task(1).batch(3))


def test_the_first_loss_is_that_of_a_guess(task):
    # Logits of variance 1 cost half a nat more than the uniform guess, ln 256 = 5.55.
    torch.manual_seed(0)
    with torch.no_grad():
        loss = task.loss(ByteGPT(), torch.randint(256, (32, CONTEXT + 1)))
    assert loss.item() == pytest.approx(math.log(256) + 0.5, abs=0.05)


def corpus(folder: Path, count: int) -> None:
    for index in range(count):
        (folder / f"module_{index}.py").write_bytes(b"%03d" % index * 4_000)


def test_files_are_held_out_whole(tmp_path):
    corpus(tmp_path, 200)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_module.py").write_bytes(b"999" * 9_000)
    (tmp_path / "notes.txt").write_bytes(b"888")
    train, held_out = (bytes(part.tolist()) for part in bytegpt.read_corpus(tmp_path))
    in_train = {int(part[:3]) for part in train.split(b"\n")}
    in_validation = {int(part[:3]) for part in held_out.split(b"\n")}
    assert in_train | in_validation == set(range(200))
    assert not in_train & in_validation
    assert 2 <= len(in_validation) <= 30


def test_the_order_of_files_is_that_of_their_names(tmp_path):
    for name in ("b.py", "a.py", "sub/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [name for name, _ in bytegpt.python_files(tmp_path)] == ["a.py", "b.py", "sub/c.py"]


def test_too_little_text(tmp_path):
    corpus(tmp_path, 2)
    with pytest.raises(TaskError) as caught:
        bytegpt.read_corpus(tmp_path)
    found = 2 * 12_000 + len(b"\n" if not bytegpt.is_held_out("module_0.py") else b"")
    assert str(caught.value) == (
        f"task 'bytegpt' needs at least 1,000,000 bytes of Python source in {tmp_path}, found {found:,}; "
        "give a task of your own with --task module:function"
    )


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    with pytest.raises(TaskError) as caught:
        bytegpt.read_corpus(tmp_path)
    assert str(caught.value) == f"task 'bytegpt' cannot read {tmp_path / 'gone.py'}: No such file or directory"
