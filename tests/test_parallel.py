"""Two processes with batch 2 have the gradients of one process with batch 4."""

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from children import Child
from helpers import make_batch, make_method, part, step
from safetensors.torch import load_file, save_file
from torch import Tensor

from celladapt import parallel
from celladapt.batch import Batch
from celladapt.cli import main
from celladapt.methods import Method

LAYERS = {  # dtype, offset of the mean from zero, momentum
    "float64": (torch.float64, 0.0, 0.1),
    "cumulative": (torch.float64, 0.0, None),
    "far from zero": (torch.float32, 1000.0, 0.1),
    "bf16": (torch.bfloat16, 0.0, 0.1),
}


def in_two_processes(folder: Path, function: Callable[..., int | None], *arguments: object) -> list[str]:
    """What two processes that may speak to each other print."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    workers = [Child(folder, function, *arguments, **environment, RANK=str(rank)) for rank in range(2)]
    ended = [worker.ended() for worker in workers]
    assert [worker.returncode for worker in ended] == [0, 0], ended
    return [worker.stdout for worker in ended]


def count_messages() -> list[str]:
    """From now on each message of this process leaves its function's name in the list."""
    sent: list[str] = []

    def counted(name: str) -> None:
        send = getattr(dist, name)

        def sending(*args: object, **kwargs: object) -> object:
            sent.append(name)
            return send(*args, **kwargs)

        setattr(dist, name, sending)

    for name in ("all_gather", "all_gather_into_tensor", "all_reduce", "barrier", "broadcast", "gather", "reduce", "reduce_scatter", "send"):
        counted(name)
    return sent


def unequal_halves(name: str) -> tuple[Method, Batch]:
    """A method in float64 and a batch in whose two halves different things are known, so that a mean of the halves' means would be wrong."""
    method = make_method(name)
    method.networks.double()
    method.memory = {**method.memory, "steps": torch.tensor(10.0)}  # so that the source is judged in the first step
    with torch.no_grad():
        method.networks["S"].head.bias += 2  # S sees nuclei nearly everywhere, as the classical segmentation below does, so that it is trusted
    batch = make_batch(labelled=(True, False, False, True), dtype=torch.float64)
    # Most of what S sees on the source and a third of what it sees on the target, so that the source counts in part.
    some = (1 - batch.mask_t) * (1 - batch.mask_s)
    some[..., ::3] = 0
    classical = torch.ones_like(some)
    classical[2] = some[2]
    return method, replace(
        batch,
        mask_s=1 - batch.mask_s,
        mask_t=some * batch.labelled_t.view(-1, 1, 1, 1),
        classical_t=classical,
        plausible_t=torch.tensor([False, True, False, False]),
        stands_t=torch.tensor([False, False, True, False]),
        trust_t=torch.tensor([0.2, 0.4, 0.9, 0.6]),
        progress=0.5,
    )


def step_worker(out: str, name: str) -> None:
    """A training step on this process's half of the batch."""
    torch.set_num_threads(1)
    parallel.start()
    rank = parallel.rank()
    method, whole = unequal_halves(name)
    half = part(whole, slice(2 * rank, 2 * rank + 2))
    sent = count_messages()
    step(method, half, lambda_bce=1.0)
    layers = {n: sum(isinstance(module, parallel.BatchNorm2d) for module in network.modules()) for n, network in method.networks.items()}
    runs = 2 * layers["S"] + layers.get("R", 0)  # S on both domains
    # Each run of a layer sends one message each way, so do each Dice loss and each cross-entropy, and each of two turns sends its gradients; m, r_s with r_t, what stands for a mask, and the teacher need no way back.
    losses, ahead, teachers = {"cellsegssda": (3, 0, 0), "weakssda": (3, 3, 1)}[name]
    assert sorted(sent) == ["all_gather"] * (runs + teachers * layers["S"]) + ["all_reduce"] * (runs + 2 * losses + 2 + ahead)
    save_file({n: p.grad for n, p in method.networks.named_parameters() if p.grad is not None}, f"{out}/rank{rank}.safetensors")


