"""lmlab's command line with FSDP on CPUs: accelerate would take DDP there, without a word."""

import sys

from accelerate.state import AcceleratorState, DistributedType

before = AcceleratorState.__init__


def with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
    before(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU and fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin


AcceleratorState.__init__ = with_fsdp

if __name__ == "__main__":
    from lmlab.cli import main

    sys.exit(main())
