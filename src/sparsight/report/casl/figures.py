"""What each figure is called, which way is better, and what it means in one sentence."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One column: its key in metrics.json, label, better direction ("higher", "lower" or "") and definition."""

    key: str
    label: str
    better: str
    meaning: str
    unit: str = ""


METHOD_FIGURES = (
    Figure("epr", "EPR", "higher", "Editing precision ratio: mean absolute change of the target's logit, divided by that of "
           "all other attributes. It does not see the direction of the change; compare methods within one concept and "
           "one classifier."),
    Figure("true_epr", "true EPR", "higher", "The same ratio in changed decisions instead of logits, with half a flip "
           "added to the damage. Free of the logit scale; compare at equal n."),
    Figure("signed_change", "signed change", "higher", "Mean change of the target's logit in the wanted direction. Below "
           "zero, the edit went the wrong way."),
    Figure("flip_rate", "flip rate", "higher", "Of the images that did not show the wanted decision before, the share "
           "that does afterwards.", "%"),
    Figure("worst_damage", "worst damage", "lower", "The non-target attribute whose logit changed most. A maximum picked "
           "after looking: its interval is on the low side."),
    Figure("lpips", "perceptual distance", "lower", "Distance of the features of a network before and after. No edit "
           "at all has distance 0: read it at equal flip rate."),
    Figure("identity", "identity", "higher", "Cosine of two embeddings of a recognition network. No edit at all has "
           "identity 1: read it at equal flip rate."),
    Figure("clip", "CLIP score", "higher", "100 times the cosine of the edited image and the target text."),
    Figure("directional_clip", "directional CLIP", "higher", "Cosine of the change of the image and the change of the "
           "text. The alignment was trained on this kind of score: read the classifiers first."),
    Figure("counterfactual_gain", "counterfactual gain", "higher", "How much of the pixel distance to the true "
           "counterfactual the edit closes: 1 is the counterfactual itself, 0 is no nearer than before, below 0 is "
           "further away."),
    Figure("inside_share", "inside share", "higher", "Share of all pixel change that falls where the true counterfactual "
           "changes too.", "%"),
    Figure("strength", "strength", "", "Mean norm of the shift over the norm of the activation, so that methods can be "
           "compared at equal strength."),
)  # fmt: skip

SAE_FIGURES = (
    Figure("expansion", "expansion", "", "Number of latents over number of channels."),
    Figure("mse", "MSE", "lower", "Mean squared reconstruction error, in activation units."),
    Figure("cosine", "cosine", "higher", "Mean cosine of tokens and their reconstructions.", "fine"),
    Figure("fve", "FVE", "higher", "Fraction of variance explained.", "fine"),
    Figure("l0", "L0", "lower", "Mean number of active latents in a token."),
    Figure("dar", "DAR", "lower", "L0 as a share of all latents. (Not a rate of dead latents.)", "%"),
    Figure("dead", "dead", "lower", "Share of latents that were never active on the held-out tokens.", "%"),
)

GENERAL = (
    Figure("interval", "95\u00a0% interval", "", "Percentile bootstrap over images, 1000 draws. It holds the spread over "
           "images only: another seed or classifier may move a figure by more."),
    Figure("mean", "mean over concepts", "", "The plain mean of the concepts' figures; its interval joins theirs as if "
           "they were independent. Logit scales differ between concepts, so it is a summary, not a measurement."),
    Figure("ratio", "CASL over a control", "", "Ratio of the two EPRs on the same bootstrap draws: above 1, CASL is more "
           "precise; an interval that holds 1 does not tell the two apart."),
    Figure("probe", "probe accuracy", "higher", "Linear SVM on a concept's top latents, balanced classes, five folds; "
           "chance is 50\u00a0%. Shuffled: the same probe on permuted labels."),
    Figure("spearman", "Spearman", "", "Rank correlation over all pairs of concept and method. The pairs share images, "
           "so the interval is too narrow."),
)  # fmt: skip