@pytest.mark.parametrize("name", ["cellsegssda", "weakssda"])
def test_two_processes_equal_one_with_the_doubled_batch(name: str, tmp_path: Path) -> None:
    method, batch = unequal_halves(name)
    terms = step(method, batch, lambda_bce=1.0)[0]
    assert name == "cellsegssda" or method.taken(replace(batch, teacher_t=torch.ones_like(batch.mask_t))).labelled_t[2], "something stands for a mask"
    assert name == "cellsegssda" or 0.1 < method.memory["w_s"] < 0.9
    assert all(terms.values()), f"each of {terms} is to be compared"
    in_two_processes(tmp_path, step_worker, str(tmp_path), name)
    for rank in range(2):
        grads = load_file(tmp_path / f"rank{rank}.safetensors")
        for weight, parameter in method.networks.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(grads[weight], parameter.grad, rtol=1e-7, atol=1e-12, msg=lambda text, weight=weight: f"{weight}: {text}")


def through_layer(layer: str, images: slice, exactly: bool = False) -> dict[str, Tensor]:
    """One pass forward and back of ``images`` out of five whose means differ; ``exactly`` does the same numbers in float64."""
    dtype, offset, momentum = LAYERS[layer]
    draw = torch.Generator().manual_seed(0)
    x, dy = torch.randn(2, 5, 3, 6, 7, generator=draw, dtype=torch.float64)
    x, dy = ((z.to(dtype).double() if exactly else z.to(dtype))[images] for z in (x + offset + torch.arange(5).view(-1, 1, 1, 1), dy))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = parallel.BatchNorm2d(3, momentum=momentum).to(torch.promote_types(x.dtype, torch.float32))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        norm.bias.copy_(torch.tensor([3.0, 0.0, -1.0]))
    y = norm(x)
    y.backward(dy)
    assert x.grad is not None
    for result in (y, x.grad):
        assert result.dtype == x.dtype
        assert result.is_contiguous(memory_format=torch.channels_last)
    results = {"y": y, "dx": x.grad, "dweight": norm.weight.grad, "dbias": norm.bias.grad, "mean": norm.running_mean, "var": norm.running_var}
    return {name: value.detach().contiguous() for name, value in results.items() if value is not None}


def layer_worker(out: str) -> None:
    """Each of ``LAYERS`` on this process's images, three or two."""
    torch.set_num_threads(1)
    parallel.start()
    rank, sent = parallel.rank(), count_messages()
    results = {layer: through_layer(layer, (slice(0, 3), slice(3, 5))[rank]) for layer in LAYERS}
    assert sent == ["all_gather", "all_reduce"] * len(LAYERS)
    save_file({f"{layer} {name}": value for layer in LAYERS for name, value in results[layer].items()}, f"{out}/rank{rank}.safetensors")


def test_batch_normalisation_in_two_processes_equals_one_of_the_joint_batch(tmp_path: Path) -> None:
    in_two_processes(tmp_path, layer_worker, str(tmp_path))
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    for layer, (dtype, _, _) in LAYERS.items():
        for name, expected in through_layer(layer, slice(0, 5), exactly=True).items():
            key = f"{layer} {name}"
            if name in ("y", "dx"):
                result = torch.cat([first[key], second[key]])
            elif name in ("dweight", "dbias"):  # of this process's images alone: gradients are averaged later
                result = first[key] + second[key]
            else:
                result = first[key]
                torch.testing.assert_close(result, second[key], rtol=0, atol=0)
            tolerance = {torch.float64: 1e-12, torch.float32: 3e-4, torch.bfloat16: 1e-2}[dtype]
            torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance, msg=lambda text, key=key: f"{key}: {text}")


def test_two_processes_train_validate_and_resume(tiny_domains: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tiny_domains
    out = tmp_path / "run"
    small = ["--preset", "fast", "--steps", "4", "--width", "4", "--crop", "32", "--batch-size", "2", "--validate-every", "2", "--no-baseline"]
    for arguments in ([f"--source={source}", f"--target={target}", *small, f"--out={out}"], [f"--resume={out}"]):
        printed = in_two_processes(tmp_path, main, ["adapt", *arguments])
        assert "report" in printed[0]
        assert printed[1] == ""
    assert len((out / "validation.jsonl").read_text().splitlines()) == 2
    (out / "run.json").write_text((out / "run.json").read_text().replace('"finished": "', '"finished": null, "was": "'))
    assert main(["adapt", f"--resume={out}"]) == 2
    assert "began with 2 processes" in capsys.readouterr().err
