"""The box of the clinic's start page: what a person types leads to the entry that helps."""

import pytest

from tests.cases import each
from tests.diagnosis.messages import WRITTEN

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# What is typed, and the entries that help. One of them must be the first that is shown ...
FIRST = {
    "loss is finite but all weights become nan after the first step": "nan-risk",
    "the .grad of my parameter is None after backward()": "unused-input detached left-torch",
    "weights not updating": "leaf-output reassigned accumulates",
    "weights do not change": "leaf-output reassigned accumulates",
    "my model is not learning": "leaf-output reassigned accumulates",
    "not training": "leaf-output reassigned accumulates",
    "loss not decreasing": "leaf-output reassigned accumulates",
    "parameters never update": "reassigned leaf-output",
    "loss never changes": "leaf-output reassigned",
    "loss stays the same": "leaf-output",
    "nan from the second step on": "nan-risk non-finite",
    "grad is none": "not-a-leaf unused-input",
    "x.grad is None after backward": "not-a-leaf unused-input",
    "gradients are zero": "dead-relu zero-derivative half-precision",
    "vanishing gradients": "dead-relu zero-derivative half-precision saturated",
    "gradient is always 0": "dead-relu zero-derivative half-precision",
    "exploding gradient": "exploding",
    "clip_grad_norm_": "exploding",
    "masked softmax nan": "masked-softmax",
    "out of memory during validation": "evaluation",
    "gradient accumulation": "undivided accumulates",
    "GAN generator discriminator": "gan-step",
    "loss becomes inf": "non-finite",
    "NaN gradients with sqrt": "nan-risk",
    "CUDA out of memory": "growing-graph",
    "memory leak": "growing-graph",
    "training gets slower each iteration": "growing-graph",
    "retain_graph": "freed",
    "backward twice": "freed",
    "lstm hidden state second step error": "freed",
    "in place relu": "modified-in-place",
    "leaf variable in place": "leaf-in-place",
    "zero_grad": "accumulates",
    "gradient doubles every step": "accumulates",
    "GradScaler": "scaler",
    "mixed precision underflow": "half-precision",
    "loss.item()": "not-a-tensor left-torch",
    "convert tensor to numpy": "numpy",
    "argmax gradient": "not-differentiable",
    "ddp unused parameters": "data-parallel",
    "check point": "checkpoint",
    "hook not called": "hook",
    "double backward": "once-differentiable compiled cudnn-rnn constant-gradient",
    "empty parameter list": "parameters",
    "deep copy of a tensor": "deepcopy",
    "frozen model does not require grad": "no-graph input-without-grad",
    "ram usage keeps increasing during training": "growing-graph",
    "backward is very slow": "slow-slices",
    "plot loss matplotlib requires grad": "numpy",
    "freeze layers": "requires-grad-of-non-leaf no-graph",
    "how to clip gradients": "exploding",
    "quantization straight through estimator": "zero-derivative",
    "gradcheck fails": "gradcheck",
    "gradient penalty wgan not working": "penalty-detached",
    "expected float but got double": "mixed-dtypes",
    "pinn derivative of a column is None": "unused-input",
    "nan loss": "non-finite",
    "encoder does not learn": "detached",
    "backbone gets no gradient": "detached",
    "encoder weights get no gradient": "detached",
    "loss term has no effect": "detached penalty-detached",
    "topk indices gradient": "not-differentiable",
    "learnable weight not among parameters()": "not-a-leaf parameters",
    "forward hook not called": "hook",
    "numpy array reused wrong gradient": "changed-behind",
    "new classification head not learning fine-tuning": "reassigned",
    "second iteration fails backward": "freed",
    "embedding padding token never updates": "nothing-selected",
    "dqn target network gradient": "moving-target",
    "teacher student distillation teacher gets gradients": "moving-target",
    "AttributeError: 'NoneType' object has no attribute 'sign'": "grad-is-none",
    "manual sgd update does nothing": "reassigned",
    "optimizer step has no effect": "accumulates reassigned leaf-output",
    "image gradient none saliency": "input-without-grad",
    "adversarial attack x.grad none": "not-a-leaf",
    "transformer loss nan with padding mask": "masked-softmax",
    "kl divergence nan": "non-finite nan-risk",
    "arccos gradient nan": "nan-risk",
    "IoU loss does not train": "not-differentiable",
    "dice loss requires_grad false": "no-graph not-differentiable",
    "sampling from categorical no gradient": "not-differentiable",
    "gradient through integer indexing": "not-differentiable",
    "masked_fill_ error backward": "modified-in-place",
    "x[:,0] = 0 backward error": "modified-in-place",
    "hessian is zero": "zero-derivative",
    "memory increases when I store predictions in a list": "growing-graph",
    "bert frozen but still changes": "input-without-grad",
    "tensor to list then back to tensor gradient lost": "copied left-torch",
    "numpy function in the middle of forward": "left-torch",
    "how to detach hidden state": "freed",
    "two losses one encoder backward error": "freed",
    "clamp weights data wgan wrong gradient": "changed-behind",
    "load_state_dict during training error": "modified-in-place",
    "ema update inplace error": "modified-in-place",
    "inplace dropout error": "modified-in-place",
    "reduction none backward error": "non-scalar",
    "hook signature": "hook",
    "backward takes 2 positional arguments but 3 were given": "function-form hook",
    "gradcheck with dropout": "gradcheck",
    "loss scaled by accumulation steps": "undivided",
    "loss counted twice": "accumulates",
    "target size different to input size broadcasting warning": "broadcast",
    "softmax before CrossEntropyLoss": "probabilities",
    "sigmoid and BCEWithLogitsLoss": "probabilities",
    "softmax applied twice": "probabilities",
    "cross entropy loss is negative": "probabilities",
    "fsdp storage of size 0": "data-parallel",
    "multiprocessing non-leaf tensor queue": "deepcopy",
    "flash attention double backward": "not-implemented",
    "hook keeps graph alive": "growing-graph",
    "memory not freed after backward": "growing-graph",
}
# ... or one of the first three, where other entries have the same words.
AMONG_THREE = {
    "clip_grad_norm_ sparse embedding": "sparse-gradient",
    "gradient clipping": "exploding",
    "loss doesn't go down": "leaf-output reassigned accumulates",
    "detach": "detached",
    "torch.tensor of a list of tensors": "copied",
    "model does not learn": "leaf-output reassigned accumulates",
    "sqrt gradient nan at zero": "nan-risk",
    "relu outputs all zero": "dead-relu",
}
FOUND = """typed => {
  const box = document.querySelector(".finder textarea")
  box.value = typed
  box.dispatchEvent(new Event("input"))
  const rows = [...document.querySelectorAll(".finder tbody tr")]
  const links = rows.filter(row => row.checkVisibility()).map(row => row.querySelector("a[href]"))
  return links.map(link => link.hash.slice(1))
}"""


