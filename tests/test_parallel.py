"""Two processes with batch 2 have the gradients of one process with batch 4."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from helpers import make_batch, make_method, step
from safetensors.torch import load_file

WORKER = """
import sys
sys.path.insert(0, {tests!r})
import torch
from helpers import make_batch, make_method, step
from safetensors.torch import save_file
from celladapt import parallel
from celladapt.batch import Batch

torch.set_num_threads(1)
parallel.start()
rank = parallel.rank()
whole = make_batch(labelled=(True, False, False, True), dtype=torch.float64)
half = Batch(*(getattr(whole, name)[2 * rank : 2 * rank + 2] for name in Batch.__dataclass_fields__))
method = make_method("cellsegssda")
method.networks.double()
step(method, half)
save_file({{n: p.grad for n, p in method.networks.named_parameters()}}, f"{out}/rank{{rank}}.safetensors")
"""


def test_two_processes_equal_one_with_the_doubled_batch(tmp_path: Path) -> None:
    method = make_method("cellsegssda")
    method.networks.double()
    step(method, make_batch(labelled=(True, False, False, True), dtype=torch.float64))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = WORKER.format(tests=str(Path(__file__).parent), out=str(tmp_path))
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    workers = [subprocess.Popen([sys.executable, "-c", code], env={**environment, "RANK": str(rank)}) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    for rank in range(2):
        grads = load_file(tmp_path / f"rank{rank}.safetensors")
        for name, parameter in method.networks.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-7, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_train_validate_and_resume(tiny_domains: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = tiny_domains
    out, environment = (
        tmp_path / "run",
        {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    )
    small = ["--preset", "fast", "--steps", "4", "--width", "4", "--crop", "32", "--batch-size", "2", "--validate-every", "2", "--no-baseline"]
    for arguments in ([f"--source={source}", f"--target={target}", *small, f"--out={out}"], [f"--resume={out}"]):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment["MASTER_PORT"] = str(free.getsockname()[1])
        command = [sys.executable, "-m", "celladapt", "adapt", *arguments]
        workers = [subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True) for rank in range(2)]
        printed = [worker.communicate(timeout=120)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0]
        assert "report" in printed[0]
        assert printed[1] == ""
    assert len((out / "validation.jsonl").read_text().splitlines()) == 2
    single = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"}
    (out / "run.json").write_text((out / "run.json").read_text().replace('"finished": "', '"finished": null, "was": "'))
    alone = subprocess.run([sys.executable, "-m", "celladapt", "adapt", f"--resume={out}"], env=single, capture_output=True, text=True)
    assert alone.returncode == 2
    assert "began with 2 processes" in alone.stderr
