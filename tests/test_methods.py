"""The contract that every file in methods/ keeps, and who moves by which term."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import make_batch, make_method, step, teacher_of
from torch import Tensor

from celladapt import checkpoint, methods
from celladapt.batch import Batch
from celladapt.config import Config, MethodSpec
from celladapt.errors import InputError
from celladapt.losses import Domain, domain_loss
from celladapt.methods.weakssda import WeakSSDA
from celladapt.methods.weakuda import WeakUDA
from celladapt.step import mask_cross_entropy, take_step
from celladapt.train import make_optimizers


def in_full(name: str) -> str:
    """The method with the terms that its options leave out unless asked."""
    return ":".join([name, *(f"{option.name}=1" for option in fields(methods.find(name).Options) if option.default == 0)])


FULL = [in_full(name) for name in methods.names()]
ALL = [*sorted({*FULL, *methods.names()}), "cellseguda:lambda_rec=0", "nuseguda:lambda_rec=0"]


def half_silent(batch: Batch) -> Batch:
    """In the first half of the images the classical segmentation is not plausible, so that all of WeakUDA is at work."""
    images = len(batch.image_t)
    return replace(batch, plausible_t=torch.arange(images) >= images // 2)


def weights(method: methods.Method) -> dict[str, torch.Tensor]:
    return {name: torch.cat([p.detach().flatten() for p in network.parameters()]) for name, network in method.networks.items()}


@pytest.mark.parametrize("name", ALL)
def test_contract(name: str, tmp_path: Path) -> None:
    method = make_method(name)
    labelled = (True, False, True)
    moved_in_turns = [moved for turn in method.turns for moved in turn.moves]
    assert moved_in_turns.count("S") == 1, "S's graph serves one turn"
    assert set(moved_in_turns) == set(method.networks), "a network that no turn moves is dead weight"
    before = weights(method)
    values = step(method, *(half_silent(make_batch(seed=seed, labelled=labelled)) for seed in range(3)))
    assert set(values[-1]) <= set(method.equations), "every term that is logged is explained"
    assert name not in FULL or set(values[-1]) == set(method.equations), "every term that is explained is logged"
    assert all(math.isfinite(value) for value in values[-1].values())
    after = weights(method)
    assert all(not torch.equal(before[network], after[network]) for network in before)

    file = tmp_path / "state.safetensors"
    checkpoint.save_training(file, method.networks, make_optimizers(method, Config()), {"step": 3})
    other = make_method(name, seed=1)
    checkpoint.load_training(file, other.networks, make_optimizers(other, Config()))
    image = torch.randn(1, 3, 37, 51)
    assert torch.equal(method.networks["S"].eval()(image), other.networks["S"].eval()(image))


@pytest.mark.parametrize("name", ALL)
def test_finite_in_bf16(name: str) -> None:
    method = make_method(name)
    optimizers = make_optimizers(method, Config())
    values = take_step(
        method, half_silent(make_batch(labelled=(True,))), optimizers, lambda: torch.autocast("cpu", torch.bfloat16), teacher_of(method), 1.0
    )
    assert all(math.isfinite(value) for value in values.values())


UDA = {"dis_source": {"D"}, "dis_target": {"D"}, "r1": {"D"}, "seg": {"S"}, "adv": {"S"}, "rec": {"S", "R"}}
NUSEG = UDA | {
    "feature_s": {"D_feature"}, "feature_t": {"D_feature"}, "image_real": {"D_image"}, "image_drawn": {"D_image"},
    "adv_feature": {"S"}, "adv_image": {"S", "R"}, "translated": {"S", "R"},
}  # fmt: skip

WEAK = {"dis_source": {"D"}, "dis_target": {"D"}, "seg": {"S"}, "adv": {"S"}}

# Which networks a term sends a gradient to, when the loop evaluates its turn.
WHO_MOVES = {
    "source_only": {"seg": {"S"}},
    "weakuda": WEAK,
    "weakssda": WEAK,
    "supervised": {"seg": {"S"}},
    "cellseguda": UDA,
    "cellsegssda": UDA,
    "nuseguda": NUSEG,
    "nusegssda": NUSEG,
    "advent": {"dis_source": {"D"}, "dis_target": {"D"}, "seg": {"S"}, "adv": {"S"}},
    "da_adv": {"dis_mask": {"D"}, "dis_source": {"D"}, "dis_target": {"D"}, "seg": {"S"}, "adv_source": {"S"}, "adv_target": {"S"}},
}


@pytest.mark.parametrize("name", methods.names())
def test_who_moves(name: str) -> None:
    method = make_method(in_full(name))
    batch = make_batch(labelled=(True, False))
    found: dict[str, set[str]] = {}
    for number in range(len(method.turns)):
        for term in list(_terms(method, batch, number)):
            method.networks.zero_grad(set_to_none=True)
            _terms(method, batch, number)[term].value.backward()
            found[term] = {n for n, net in method.networks.items() if any(p.grad is not None and p.grad.any() for p in net.parameters())}
    assert found == WHO_MOVES[name]


def _terms(method: methods.Method, batch: Batch, number: int) -> methods.Terms:
    """A turn's terms, seen as the loop shows them."""
    turn = method.turns[number]
    # So that every term is at work: a teacher that agrees and sees a nucleus, and an image without a plausible classical segmentation.
    agrees = torch.where(batch.labelled_t.view(-1, 1, 1, 1), batch.mask_t, batch.classical_t)
    batch = replace(batch, teacher_t=0.1 + 0.8 * agrees, plausible_t=torch.arange(len(batch.image_t)) < len(batch.image_t) - 1)
    batch.teacher_t[..., 4:16, 4:16] = 0.9
    method.networks.requires_grad_(True)
    (p_s, features_s), (p_t, features_t) = (method.networks["S"](images, features=True) for images in (batch.image_s, batch.image_t))
    batch = replace(batch, features_s=features_s, features_t=features_t)
    for name, network in method.networks.items():
        network.requires_grad_(name in turn.moves)
    return turn.terms(*((batch, p_s, p_t) if "S" in turn.moves else (batch.cut(), p_s.detach(), p_t.detach())))


