"""Every loss in the register keeps its promises: differentiable on chances, finite for the worst scores, deaf to padding."""
import pytest

# noqa: F401  (whose imports fill the register)
import aurl.train.adversarial, aurl.train.distill, aurl.train.objectives
from aurl.losses.base import losses
from aurl.losses.loss_checks import check_loss


@pytest.mark.parametrize('name', sorted(losses))
def test_a_loss_keeps_its_promises(name): check_loss(name)


@pytest.mark.parametrize('name', sorted(losses))
def test_a_loss_says_what_it_is(name): assert losses[name].doc and losses[name].unit
