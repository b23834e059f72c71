"""The processes of one training run: as many as ``torchrun`` or ``accelerate launch`` started, or this one
alone.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

# the others wait so long for the process that tokenizes
TIMEOUT = timedelta(days=2)


@dataclass(frozen=True)
class DistributedContext:
    """Which of ``world_size`` processes this is, and on which device its model belongs."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    is_local_main_process: bool = True  # the one that prepares the files of its host

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one process that logs and writes."""
        return self.rank == 0

    def all_reduce(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64; on the CPU, so that no GPU is waited for."""
        if self.world_size == 1:
            return list(values)
        # float64 holds token counts exactly, far beyond float32's 2^24
        numbers = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(numbers)
        return numbers.tolist()

    def all_gather(self, value: Any) -> list:
        """``value`` of every process, in order of rank."""
        if self.world_size == 1:
            return [value]
        gathered = [None] * self.world_size
        distributed.all_gather_object(gathered, value)
        return gathered

    def barrier(self) -> None:
        """Returns when all processes have come here."""
        self.all_reduce(0.0)


def init_distributed(device: str) -> DistributedContext:
    """Joins the other processes, where a launcher started this one with torch's environment variables.

    Gradients are reduced over NCCL between GPUs and over gloo between CPUs; single numbers always over gloo.

    Args:
        device: "cpu" or "cuda", as ``describe_machine`` has it.
    """
    # torchrun and accelerate set both; alone there is nothing to join
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return DistributedContext(device=device)
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        torch.cuda.set_device(local_rank)
        device = f"cuda:{local_rank}"
    # gloo too beside GPUs: exchanging a number over NCCL would wait for all that the GPU has to do
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=TIMEOUT)
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    return DistributedContext(rank, world_size, device, local_rank == 0)


def cleanup_distributed() -> None:
    """Leaves the process group, if there is one."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def is_main_process() -> bool:
    """Whether this is the first of the processes that the launcher started, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def launched_processes() -> int:
    """How many processes the launcher started, before any of them has joined the others."""
    return int(os.environ.get("WORLD_SIZE", 1))


def check_accumulation(grad_accumulation: int, n_processes: int) -> None:
    """Raises ValueError where the processes cannot share the batches of a step equally."""
    if grad_accumulation % n_processes:
        raise ValueError(
            f"grad_accumulation got {grad_accumulation} batches for {n_processes} processes; give a multiple"
        )


def uses_fsdp() -> bool:
    """Whether ``accelerate launch`` asked for FSDP."""
    return _env_is("ACCELERATE_USE_FSDP", "true")


def shards_weights() -> bool:
    """Whether the launcher asked for sharded weights, a part for each process: FSDP or ZeRO-3."""
    # ZeRO-2 shards gradients and optimizer alone
    uses_deepspeed = _env_is("ACCELERATE_USE_DEEPSPEED", "true")
    return uses_fsdp() or (uses_deepspeed and _env_is("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3"))


def _env_is(name: str, value: str) -> bool:
    return os.environ.get(name, "").lower() == value.lower()