def test_features_come_from_the_one_run_of_s_and_are_cut_where_it_does_not_move(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = make_method("nuseguda:lambda_translated=0"), make_batch(side=48)
    S, ran, seen = method.networks["S"], [], []
    S.register_forward_pre_hook(lambda _, images: ran.append(images[0]))
    for name in ("discriminator_terms", "segmenter_terms"):
        terms = getattr(method, name)
        monkeypatch.setattr(method, name, lambda b, p_s, p_t, terms=terms: (seen.append(b), terms(b, p_s, p_t))[1])
    before = [level[-1].detach() for level in map(S.encode, (batch.image_s, batch.image_t))]
    step(method, batch)
    assert len(ran) == 2
    assert ran[0] is batch.image_s
    assert ran[1] is batch.image_t
    assert [b.features_t.requires_grad for b in seen] == [b.features_s.requires_grad for b in seen] == [False, True]
    for b in seen:
        assert b.features_t.shape == (4, 32, 3, 3)
        assert torch.equal(b.features_s, before[0])
        assert torch.equal(b.features_t, before[1])


def test_without_its_own_terms_nuseguda_is_cellseguda() -> None:
    plain, more = make_method("cellseguda"), make_method("nuseguda:lambda_feature=0:lambda_image=0:lambda_translated=0")
    batches = [make_batch(seed=seed) for seed in range(3)]
    assert step(plain, *batches) == step(more, *batches)
    for name, mine in weights(plain).items():
        assert torch.equal(mine, weights(more)[name]), name


@pytest.mark.parametrize("group", ["cellseg", "nuseg", "weak"])
def test_semi_supervised_without_labels_is_unsupervised(group: str) -> None:
    uda, ssda = make_method(f"{group}uda"), make_method(f"{group}ssda")
    batches = [half_silent(make_batch(seed=seed)) for seed in range(3)]
    batches = [replace(batch, stands_t=batch.plausible_t) for batch in batches]  # as there is no mask
    marking = replace(batches[0], teacher_t=torch.ones_like(batches[0].mask_t))
    assert torch.equal(ssda.taken(marking).labelled_t, marking.plausible_t) or group != "weak", "something stands"
    assert step(uda, *batches) == step(ssda, *batches)
    assert all(torch.equal(a, b) for a, b in zip(weights(uda).values(), weights(ssda).values(), strict=True))


@pytest.mark.parametrize("name", ["cellsegssda", "nusegssda", "weakssda"])
def test_semi_supervised_uses_only_the_labelled_images_of_a_mixed_batch(name: str) -> None:
    method, batch = make_method(name), make_batch(labelled=(True, False, True))
    p_s, p_t = torch.rand(2, 4, 1, 32, 32)
    batch = replace(batch, teacher_t=batch.mask_t)
    loss = method.supervised_loss(batch, p_s, p_t)  # type: ignore[attr-defined]
    p, y = p_t[[0, 2]], batch.mask_t[[0, 2]]
    dice = 1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1)
    source = 1 - (2 * (p_s * batch.mask_s).sum() + 1) / (p_s.sum() + batch.mask_s.sum() + 1)
    torch.testing.assert_close(loss, source + dice)


