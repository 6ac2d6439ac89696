"""The liveness plan against a brute-force reading of who uses which rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpt.backbones.liveness import Reads, plan


@given(
    depth=st.integers(1, 6),
    chosen=st.sets(st.integers(0, 5)),
    after=st.sampled_from(["carry", "drop", "insert"]),
    prompts=st.booleans(),
    image=st.sampled_from(["all", "lead", "none"]),
)
def test_plan_keeps_exactly_the_rows_that_are_read(depth, chosen, after, prompts, image):
    inserted = {layer: index for index, layer in enumerate(sorted(layer for layer in chosen if layer < depth))}
    if image == "none" and (not prompts or not inserted or after == "drop"):
        return  # a head that reads prompts where there are none is refused before planning
    steps = plan(depth, inserted, after, Reads(prompts, image))

    # Walk through the definition: which token set fills the prompt rows that enter each layer, and from where.
    fresh: list[int | None] = []
    passed: list[bool] = []
    present, last = False, None
    for layer in range(depth):
        if layer in inserted:
            last, present = inserted[layer], True
            fresh.append(last)
            passed.append(False)
        elif after == "insert" and last is not None:
            fresh.append(last)
            passed.append(False)
        else:
            fresh.append(None)
            passed.append(present and after == "carry")
            present = passed[-1]
    for layer, step in enumerate(steps):
        top = layer == depth - 1
        here = fresh[layer] is not None or passed[layer]
        read = here and (prompts if top else passed[layer + 1])
        assert step.insert == fresh[layer]
        assert step.carried == passed[layer]
        assert step.as_rows == (fresh[layer] is not None and read)
        wanted_image = image if top else "all"
        expected = {
            (True, "all"): "all",
            (True, "lead"): "prompts_lead",
            (True, "none"): "prompts",
            (False, "all"): "image",
            (False, "lead"): "lead",
            (False, "none"): "image",
        }[read, wanted_image]
        assert step.keep == expected


def test_deep_never_computes_a_prompt_row():
    steps = plan(12, {layer: layer for layer in range(12)}, "carry", Reads(image="lead"))
    assert all(not step.as_rows and not step.carried for step in steps)
    assert [step.keep for step in steps] == ["image"] * 11 + ["lead"]


def test_shallow_carries_and_drops_the_rows_in_the_last_layer():
    steps = plan(4, {0: 0}, "carry", Reads(image="lead"))
    assert [step.as_rows for step in steps] == [True, False, False, False]
    assert [step.keep for step in steps] == ["all", "all", "all", "lead"]


@pytest.mark.parametrize("after", ["carry", "drop", "insert"])
def test_nothing_inserted_is_the_plain_backbone(after):
    steps = plan(3, {}, after, Reads(image="lead"))
    assert all(step.insert is None and not step.carried for step in steps)
