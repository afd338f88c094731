"""Transfer learning: freeze a backbone, train its classifier anew on balanced batches, or rescale the classifier.

A representation is learnt best from all rows as they come; it is the classifier on top that suffers from the prior
[1]_.  So train naturally, then give the classifier another look:

>>> model = fit(model, natural_batches, loss=cross_entropy, epochs=20).model          # doctest: +SKIP
>>> retrain_classifier(model, model.classifier)                                       # doctest: +SKIP
>>> model = fit(model, uniform_batches, loss=cross_entropy, epochs=5).model           # doctest: +SKIP

where `uniform_batches = make_torch_loader(path, 4096, balance="uniform")`; or, without any training:

>>> tau_normalize(model.classifier, tau=0.7)                                          # doctest: +SKIP

References
----------
.. [1] Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from sparkimb.errors import SparkimbError

_HOOK = "_sparkimb_frozen"


def freeze(module: nn.Module) -> None:
    """Keep a module as it is while the rest of a model trains.

    Its parameters take no gradient, and it runs in evaluation mode whatever the model's: dropout is off, and batch
    norms keep the statistics they have.
    """
    module.requires_grad_(False)
    if not hasattr(module, _HOOK):
        setattr(module, _HOOK, module.register_forward_pre_hook(_evaluate))


def unfreeze(module: nn.Module) -> None:
    """Let a module train again, parts frozen on their own included."""
    module.requires_grad_(True)
    for part in module.modules():
        if hasattr(part, _HOOK):
            getattr(part, _HOOK).remove()
            delattr(part, _HOOK)
            part.train(module.training)


def reinitialize(module: nn.Module) -> None:
    """Draw the parameters of a module anew, each layer by its own `reset_parameters`, from torch's generator.

    Raises
    ------
    SparkimbError
        If some layer has parameters of its own and no such method.
    """
    for name, part in module.named_modules():
        reset = getattr(part, "reset_parameters", None)
        if reset is not None:
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            raise SparkimbError(
                f"Layer '{name}' ({type(part).__name__}) has no reset_parameters. Initialise it by hand."
            )


def retrain_classifier(model: nn.Module, classifier: nn.Module) -> None:
    """Make a trained model ready for the second stage of cRT: all frozen but the classifier, which starts anew.

    Train it then on class-balanced batches, with a loss that does not correct for the prior.

    Parameters
    ----------
    classifier : nn.Module
        A part of the model, such as `model.classifier`.

    References
    ----------
    .. [1] Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020.
    """
    inside = set(classifier.modules())
    around = {part for part in model.modules() if inside & set(part.modules())} - inside
    if model not in around:
        raise SparkimbError("The classifier is no part of the model. Name one of its layers: model.classifier.")
    model.requires_grad_(False)
    for part in around:
        for child in part.children():
            if child not in around and child is not classifier:
                freeze(child)
    unfreeze(classifier)
    reinitialize(classifier)


@torch.no_grad()
def tau_normalize(classifier: nn.Linear, tau: float = 1.0) -> None:
    """Divide each class's weights by their norm to the power tau, and drop the bias, in place.

    Rare classes come out of natural training with smaller norms; 0 leaves these, 1 makes all alike.  It corrects for
    the prior with no training and one number, which is chosen by a metric on validation rows; keep the weights to try
    more than one.

    Parameters
    ----------
    classifier : nn.Linear
        With an output per class; one output for two classes has one norm, and nothing to even out.
    tau : float in [0, inf), default=1.0

    References
    ----------
    .. [1] Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020.
    """
    if not isinstance(classifier, nn.Linear):
        raise TypeError(f"The classifier is a {type(classifier).__name__}. It must be the nn.Linear that gives logits.")
    if classifier.out_features < 2:
        raise SparkimbError("The classifier has one output. tau-normalisation needs an output per class.")
    if not 0 <= tau < math.inf:
        raise SparkimbError(f"tau is {tau}. It must be in [0, inf).")
    classifier.weight /= classifier.weight.norm(dim=1, keepdim=True) ** tau
    if classifier.bias is not None:
        classifier.bias.zero_()


def _evaluate(module: nn.Module, _: object) -> None:
    module.eval()
