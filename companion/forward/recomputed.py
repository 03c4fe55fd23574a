"""What a checkpointed function changes so that it would compute something else the second time."""

from __future__ import annotations

from companion.forward.cuts import Operation
from companion.forward.notes import Origin, Value
from companion.forward.places import RECOMPUTED
from companion.forward.torch_functions import SILENT
from companion.forward.watching import Watch


def changes_before_recomputing(watch: Watch) -> list[Operation]:
    """The operations inside of ``checkpoint(use_reentrant=False)`` that changed a tensor from
    outside of it, if something with a graph was computed in there from what that was, or became.

    The backward pass computes it again from what the first time left.
    """
    notes = watch._recorder.notes
    inside = [i for i, note in enumerate(notes) if note.runs_inside == RECOMPUTED]
    all_inside, used, changed = {*inside}, set[Origin](), list[tuple[int, Value]]()
    for i in reversed(inside):  # what uses a value comes before its maker
        note = notes[i]
        if any(value.requires_grad for value in note.outputs):
            used.update(value.origin for value in note.inputs[note.in_place :])
        if note.in_place and note.inputs and note.name not in SILENT:
            old, is_same_again = note.inputs[0], note.name.strip("_") in _SAME_AGAIN
            if (i, 0) in used and (old.requires_grad or not is_same_again):
                used.add(old.origin)
            if old.made_by not in all_inside:
                changed.append((i, old))
    return [watch._operation_at(i) for i, old in reversed(changed) if old.origin in used]


# What gives the same if it is done again: whatever the tensor was, or where that was its result.
_SAME_AGAIN = set(
    "copy fill zero setitem set data relu relu6 clamp clamp_min clamp_max clip hardtanh threshold "
    "abs round floor ceil trunc sign masked_fill nan_to_num".split()
)
