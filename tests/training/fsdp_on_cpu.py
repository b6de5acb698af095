"""`trapo` with FSDP2 on CPU processes, which accelerate offers for devices only: it is told that they are some."""

from accelerate import state
from accelerate.utils import DistributedType

from trapo.rollout.engines.weights import Engines
from trapo_cli.cli import app

begin, unsharded = state.PartialState.__init__, Engines._unsharded


def begin_as_devices(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def unsharded_and_said(self, model, step):
    print("the model is sharded", flush=True)
    return unsharded(self, model, step)


if __name__ == "__main__":
    state.PartialState.__init__ = begin_as_devices
    Engines._unsharded = unsharded_and_said
    app(prog_name="trapo")