def source_seen(
    teacher: list[float], source: list[float] = [0.9] * 4 + [0.1], labelled: tuple[bool, ...] = (True, False), **other: Any
) -> tuple[Batch, Tensor]:
    """A batch of two images of five pixels, of which four are a nucleus, none in the second target image; and S on its source."""
    mask = torch.tensor([1.0, 1, 1, 1, 0]).view(1, 1, 1, 5)
    twice, p_s, p_t = (x.repeat(2, 1, 1, 1) for x in (mask, torch.tensor(source).view(1, 1, 1, 5), torch.tensor(teacher).view(1, 1, 1, 5)))
    batch = Batch(
        torch.zeros(2, 3, 1, 5), twice, torch.zeros(2, 3, 1, 5), torch.cat([mask, 0 * mask]), torch.tensor(labelled),
        teacher_t=p_t, **{"stands_t": torch.zeros(2, dtype=torch.bool), "trust_t": torch.ones(2)} | other,
    )  # fmt: skip
    return batch, p_s


GOOD, HALF, BAD = [0.9] * 4 + [0.1], [0.9] * 2 + [0.1] * 3, [0.9] + [0.1] * 4  # IoU 1, 1/2 and 1/4


def test_the_source_counts_as_far_as_s_is_as_good_where_the_masks_of_the_target_are() -> None:
    def weight(*args: Any, steps: int = 8, **other: Any) -> float:
        method = make_method("weakssda")
        return [float(method.source_weight(*source_seen(*args, **other))) for _ in range(steps)][-1]

    assert weight([0.9, 0.9, 0.9, 0.4, 0.1]) == pytest.approx(1)  # r_t = 3/4, r_s = 1
    assert weight(HALF) == pytest.approx((1 / 2 - 0.4) / 0.3, abs=1e-5)
    assert weight(BAD) == 0
    assert weight(HALF, HALF) == 1, "S is no better on the source"
    assert weight(BAD, BAD) == weight([0.1] * 5, [0.1] * 5) == 1, "S has not learned the source"
    assert weight(BAD, progress=0.05) == 1, "the source teaches first"
    assert weight(BAD, labelled=(False, False)) == 1, "no mask says otherwise"
    assert weight(BAD, steps=6) == 1, "six steps are no evidence"
    assert weight(BAD, steps=7) == 0


@pytest.mark.parametrize(
    ("labelled", "stands", "trust", "weight"),
    [
        ((True, True), (True, True), (0.5, 1.0), 0.25),
        ((True, True), (False, True), (0.5, 1.0), 0.25),  # a mask beside it
        ((True, False), (True, False), (0.5, 1.0), 0.75),
        ((True, True), (True, True), (0.0, 0.0), 1.0),  # it may teach, but its outlines are no better than another's
        ((True, True), (False, False), (0.5, 1.0), 1.0),  # masks alone
    ],
)
def test_the_source_makes_way_as_far_as_outlines_of_the_classical_segmentation_are_trusted(
    labelled: tuple[bool, bool], stands: tuple[bool, bool], trust: tuple[float, float], weight: float
) -> None:
    method = make_method("weakssda")
    batch, p_s = source_seen(GOOD, labelled=labelled, stands_t=torch.tensor(stands), trust_t=torch.tensor(trust))
    for believed in (1.0, 0.6):
        method.memory = {**method.memory, "w_s": torch.tensor(believed)}
        assert float(method.source_weight(batch, p_s)) == pytest.approx(weight * believed)
        assert method.memory["w_s"] == torch.tensor(believed), "which is no judgement of it"