@pytest.fixture(scope="module")
def page(new_page, address):
    page = new_page()
    page.goto(f"{address}clinic/", wait_until="networkidle")  # what explain knows comes later
    yield page
    page.close()


@pytest.fixture(scope="module")
def find(page):
    """Types a text into the box, and gives the entries of the rows that are shown, in order."""
    return lambda typed: list(dict.fromkeys(page.evaluate(FOUND, typed)))


@each(("typed", "wanted"), FIRST.items())
def test_what_a_person_types_leads_first_to_an_entry_that_helps(find, typed, wanted):
    assert find(typed)[0] in wanted.split()


@each(("typed", "wanted"), AMONG_THREE.items())
def test_where_others_have_the_same_words_it_is_among_the_first_three(find, typed, wanted):
    assert set(find(typed)[:3]) & set(wanted.split())


@pytest.mark.parametrize(
    "alike",
    [
        ("inplace", "in-place", "in place", "In-Place"),
        ("memory grow", "memory grows", "memory growing"),
        ("parameter", "parameters", "weights", "param"),
        ("zero grad", "zero_grad", "zero-grad", "zero_grad()"),
        ("training slower", "trains slow", "each epoch slower"),
    ],
    ids=lambda alike: alike[0],
)
def test_hyphens_forms_of_a_word_and_words_for_the_same_make_no_difference_to_the_first(
    find, alike
):
    assert len({find(typed)[0] for typed in alike}) == 1


def test_a_message_that_explain_knows_leads_to_its_entry_and_tells_its_cure(find, page):
    for code, message in WRITTEN:
        shown = find(f"Traceback (most recent call last):\nRuntimeError: {message}")
        assert shown[0] == code, message
        assert ". In short: " in page.locator(".finder [role=status]").inner_text()


def test_words_that_a_message_has_too_are_not_taken_for_it_in_a_longer_sentence(find, page):
    status = page.locator(".finder [role=status]")
    for typed, is_message in {
        "loss is nan": True,
        "transformer loss is nan with a padding mask": False,
        "ValueError: transformer loss is nan with a padding mask": True,
    }.items():
        assert find(typed)
        assert (". In short: " in status.inner_text()) == is_message, typed


def test_words_that_no_row_has_take_none_away(find):
    assert find("xyzzy memory leak in my gnarly prog") == find("memory leak in my")
    assert find("xyzzy") == []


def test_a_traceback_whose_message_is_unknown_is_searched_by_its_message_alone(find):
    above = "Traceback (most recent call last):\n  File 'relu.py', line 3\n    hook.backward()\n"
    assert find(f"{above}RuntimeError: no memory left") == find("no memory left")


def test_of_a_message_that_no_row_has_it_is_told_that_it_may_be_about_something_else(find, page):
    status = page.locator(".finder [role=status]")
    for typed, is_unknown in {
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied": True,
        "mat1 and mat2 shapes": False,
        "RuntimeError: is a view and is being modified inplace": False,
    }.items():
        assert find(typed)
        assert ("may not be about gradients" in status.inner_text()) == is_unknown


def test_what_is_found_is_in_sight_with_the_box(new_page, address):
    page = new_page()
    page.goto(f"{address}clinic/")
    for viewport in (PHONE, DESK):
        page.set_viewport_size(viewport)
        page.get_by_label("Paste an error").fill("")
        page.evaluate("scrollTo(0, 0)")
        page.get_by_label("Paste an error").fill("has been modified by an inplace operation")
        row = page.locator(".finder tbody tr:visible").first.bounding_box()
        box = page.get_by_label("Paste an error").bounding_box()
        assert 48 < box["y"] < row["y"] + row["height"] <= viewport["height"]
    page.close()


def test_an_empty_box_shows_all_rows_in_their_order_again(find):
    every = find("")
    assert find("nan") != every
    assert find("") == every
