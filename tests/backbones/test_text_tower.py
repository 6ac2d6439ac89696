"""CLIP's text tower under learned embeddings equals open_clip's own forward, and each layout of a context its words."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.clip_models import KINDS, build_clip, clip_backbone, tokenizer
from tests.helpers.slow_text import NAMES, slow
from tests.helpers.tensors import close
from vpt.backbones.text_tower import encode, leading_equal
from vpt.prompts.clip.text_context import Contexts, layout
from vpt.utils.errors import UserError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [0, 1, 5])
def test_embedded_words_give_the_librarys_features(kind: str, shared: int):
    model = build_clip(kind)
    texts = [f"a photo of a {name}." for name in NAMES]
    ids = tokenizer()(texts)
    theirs = model.encode_text(ids)
    encoder = clip_backbone(model).text
    tower = encoder.require_tower("words")
    if not tower.causal and shared:
        pytest.skip("no prefix is shared where words see what follows")
    ends = torch.full((4,), tower.length - 1) if tower.pools_last else ids.argmax(1)
    rows = (tower.embed(ids) + tower.positions())[None]
    close(encode(tower, rows, ends, shared)[0], theirs)
    close(encoder.features(texts), theirs)
    if tower.causal:
        short = int(ends.max()) + 1
        close(encode(tower, rows[:, :, :short], ends, shared)[0], theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_join_behind_the_first_one_and_are_carried(kind: str):
    model = build_clip(kind)
    ids = tokenizer()([f"a photo of a {name}." for name in NAMES])
    tower = clip_backbone(model).text.require_tower("tokens")
    given = torch.randn(2, 3, tower.width)
    out = start = tower.embed(ids) + tower.positions()
    for layer, block in enumerate(tower.blocks):
        if layer > 0:
            fresh = given[layer - 1].expand(4, -1, -1)
            fresh = fresh if layer == 1 else 0.6 * fresh + 0.4 * out[:, 1:4]
            out = torch.cat([out[:, :1], fresh, out[:, 1 if layer == 1 else 4 :]], dim=1)
        side = out.shape[1]
        out = block.layer(out, attn_mask=torch.full((side, side), -torch.inf).triu(1) if tower.causal else None)
    ends = torch.full((4,), tower.length - 1) if tower.pools_last else ids.argmax(1)
    theirs = tower.project(tower.norm(out)[torch.arange(4), ends + 3])
    joined, shared = dict(enumerate(given, 1)), 5 if tower.causal else 0
    close(encode(tower, start[None], ends, shared, joined=joined, fraction=0.6)[0], theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_context_that_is_the_words_own_embeddings_changes_nothing(kind: str):
    model = build_clip(kind)
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    theirs = model.encode_text(tokenizer()(texts))
    contexts = Contexts(clip_backbone(model).text, NAMES, 4, words="a photo of a")
    close(contexts()[0], theirs)


def test_some_words_may_stay_words():
    """MaPLe with two tokens: 'a photo' learns, 'of a' stays."""
    model = build_clip()
    theirs = model.encode_text(tokenizer()([f"a photo of a {name.replace('_', ' ')}." for name in NAMES]))
    contexts = Contexts(clip_backbone(model).text, NAMES, 2, words="a photo of a")
    assert contexts.tokens.shape == (1, 2, 24)
    close(contexts()[0], theirs)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("specific", [False, True])
def test_every_layout_equals_the_definition(position: str, specific: bool):
    model = build_clip()
    contexts = Contexts(clip_backbone(model).text, NAMES, 3, position=position, class_specific=specific)
    with torch.no_grad():
        contexts.tokens.copy_(torch.randn_like(contexts.tokens))
    mine, theirs = contexts()[0], slow(model, contexts, position)
    close(mine, theirs)
    weight = torch.randn(mine.shape)
    one, other = (torch.autograd.grad((out * weight).sum(), contexts.tokens)[0] for out in (mine, theirs))
    close(one, other, "the gradient")


def test_deep_rows_replace_the_context_in_every_layer():
    model = build_clip()
    contexts = Contexts(clip_backbone(model).text, NAMES, 3, depth=2)
    with torch.no_grad():
        contexts.tokens.copy_(torch.randn_like(contexts.tokens))
    mine, theirs = contexts()[0], slow(model, contexts, "end")
    close(mine, theirs)
    weight = torch.randn(mine.shape)
    one, other = (torch.autograd.grad((out * weight).sum(), contexts.tokens)[0] for out in (mine, theirs))
    close(one, other, "the gradient")


def test_a_context_that_depends_on_the_image():
    """CoCoOp: what the meta-net makes of an image is added to every context token."""
    model = build_clip()
    contexts = Contexts(clip_backbone(model).text, NAMES, 3, condition=32)
    features = torch.nn.functional.normalize(torch.randn(2, 32), dim=1)
    found = contexts(features)
    first, second = contexts.meta[0], contexts.meta[2]
    for index, feature in enumerate(features):
        shift = torch.relu(feature @ first.weight.T + first.bias) @ second.weight.T + second.bias
        close(found[index], slow(model, contexts, "end", shift))


def test_other_names_on_the_same_context():
    model = build_clip()
    encoder = clip_backbone(model).text
    contexts = Contexts(encoder, NAMES, 3)
    fresh = Contexts(encoder, ["owl", "fire engine"], 3)
    with torch.no_grad():
        fresh.tokens.copy_(contexts.tokens)
    contexts.set_names(["owl", "fire engine"])
    close(contexts(), fresh())
    specific = Contexts(encoder, NAMES, 3, class_specific=True)
    with pytest.raises(UserError, match="support their own classes only"):
        specific.set_names(["owl"])


def test_what_is_shared_is_found():
    assert leading_equal(torch.tensor([[1, 2, 3], [1, 2, 3]])) == 3
    model = build_clip()
    contexts = Contexts(clip_backbone(model).text, NAMES, 4, words="a photo of a")
    assert contexts.shared == 5  # start and context
    one = Contexts(clip_backbone(build_clip()).text, ["cat"], 4)
    assert one.shared == 7  # all but the end token, which is read


@pytest.mark.parametrize(
    ("names", "words", "sentence"),
    [
        (["a very long class name " * 6], None, "needs 37 positions, more than the 24"),
        (["cat"], "a photo", "prompt.tokens=4 words"),
        (["cat"], "antidisestablishmentarianism of the photo", "one token each"),
    ],
)
def test_texts_that_do_not_fit_are_refused(names: list[str], words: str | None, sentence: str):
    encoder = clip_backbone(build_clip()).text
    with pytest.raises(UserError, match=sentence):
        layout(encoder, names, 4, words)


def test_long_texts_are_not_cut_silently():
    encoder = clip_backbone(build_clip()).text
    with pytest.raises(UserError, match="does not fit into 24 tokens"):
        encoder.features(["a photo of a " + "very " * 30 + "small cat."])


def test_towers_that_take_no_embeddings_are_refused_by_name():
    encoder = clip_backbone(build_clip()).text
    encoder.tower, encoder.refusal = None, "its text tower does not accept embeddings (HFTextEncoder)"
    with pytest.raises(UserError, match=r"HFTextEncoder.*prompt=deep"):
        Contexts(encoder, NAMES, 4)
