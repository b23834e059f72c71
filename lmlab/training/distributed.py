"""The processes of one training run: as many as ``torchrun`` started, or this one alone."""

import os
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=2)  # for the process that tokenizes while the others wait


@dataclass(frozen=True)
class DistributedContext:
    """Which of ``world`` processes this is (0 is the one that speaks and writes), and on which device."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"  # on which its model belongs
    first_of_host: bool = True  # the one that prepares the files of its machine

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64. On the CPU: no GPU is waited for."""
        if self.world == 1:
            return list(values)
        import torch
        from torch import distributed

        numbers = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(numbers)
        return numbers.tolist()

    def gather(self, value) -> list:
        """``value`` of every process, in order of rank."""
        if self.world == 1:
            return [value]
        from torch import distributed

        gathered = [None] * self.world
        distributed.all_gather_object(gathered, value)
        return gathered

    def wait(self) -> None:
        """Goes on when all processes have come here."""
        self.total(0.0)


def init_distributed(device: str) -> DistributedContext:
    """Joins the other processes where ``torchrun`` (or another launcher with its variables) started this one.

    device: "cpu" or "cuda", as ``describe_machine`` has it. Gradients go over NCCL between GPUs and over gloo
    between CPUs; single numbers always over gloo.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return DistributedContext(device=device)
    import torch
    from torch import distributed

    local = int(os.environ.get("LOCAL_RANK", 0))
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this host has no GPU: there are {torch.cuda.device_count()}; "
                "give torchrun --nproc_per_node no more than that"
            )
        torch.cuda.set_device(local)
        device = f"cuda:{local}"
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo", timeout=PATIENCE)
    return DistributedContext(distributed.get_rank(), distributed.get_world_size(), device, local == 0)


def cleanup_distributed() -> None:
    """Ends what ``init_distributed`` began, if anything."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def silent(line: str) -> None:
    """The report of every process but the first."""
