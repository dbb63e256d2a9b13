"""The methods by name, and the compositions by format. A new one is a module and a line here."""

from typing import Any

from manyhats.methods.average import Average
from manyhats.methods.average.composition import AVERAGE
from manyhats.methods.base import Method
from manyhats.methods.bottleneck import Bottleneck
from manyhats.methods.composition import Composition
from manyhats.methods.full_parameters import Parameters
from manyhats.methods.fusion import Fusion
from manyhats.methods.fusion.composition import FUSION
from manyhats.methods.ia3 import Ia3
from manyhats.methods.invertible import Invertible
from manyhats.methods.lora import Lora
from manyhats.methods.mask import Mask
from manyhats.methods.prefix import Prefix
from manyhats.methods.prompt import Prompt
from manyhats.methods.side import Side
from manyhats.methods.sparse import Sparse
from manyhats.methods.stack import STACK
from manyhats.methods.token_rows import TokenRows

METHODS: dict[str, Method[Any]] = {
    method.name: method
    for method in (
        Lora(),
        Bottleneck(),
        Fusion(),
        Average(),
        Invertible(),
        Prefix(),
        Prompt(),
        Ia3(),
        Parameters(),
        Sparse(),
        Side(),
        TokenRows(),
        Mask(),
    )
}

COMPOSITIONS: dict[str, Composition] = {composition.format: composition for composition in (FUSION, STACK, AVERAGE)}
