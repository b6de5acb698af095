"""`trapo` with FSDP2 on CPU processes, which accelerate offers for devices only: it is told that they are some."""

import yaml
from accelerate import state
from accelerate.utils import DistributedType
from places import ROOT

from trapo.rollout.engines.weights import Engines
from trapo_cli.cli import app

begin, unsharded = state.PartialState.__init__, Engines._unsharded


def environment():
    """What `accelerate launch` puts into the environment for the sharding of configs/accelerate/fsdp2.yaml."""
    config = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2.yaml").read_text())
    assert config["distributed_type"] == "FSDP"
    return {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_CPU": "true"} | {
        name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in config["fsdp_config"].items()
    }


def begin_as_devices(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def unsharded_and_said(self, model, step):
    print("the model is sharded", flush=True)
    return unsharded(self, model, step)


def patch():
    state.PartialState.__init__ = begin_as_devices
    Engines._unsharded = unsharded_and_said


if __name__ == "__main__":
    patch()
    app(prog_name="trapo")
