"""Who teaches and who learns: teachers from files, shrunk students, pairs of layers, inputs without data."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
import onnx  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from support.lessons import context, digits_data, digits_teacher, lowered_teacher  # noqa: E402
from torch import nn  # noqa: E402

from compressctl.core.errors import NothingToCompressError, UsageError  # noqa: E402
from compressctl.core.events import Events  # noqa: E402
from compressctl.layers.channels.dependency_groups import Group  # noqa: E402
from compressctl.sources import networks  # noqa: E402
from compressctl.techniques.distill._generated import generate  # noqa: E402
from compressctl.techniques.distill._layers import listening, pair_layers  # noqa: E402
from compressctl.techniques.distill._noise import noises  # noqa: E402
from compressctl.techniques.distill._student import (  # noqa: E402
    kept_units,
    make_student,
    shrink,
)
from compressctl.techniques.distill._synthetic import drawing  # noqa: E402
from compressctl.techniques.distill.params import LayerPair, Student  # noqa: E402
from compressctl.training.supervision.load_teacher import check_outputs, load_teacher  # noqa: E402
from compressctl.training.supervision.params import Network  # noqa: E402
from compressctl.training.supervision.teacher import CachedTeacher, TorchTeacher  # noqa: E402

IMAGES = torch.as_tensor(next(iter(digits_data().split("train").batches(1000))).inputs["input"])


def test_an_onnx_teacher_gives_what_the_torch_network_gives(tmp_path: Path) -> None:
    model = digits_teacher()
    onnx.save(lowered_teacher().body, tmp_path / "teacher.onnx")
    run, _ = context(tmp_path, model)
    teacher = load_teacher("teacher.onnx", model.signature, run)
    with torch.no_grad():
        expected = model.body(IMAGES[:50])
    assert torch.allclose(teacher((IMAGES[:50],)), expected, atol=1e-5)


def test_an_onnx_teacher_with_a_fixed_batch_serves_any_batch(tmp_path: Path) -> None:
    model = digits_teacher()
    proto = lowered_teacher().body
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(proto, tmp_path / "fixed.onnx")
    run, _ = context(tmp_path, model)
    with torch.no_grad():
        expected = model.body(IMAGES[:11])
    assert torch.allclose(load_teacher("fixed.onnx", model.signature, run)((IMAGES[:11],)), expected, atol=1e-5)


def test_other_weights_for_the_same_network_teach(tmp_path: Path) -> None:
    model, other = digits_teacher(), digits_teacher().body
    nn.init.constant_(other.classifier.bias, 5.0)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    run, _ = context(tmp_path, model)
    teacher = load_teacher("other.safetensors", model.signature, run)
    with torch.no_grad():
        assert torch.allclose(teacher((IMAGES[:5],)), other(IMAGES[:5]), atol=1e-5)


def test_a_teacher_from_a_factory_is_told_apart_by_what_it_takes(tmp_path: Path) -> None:
    model = digits_teacher()
    run, _ = context(tmp_path, model)
    teacher = load_teacher(Network(factory="small.py:small"), model.signature, run)
    assert teacher((IMAGES[:5],)).shape == (5, 10)
    (tmp_path / "flat.py").write_text("from torch import nn\ndef flat():\n    return nn.Linear(3, 10)\n")
    with pytest.raises(UsageError, match="does not run on input"):
        load_teacher(Network(factory="flat.py:flat"), model.signature, run)


def test_another_number_of_classes_is_an_error_that_says_so(tmp_path: Path) -> None:
    model = digits_teacher()
    run, _ = context(tmp_path, model)
    teacher = load_teacher("original", model.signature, run)
    student = make_student(model, Student(factory="small.py:small", args={"classes": 7}), teacher, run).model
    with pytest.raises(UsageError, match="the teacher gives 10 classes and the student 7 classes"):
        check_outputs(teacher.model, student)


def test_a_remembered_answer_is_the_one_that_was_given() -> None:
    asked: list[int] = []

    class Counting(TorchTeacher):
        def outputs(self, inputs):
            asked.append(len(inputs[0]))
            return super().outputs(inputs)

    teacher = CachedTeacher(Counting(digits_teacher()), 10**6)
    names = torch.arange(100, 110)
    first = teacher((IMAGES[:10],), names)
    order = torch.randperm(10)
    again = teacher((IMAGES[order],), names[order])
    assert torch.equal(again, first[order])
    assert asked == [10]
    teacher((IMAGES[:10],), None)
    assert asked == [10, 10]


@given(st.integers(1, 2000), st.floats(0.01, 0.99))
def test_rounded_widths_are_multiples_that_never_grow(width: int, share: float) -> None:
    kept = kept_units(Group("layer", width, width, (), ("layer",), ""), share)
    assert 1 <= kept <= width
    assert kept == width or kept % 4 == 0
    assert kept == width or kept < 32 or kept % 8 == 0
    assert kept == width or abs(kept - width * share) <= 4


@pytest.mark.parametrize("name", ["digits_resnet", "digits_depthwise"])
def test_half_the_channels_are_a_quarter_of_the_weights(name: str) -> None:
    network = getattr(networks, name)()
    before = sum(parameter.numel() for parameter in network.parameters())
    shrunk = shrink(network, (IMAGES[:2],), 0.5)
    after = sum(parameter.numel() for parameter in shrunk.network.parameters())
    assert 0.2 < after / before < 0.32
    assert shrunk.network(IMAGES[:3]).shape == (3, 10)
    assert list(shrunk.whole) == ["classifier"]
    for layer in shrunk.network.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.out_channels % 4 == 0


def test_the_channels_that_are_kept_are_the_large_ones() -> None:
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        network[0].weight.mul_(torch.arange(1, 17)[:, None] / 4)
        network[0].bias.zero_()
        network[2].weight.fill_(0.1)
        network[0].weight.div_(network[0].weight.norm(dim=1, keepdim=True)).mul_(torch.arange(1, 17)[:, None])
    large = network[0].weight[8:].detach().clone()
    shrunk = shrink(network, (torch.zeros(2, 6),), 0.5)
    assert torch.equal(shrunk.network[0].weight, large)
    assert shrunk.widths == {"0": "16 -> 8"}


def test_shortcuts_that_are_padded_with_zeros_shrink_too() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "models"))
    try:
        from resnet_cifar import resnet20
    finally:
        sys.path.pop(0)
    images = torch.randn(2, 3, 32, 32)
    shrunk = shrink(resnet20(), (images,), 0.5)
    assert shrunk.network(images).shape == (2, 10)
    assert shrunk.widths["layer1.0.conv1"] == "16 -> 8"
    assert shrunk.network.layer1[0].conv2.out_channels == 8
    assert list(shrunk.whole) == ["linear"]


def test_layers_whose_channels_are_mixed_in_between_keep_their_width() -> None:
    """The trace takes the flip for an operation on each channel; the student would have read the wrong ones."""

    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.second(torch.relu(self.first(x)).flip(1))))

    shrunk = shrink(Flipped(), (torch.randn(2, 6),), 0.5)
    assert shrunk.widths == {"second": "16 -> 8"}
    assert "mixes or moves channels" in shrunk.whole["first"]


def test_a_network_without_inner_channels_is_refused() -> None:
    with pytest.raises(NothingToCompressError, match="no layer of the teacher can lose channels"):
        shrink(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (IMAGES[:2],), 0.5)


def test_shrunk_students_start_from_the_teacher_or_from_scratch(tmp_path: Path) -> None:
    model = digits_teacher()
    run, _ = context(tmp_path, model)
    teacher = load_teacher("original", model.signature, run)
    made = {
        init: make_student(model, Student(width_multiplier=0.5, init=init), teacher, run).model.body
        for init in ("pruned", "random")
    }
    again = make_student(model, Student(width_multiplier=0.5, init="random"), teacher, run).model.body
    known = teacher.network.stem.conv.weight
    kept = {
        init: [(row == known).flatten(1).all(1).any() for row in body.stem.conv.weight] for init, body in made.items()
    }
    assert all(kept["pruned"])
    assert not any(kept["random"])
    assert torch.equal(again.stem.conv.weight, made["random"].stem.conv.weight)
    assert all(parameter.requires_grad for parameter in made["pruned"].parameters())
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_layers_pair_by_resolution_where_none_are_named() -> None:
    teacher, student = networks.digits_resnet(), networks.digits_depthwise()
    found = pair_layers((), teacher, student, (IMAGES[:2],))
    assert [(pair.teacher, pair.student) for pair in found] == [
        ("block2", "block1"),
        ("block3", "block3"),
        ("block4", "head"),
    ]
    assert found[0].teacher_shape == (2, 32, 8, 8)
    assert found[0].student_shape == (2, 24, 8, 8)


def test_a_star_stands_for_one_part_of_a_path() -> None:
    network = networks.digits_resnet()
    found = pair_layers([LayerPair(teacher="block*", student="block*")], network, network, (IMAGES[:2],))
    assert [pair.teacher for pair in found] == ["block1", "block2", "block3", "block4"]
    found = pair_layers(
        [LayerPair(teacher="block1.body.*.conv", student="block2.body.*.conv")], network, network, (IMAGES[:2],)
    )
    assert [(pair.teacher, pair.student) for pair in found] == [
        ("block1.body.0.conv", "block2.body.0.conv"),
        ("block1.body.1.conv", "block2.body.1.conv"),
    ]


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ("blok2", "block2", r"the teacher has no layer 'blok2'\n   did you mean block"),
        ("block2", "zzz", r"the student has no layer 'zzz'\n   its outermost layers are stem, block1"),
        ("block*", "block1", r"matches 4 layers of the teacher .* and 'block1' 1 of the student"),
    ],
)
def test_layers_that_are_not_there_are_errors_with_the_nearest_name(teacher: str, student: str, message: str) -> None:
    network = networks.digits_resnet()
    with pytest.raises(UsageError, match=message):
        pair_layers([LayerPair(teacher=teacher, student=student)], network, network, (IMAGES[:2],))


def test_listening_leaves_nothing_on_the_network() -> None:
    network = networks.digits_resnet().eval()
    with listening(network, ["block1"]) as heard:
        network(IMAGES[:2])
    assert heard["block1"].shape == (2, 32, 8, 8)
    assert all(not module._forward_hooks for module in network.modules())


def test_noise_has_the_statistics_of_the_data_that_the_first_batchnorm_saw() -> None:
    """The digits' own mean and deviation are not told, only what the teacher's first layer remembers of them."""
    model = digits_teacher()
    noise = noises(model.signature, model.body)[0]
    drawn = noise.draw(500, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(float(IMAGES.mean()), abs=0.05)
    assert drawn.std() == pytest.approx(float(IMAGES.std()), abs=0.06)
    heard: list[torch.Tensor] = []
    handle = model.body.stem.norm.register_forward_pre_hook(lambda module, given: heard.append(given[0]))
    model.body(torch.as_tensor(drawn))
    handle.remove()
    norm, standard = model.body.stem.norm, torch.randn(500, 1, 8, 8)
    spread = heard[0].var(dim=(0, 2, 3)) / norm.running_var
    other = model.body.stem.conv(standard).var(dim=(0, 2, 3)) / norm.running_var
    assert (spread.log().abs().mean() < 0.3 * other.log().abs().mean()).item()


def test_noise_is_standard_normal_where_nothing_is_known() -> None:
    model = digits_teacher()
    noise = noises(model.signature, None)[0]
    drawn = noise.draw(2000, np.random.default_rng(0))
    assert noise.source == "standard normal"
    assert drawn.mean() == pytest.approx(0, abs=0.02)
    assert drawn.std() == pytest.approx(1, abs=0.02)
    beside = np.corrcoef(drawn[:, 0, :, :-1].ravel(), drawn[:, 0, :, 1:].ravel())[0, 1]
    assert beside > 0.3  # neighbours are alike, as in images


def test_noise_is_decided_by_the_seed_and_the_samples() -> None:
    model = digits_teacher()
    draw = drawing(noises(model.signature, None), model.signature, 3)
    first, again, other = draw(np.arange(4)), draw(np.arange(4)), draw(np.arange(4)[::-1])
    assert np.array_equal(first["input"], again["input"])
    assert not np.array_equal(first["input"], other["input"])


def test_tokens_cannot_be_drawn() -> None:
    model = digits_teacher()
    tokens = replace(model.signature, inputs=(replace(model.signature.inputs[0], dtype="int64"),))
    with pytest.raises(UsageError, match="takes int64"):
        noises(tokens, None)


def test_generated_inputs_are_nearer_to_the_data_than_their_start() -> None:
    network = digits_teacher().body.requires_grad_(False)
    start = noises(digits_teacher().signature, network)[0].draw(64, np.random.default_rng(0))
    made = generate(network, start, 80, 0, Events(), 10)

    def depth(images: np.ndarray) -> tuple[float, float]:
        """How far the last block's means are from the remembered ones, in deviations, and how sure the network is."""
        norm, heard = network.block4.body[0].norm, []
        handle = norm.register_forward_pre_hook(lambda module, given: heard.append(given[0]))
        with torch.no_grad():
            confident = torch.softmax(network(torch.as_tensor(images)), 1).amax(1).mean()
        handle.remove()
        distance = (heard[0].mean(dim=(0, 2, 3)) - norm.running_mean).abs() / norm.running_var.sqrt()
        return float(distance.mean()), float(confident)

    (before, unsure), (after, sure) = depth(start), depth(made)
    assert after < 0.6 * before
    assert sure > unsure + 0.1


def test_inputs_are_not_generated_for_a_teacher_without_batchnorm() -> None:
    with pytest.raises(UsageError, match="the teacher has none"):
        generate(nn.Linear(3, 2), np.zeros((4, 3), np.float32), 1, 0, Events(), 2)