def test_images_without_a_nucleus_say_nothing_of_the_source() -> None:
    """Where a single wrong pixel would be all wrong, and none at all perfect."""
    method = make_method("weakssda")
    for _ in range(8):
        method.source_weight(*source_seen(GOOD))
    before = method.memory
    for teacher in (BAD, [0.1] * 5):
        for _ in range(2000):
            assert method.source_weight(*source_seen(teacher, labelled=(False, True))) == 1
    assert all(torch.equal(method.memory[name], value) for name, value in before.items()), "whatever came before is not forgotten for it"


def test_the_source_is_judged_by_the_last_steps_together_and_never_counts_more_than_it_has() -> None:
    method = make_method("weakssda")
    for _ in range(8):
        assert float(method.source_weight(*source_seen(GOOD))) == 1
    kept = sum(0.9**n for n in range(1, 9))  # steps of which all four pixels are in both; of the one that follows one of four is
    bad = float(method.source_weight(*source_seen([0.9, 0.1, 0.1, 0.1, 0.1])))
    assert bad == pytest.approx(min(1.0, ((kept * 4 + 1) / (kept * 4 + 4) - 0.4) / 0.3), abs=1e-5)
    less = [float(method.source_weight(*source_seen(BAD))) for _ in range(19)]
    assert less == sorted(less, reverse=True)
    assert less[3] == pytest.approx(
        ((kept * 0.9**4 * 4 + sum(0.9**n for n in range(5))) / (kept * 0.9**4 * 4 + 4 * sum(0.9**n for n in range(5))) - 0.4) / 0.3, abs=1e-5
    )
    assert less[-1] == 0
    assert not any(float(method.source_weight(*source_seen(GOOD))) for _ in range(99)), (
        "without the source S fits the masks, which is not the source's doing"
    )


@pytest.mark.parametrize(("w_s", "says"), [(1.0, []), (0.997, []), (0.6, ["counted 60%"]), (0.0, ["counted 0%", "More masks"])])
def test_it_is_said_how_much_the_source_counted(w_s: float, says: list[str]) -> None:
    method = make_method("weakssda")
    method.memory = {**method.memory, "w_s": torch.tensor(w_s)}
    remarks = method.remarks()
    assert len(remarks) == bool(says)
    assert all(words in remarks[0] for words in says)
    assert ("More masks" in "".join(remarks)) == (w_s < 0.5)
    assert make_method("weakuda").remarks() == []


