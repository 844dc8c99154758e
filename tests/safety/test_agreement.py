import os

import pytest
from children import in_two_processes
from torch import distributed

from transformers_vjepa.safety.agreement import agreed


def decides(rank, decision, *, error=False):
    def decide():
        assert distributed.get_rank() == rank
        if error:
            raise ValueError("refused")
        return decision

    return decide


def in_each_process():
    distributed.init_process_group("gloo")
    assert agreed(decides(0, "first")) == "first"
    with pytest.raises(ValueError, match="refused"):
        agreed(decides(0, None, error=True))
    assert agreed(lambda: "same", on_each_machine=True) == "same"
    os.environ["LOCAL_RANK"] = "0"  # as on two machines
    with pytest.raises(ValueError, match="one machine has 0, and another one None: give all the same folder"):
        agreed(lambda: None if distributed.get_rank() else 0, on_each_machine=True)
    distributed.destroy_process_group()


def test_one_process_decides_for_itself():
    assert agreed(lambda: 3) == 3


def test_all_processes_have_the_decision_of_the_first(tmp_path):
    in_two_processes(in_each_process, folder=tmp_path)
