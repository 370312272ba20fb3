"""Every method by name. A new one is a file and a line here."""

from __future__ import annotations

from sparsight.baselines.asyrp import Asyrp
from sparsight.baselines.boundary import BoundaryDiffusion
from sparsight.baselines.casl import Casl, CaslDecoderAtom, CaslNoSae, CaslRandomDirection, CaslRandomLatent
from sparsight.baselines.casl_state import CaslState
from sparsight.baselines.data import FitData
from sparsight.baselines.detect_and_replace import DetectAndReplace
from sparsight.baselines.difference import MeanDifference
from sparsight.baselines.difflens import DiffLens
from sparsight.baselines.haas import HaasJacobian, HaasPca, HaasSupervised
from sparsight.baselines.masactrl import MasaCtrl
from sparsight.baselines.method import NEEDS, Editor, Method
from sparsight.baselines.park import ParkPullback
from sparsight.baselines.prompt_to_prompt import PromptToPrompt
from sparsight.baselines.random_edits import RandomDirection, RandomLatent
from sparsight.baselines.saeuron import Saeuron
from sparsight.baselines.slider import ImageSlider
from sparsight.baselines.surkov import SurkovFeatures
from sparsight.baselines.swiftedit import SwiftEdit
from sparsight.baselines.text_slider import TextSlider
from sparsight.baselines.tinaz import TinazGlobal, TinazSpatial
from sparsight.concepts.concept import Concept
from sparsight.errors import SparsightError, unknown

METHODS: dict[str, type[Method]] = {
    m.name: m
    for m in (
        RandomDirection,
        RandomLatent,
        MeanDifference,
        BoundaryDiffusion,
        HaasSupervised,
        HaasPca,
        HaasJacobian,
        ParkPullback,
        Asyrp,
        ImageSlider,
        DiffLens,
        Saeuron,
        Casl,
        CaslRandomLatent,
        CaslRandomDirection,
        CaslDecoderAtom,
        CaslNoSae,
        CaslState,
        SurkovFeatures,
        TinazGlobal,
        TinazSpatial,
        PromptToPrompt,
        MasaCtrl,
        TextSlider,
        DetectAndReplace,
        SwiftEdit,
    )
}  # fmt: skip


def method(name: str, **options: object) -> Method:
    """A method by name with options of its own. Raises `SparsightError` for a name or an option that does not exist."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    known = getattr(METHODS[name], "__dataclass_fields__", {})
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    return METHODS[name](**options)


def applicable(chosen: Method, data: FitData, concept: Concept | None = None) -> str | None:
    """None where the method can work on these data, else why not, in words that follow "not applicable: ".

    With a concept: whether it can edit this one.
    """
    missing = [NEEDS[need] for need in sorted(chosen.needs) if not data.has(need)]
    if missing:
        return f"it needs {' and '.join(missing)}"
    why = chosen.refusal(data)
    return chosen.unfit(concept) if why is None and concept is not None else why


def fit(chosen: Method, concept: Concept, data: FitData) -> Editor:
    """Fit a method to a concept, showing it what it declared and nothing else.

    Raises `SparsightError` where it is not applicable, saying why.
    """
    why = applicable(chosen, data, concept)
    if why is not None:
        raise SparsightError(f"{chosen.title} is not applicable: {why}")
    return chosen.fit(concept, data.only(chosen.needs))