def test_what_a_step_says_of_the_source_is_asked_once_and_reaches_every_term(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []
    seen: list[float] = []
    terms = WeakUDA.segmenter_terms

    def source_weight(method: WeakSSDA, b: Batch, p_s: Tensor) -> Tensor:
        asked.append(p_s)
        return p_s.new_tensor(0.25)

    def segmenter_terms(method: WeakSSDA, b: Batch, p_s: Tensor, p_t: Tensor) -> methods.Terms:
        seen.append(float(b.source_weight))
        return terms(method, b, p_s, p_t)

    monkeypatch.setattr(WeakSSDA, "source_weight", source_weight)
    monkeypatch.setattr(WeakSSDA, "segmenter_terms", segmenter_terms)
    step(make_method("weakssda"), half_silent(make_batch(labelled=(True,))))
    assert [p_s.requires_grad for p_s in asked] == [False]
    assert seen == [0.25]


def test_a_source_that_the_masks_of_the_target_deny_has_no_part_in_the_step() -> None:
    """Neither by its masks nor by the adversary."""
    batch = half_silent(make_batch(labelled=(True, True)))
    p_s, p_t = torch.rand(2, 4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    p_s.requires_grad_(True)
    p_t.requires_grad_(True)
    method = make_method("weakssda")
    for w_s in (1.0, 0.0):
        seen = replace(batch, teacher_t=batch.mask_t, source_weight=torch.tensor(w_s))
        terms = method.turns[1].terms(seen, p_s, p_t)
        losses = terms["seg"].value + terms["adv"].value
        of_source, of_target = torch.autograd.grad(losses, (p_s, p_t))
        assert bool(of_source.any()) == bool(w_s)
        assert bool(of_target.any())
        assert bool(terms["adv"].value) == bool(w_s)


@pytest.mark.parametrize("name", ["weakuda", "weakssda"])
def test_where_the_classical_segmentation_is_silent_s_meets_the_adversary_and_only_there(name: str) -> None:
    """Image 0 is heard, images 1 to 3 are silent, whether they have a mask, as image 1 has, or not."""
    batch = make_batch(labelled=(False, True))
    batch = replace(batch, teacher_t=batch.classical_t, plausible_t=torch.tensor([True, False, False, False]))
    p_s, p_t = torch.rand(2, 4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    p_t.requires_grad_(True)
    method = make_method(name)
    batch = method.taken(batch)
    D = method.networks["D"]
    for_d, for_s = (turn.terms(batch, p_s, p_t) for turn in method.turns)
    (gradient,) = torch.autograd.grad(for_s["adv"].value, p_t)
    assert [bool(part.any()) for part in gradient] == [False, True, True, True]
    assert for_s["adv"].value.item() == pytest.approx(3 / 4 * domain_loss(D(p_t[1:]), Domain.SOURCE).item(), rel=1e-5)
    assert for_d["dis_target"].value.item() == pytest.approx(3 / 4 * domain_loss(D(p_t[1:]), Domain.TARGET).item(), rel=1e-5)
    assert for_d["dis_source"].value.item() == pytest.approx(3 / 4 * domain_loss(D(p_s), Domain.SOURCE).item(), rel=1e-5)


def test_where_every_image_has_been_plausible_nothing_of_the_adversary_moves() -> None:
    method, batch = make_method("weakuda"), make_batch()
    before = {name: values.clone() for name, values in method.networks["D"].state_dict().items()}
    optimizers = make_optimizers(method, Config())
    for _ in range(2):
        take_step(method, batch, optimizers, teacher=teacher_of(method))
    assert all(torch.equal(values, before[name]) for name, values in method.networks["D"].state_dict().items())


def test_where_no_image_is_plausible_it_is_cellseguda_without_reconstruction() -> None:
    batch = replace(make_batch(), plausible_t=torch.zeros(4, dtype=torch.bool))
    ours, theirs = make_method("weakuda:lambda_adv=0.01"), make_method("cellseguda:lambda_adv=0.01:lambda_rec=0")
    for method in (ours, theirs):
        optimizers = make_optimizers(method, Config())
        for _ in range(2):
            take_step(method, batch, optimizers, teacher=teacher_of(method))
    for name, values in ours.networks.state_dict().items():
        torch.testing.assert_close(values, theirs.networks.state_dict()[name])


def standing_batch(sees: float = 1.0, **changed: Any) -> Batch:
    """Four images, the first with a mask; in the first three C may stand for one, and the teacher marks this share of what it saw."""
    batch = make_batch(labelled=(True,))
    teacher = torch.where(torch.rand(batch.classical_t.shape, generator=torch.Generator().manual_seed(2)) < sees, 1.0, 1 - batch.classical_t)
    return replace(batch, **{"stands_t": torch.tensor([True, True, True, False]), "teacher_t": teacher, "progress": 0.5} | changed)


def test_the_classical_segmentation_stands_for_masks_once_the_teacher_marks_half_of_it() -> None:
    method, batch = make_method("weakuda"), standing_batch(0.6)
    taken = method.taken(batch)
    assert taken.labelled_t.tolist() == [True, True, True, False]
    assert torch.equal(taken.mask_t[:3], batch.classical_t[:3])
    assert torch.equal(taken.mask_t[3:], batch.mask_t[3:])
    assert taken.stands_t.tolist() == [True, True, True, False]
    for other in (standing_batch(0.4), standing_batch(0.6, progress=0.05), standing_batch(0.6, stands_t=torch.zeros(4, dtype=torch.bool))):
        assert not method.taken(other).stands_t.any()
        assert not method.taken(other).labelled_t.any(), "the teacher denies it, the source teaches first, or it may not"
    assert not method.taken(replace(batch, classical_t=0 * batch.classical_t)).labelled_t.any(), "that there is no nucleus nobody has agreed to"
    given = make_method("weakssda").taken(replace(batch, plausible_t=batch.plausible_t & ~batch.labelled_t))
    assert given.labelled_t.tolist() == [True, True, True, False]
    assert torch.equal(given.mask_t[:1], batch.mask_t[:1]), "a mask of a person's stays"


@pytest.mark.parametrize(("sees", "stands"), [(0.6, True), (0.4, False)])
def test_a_passable_classical_segmentation_that_stands_for_a_mask_meets_no_adversary(sees: float, stands: bool) -> None:
    """Nearly of the shape of nuclei, it may stand for a mask though it is not plausible."""
    batch, method = standing_batch(sees, plausible_t=torch.zeros(4, dtype=torch.bool)), make_method("weakuda")
    taken = method.taken(batch)
    assert taken.stands_t.tolist() == [stands] * 3 + [False]
    p_s, p_t = torch.rand(2, 4, 1, 32, 32, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(method.turns[1].terms(taken, p_s, p_t)["adv"].value, p_t)
    assert [bool(part.any()) for part in gradient] == [not stands] * 3 + [True]


def test_the_report_says_how_often_the_classical_segmentation_was_not_believed() -> None:
    method = make_method("weakuda")
    for batch in (standing_batch(0.6), standing_batch(0.4), standing_batch(0.4), standing_batch(0.4), standing_batch(0.6, progress=0.05)):
        method.taken(batch)
    (remark,) = method.remarks()
    assert "it did in 25%" in remark
    assert "the masks" not in remark
    blank = standing_batch(0.6)
    for _ in range(40):
        method.taken(replace(blank, classical_t=0 * blank.classical_t))
    assert method.remarks() == [remark], "crops in which it sees nothing are no denial"
    for _ in range(40):
        method.taken(standing_batch(0.6))
    assert method.remarks() == []


@pytest.mark.parametrize(("marked", "plausible", "stands"), [(0.6, True, True), (0.4, True, False), (0.4, False, True)])
def test_masks_overrule_the_classical_segmentation_where_it_is_plausible_in_their_images(marked: float, plausible: bool, stands: bool) -> None:
    """Image 0 has a mask of this share of what C sees there; in images 1 and 2 the teacher marks all of it."""
    batch = standing_batch(1.0, plausible_t=torch.tensor([plausible, True, True, True]))
    some = torch.rand(batch.mask_t.shape, generator=torch.Generator().manual_seed(3)) < marked
    batch = replace(batch, mask_t=batch.classical_t * some * batch.labelled_t.view(-1, 1, 1, 1))
    assert make_method("weakssda").taken(batch).labelled_t.tolist() == [True, stands, stands, False]
    denied = replace(batch, teacher_t=torch.cat([batch.teacher_t[:1], 1 - batch.classical_t[1:]]))
    assert make_method("weakssda").taken(denied).labelled_t.tolist() == [True, False, False, False], "nor can masks speak for the teacher"


def test_what_stands_for_a_mask_teaches_as_masks_do_and_judges_the_source() -> None:
    """Steps of WeakUDA on what C saw are those of WeakSSDA with that for masks, but in one image."""
    batch = standing_batch(0.6, stands_t=torch.ones(4, dtype=torch.bool), labelled_t=torch.zeros(4, dtype=torch.bool))
    last = torch.tensor([False, False, False, True])
    masks = replace(batch, stands_t=last, labelled_t=~last, mask_t=batch.classical_t * ~last.view(-1, 1, 1, 1))
    ours, theirs = make_method("weakuda"), make_method("weakssda")
    values = []
    for method, seen in ((ours, batch), (theirs, masks)):
        for network in method.networks.values():
            network.double()
        with torch.no_grad():
            method.networks["S"].head.bias += 2  # S, which is the teacher, marks nearly everything
        seen = replace(seen, **{name: getattr(seen, name).double() for name in ("image_s", "mask_s", "image_t", "mask_t", "classical_t")})
        values.append(step(method, *[seen] * 8, lambda_bce=1.0))
    assert values[0] == values[1]
    assert values[0][0]["bce"] > 0
    assert all(torch.equal(ours.memory[name], value) for name, value in theirs.memory.items() if name != "heard")
    assert ours.memory["steps"] > 5


def test_the_cross_entropy_is_against_the_masks_of_labelled_target_images_alone() -> None:
    batch = make_batch(labelled=(True, False))
    p_t = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    first = torch.nn.functional.binary_cross_entropy(p_t[:1], batch.mask_t[:1]).item()
    assert mask_cross_entropy(batch, p_t).item() == pytest.approx(first)
    for changed in ({"mask_s": 1 - batch.mask_s}, {"mask_t": torch.cat((batch.mask_t[:1], 1 - batch.mask_t[1:]))}):
        assert mask_cross_entropy(replace(batch, **changed), p_t).item() == pytest.approx(first)


def test_only_methods_with_target_masks_or_what_may_stand_for_them_have_a_cross_entropy() -> None:
    batch = make_batch(dtype=torch.float32, labelled=(True, False))
    having = {name for name in methods.names() if "bce" in step(make_method(name), batch, lambda_bce=1.0)[0]}
    assert having == {"cellsegssda", "nusegssda", "weakssda", "supervised", "weakuda"}
    assert step(make_method("weakuda"), batch, lambda_bce=1.0)[0]["bce"] == 0, "of masks it reads none"


def test_the_cross_entropy_joins_the_loss_of_the_turn_that_moves_the_segmenter() -> None:
    def gradients(lambda_bce: float) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        method = make_method("cellsegssda")
        optimizers = {name: torch.optim.SGD(network.parameters(), 1.0) for name, network in method.networks.items()}
        before = {name: parameter.detach().clone() for name, parameter in method.networks.named_parameters()}
        values = take_step(method, batch, optimizers, lambda_bce=lambda_bce)
        return values, {name: before[name] - parameter.detach() for name, parameter in method.networks.named_parameters()}

    batch = make_batch(dtype=torch.float32, labelled=(True, False))
    (plain, without), (one, with_one), (_, with_two) = (gradients(weight) for weight in (0.0, 1.0, 2.0))
    assert "bce" not in plain
    assert one == plain | {"bce": one["bce"]}
    share = {name: with_one[name] - without[name] for name in without}
    for name in without:
        torch.testing.assert_close(with_two[name] - without[name], 2 * share[name], rtol=1e-3, atol=1e-5)
    assert {name[0] for name in share if share[name].any()} == {"S"}


@pytest.mark.parametrize("name", [n for n in methods.names() if not methods.find(n).target_masks])
def test_unsupervised_methods_do_not_feel_target_masks(name: str) -> None:
    seen, hidden = make_method(name), make_method(name)
    batch = half_silent(make_batch(labelled=(True,) * 4))
    bare = replace(batch, mask_t=torch.zeros_like(batch.mask_t), labelled_t=torch.zeros(4, dtype=torch.bool))
    assert step(seen, batch) == step(hidden, bare)


def test_without_reconstruction_there_is_no_r() -> None:
    assert set(make_method("cellseguda:lambda_rec=0").networks) == {"S", "D"}
    assert set(make_method("nuseguda:lambda_rec=0:lambda_image=0:lambda_translated=0").networks) == {"S", "D", "D_feature"}


def test_advent_stays_finite_where_s_is_quite_sure() -> None:
    method = make_method("advent")
    with torch.no_grad():
        method.networks["S"].head.weight.mul_(1e4)  # type: ignore[operator, union-attr]
    p = method.networks["S"](make_batch().image_t)
    assert p.min() == 0
    assert p.max() == 1
    step(method, make_batch())
    assert weights(method)["S"].isfinite().all()


def test_the_penalty_goes_around_a_compiled_discriminator() -> None:
    method, compiled = make_method("cellseguda:r1=1"), make_method("cellseguda:r1=1")
    compiled.networks["D"].compile(backend="aot_eager")  # as a compiled network has no second derivative
    assert step(compiled, make_batch())[0] == pytest.approx(step(method, make_batch())[0])


def test_the_penalty_makes_d_less_steep() -> None:
    slopes = [step(make_method(f"cellseguda:r1={r1}"), *[make_batch()] * 20)[-1]["r1"] for r1 in (1e-6, 1e3)]
    assert slopes[1] < slopes[0] / 2


def test_a_domain_that_is_not_read_is_not_needed() -> None:
    batch = make_batch()
    none = torch.zeros(0, 3, 32, 32)
    source_only = Batch(batch.image_s, batch.mask_s, none, none[:, :1], torch.zeros(0, dtype=torch.bool))
    assert step(make_method("source_only"), source_only) == step(make_method("source_only"), batch)
    assert methods.find("supervised").reads == {Domain.TARGET}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("nothing", "cellseguda"),
        ("cellseguda:lambda=1", "lambda_adv"),
        ("cellseguda:lambda_adv=x", "not a number"),
        ("source_only:a=1", "no options"),
    ],
)
def test_a_wrong_method_or_option_names_the_right_ones(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        methods.build(MethodSpec.parse(spec), 4)


def test_a_term_that_is_not_finite_stops_with_its_name_and_nothing_moves() -> None:
    method = make_method("cellseguda")
    with torch.no_grad():
        next(method.networks["R"].parameters()).fill_(float("nan"))
    before = weights(method)["S"]
    with pytest.raises(InputError, match="'rec' became nan"):
        step(method, make_batch())
    assert torch.equal(weights(method)["S"], before)
