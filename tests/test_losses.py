"Every registered loss passes `check_loss`: differentiable, finite for extreme logits, and independent of padding."
import pytest

# noqa: F401  (whose imports fill the register)
import aurl.train.adversarial, aurl.train.distill, aurl.train.objectives
from aurl.losses.base import losses
from aurl.losses.loss_checks import check_loss


@pytest.mark.parametrize('name', sorted(losses))
def test_a_loss_passes_its_checks(name):
    "The loss passes `check_loss`."
    check_loss(name)


@pytest.mark.parametrize('name', sorted(losses))
def test_a_loss_says_what_it_is(name):
    "The loss has a description and a unit."
    assert losses[name].doc and losses[name].unit
