"""What beta is under each normaliser for a push of two mean norms, by stage: python examples/betas.py runs/scenes0"""

import sys

from sparsight.pipeline.emergence.edits import tokens_of
from sparsight.pipeline.emergence.recipe import STAGES
from sparsight.pipeline.emergence.run import EmergenceRun, stream_name
from sparsight.steering import NORMALISERS
from sparsight.steering.concept_edit import normalised

STRENGTH = 2.0

run = EmergenceRun.open_own(sys.argv[1])
edit = run.recipe.layout
print(f"{edit.site}, k = {edit.k}, one latent, strength {STRENGTH:g}")
print("stage   " + "".join(f"{name:>16}" for name in NORMALISERS))
for stage in STAGES:
    tokens = tokens_of(run, edit.site, stage)
    sae = run.sae(stream_name(edit.site, stage, "cond"), edit.k)
    norms, push = sae.encode(tokens).norm(dim=-1), STRENGTH * tokens.norm(dim=-1).mean() / sae.W_dec.norm(dim=1).mean()
    print(f"{stage:8}" + "".join(f"{float(push / normalised(norms, name).mean()):16.1f}" for name in NORMALISERS))
