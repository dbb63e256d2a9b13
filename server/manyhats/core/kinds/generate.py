"""Text that follows a prompt, token by token.

`serving.generation` makes the engine's requests, and their answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor
from torch.nn import functional as F

from manyhats.backbone import Text
from manyhats.core.kinds.base import Answer, Kind, LibraryNames, Output, Parameters, Rendered
from manyhats.core.kinds.examples import EncodedExample, Example, NonEmptyText, TextRow
from manyhats.core.kinds.fields import STOP_AT_FIRST, Integer, Token, at_most
from manyhats.core.kinds.metrics import Metric, Score, ratio, share
from manyhats.core.kinds.training import KindTraining, TargetScale
from manyhats.errors import AdapterMismatch, InvalidRequest
from manyhats.messages import short_repr

if TYPE_CHECKING:
    from manyhats.backbone import Backbone

# Parameters of structured output, of which a request may have one.
STRUCTURED_OUTPUTS = ("response_format", "regex", "choice", "grammar")

_MAX_STOPS = 16
_MAX_BIASES = 1000
_MAX_STOP_TOKENS = 1000
_MAX_ALLOWED_TOKENS = 1 << 18
_MAX_WORDS = 1000
_MAX_CHOICES = 1000


def _stops(value: Any) -> Any:
    """One stop string or many; an empty one stops nothing."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = [one for one in value if one != ""]
        if len(value) > _MAX_STOPS:
            raise PydanticCustomError("too_long", "at most {most} stop strings", {"most": _MAX_STOPS})
    return value


def _token_name(value: str) -> str:
    if not (value.isascii() and value.isdigit() and len(value) <= 10):
        raise PydanticCustomError(
            "token_name", "goes from token numbers to numbers, not from {got}", {"got": short_repr(value)}
        )
    return value


StopTokens = Annotated[list[Token], STOP_AT_FIRST, BeforeValidator(at_most(_MAX_STOP_TOKENS))]
AllowedTokens = Annotated[list[Token], STOP_AT_FIRST, BeforeValidator(at_most(_MAX_ALLOWED_TOKENS))]
Stops = Annotated[
    list[Annotated[str, Field(max_length=1000)]],
    STOP_AT_FIRST,
    BeforeValidator(_stops, json_schema_input_type=str | list[str]),
]
Words = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1000)]], STOP_AT_FIRST, BeforeValidator(at_most(_MAX_WORDS))
]
Choices = Annotated[
    list[Annotated[str, Field(max_length=10_000)]], STOP_AT_FIRST, BeforeValidator(at_most(_MAX_CHOICES))
]
Biases = Annotated[
    dict[Annotated[str, AfterValidator(_token_name)], Annotated[float, Field(ge=-100, le=100)]],
    BeforeValidator(at_most(_MAX_BIASES)),
]


class GenerateParameters(Parameters):
    """See docs/generation.md. `temperature` 0 selects the likeliest token; `top_k` 0 keeps all.

    `max_new_tokens` may be 0 where `prompt_logprobs` is set. `stream`: the answer comes in chunks (see the web
    layer). `include_stop`: the stop string, or the stop token that the request names, stays in the text. An
    integer may be written as 3.0; null is as if a parameter were not given.
    """

    max_new_tokens: Annotated[Integer, Field(ge=0, le=1_000_000)] = 64
    min_tokens: Annotated[Integer, Field(ge=0, le=1_000_000)] = 0
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    top_k: Annotated[Integer, Field(ge=0)] = 0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: Biases = Field(default_factory=dict)
    allowed_token_ids: AllowedTokens | None = None
    bad_words: Words = Field(default_factory=list)
    seed: Annotated[Integer, Field(ge=-(1 << 63), lt=1 << 64)] | None = None
    stop: Stops = Field(default_factory=list)
    stop_token_ids: StopTokens = Field(default_factory=list)
    include_stop: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    n: Annotated[Integer, Field(ge=1, le=128)] = 1
    logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[Integer, Field(ge=0, le=20)] | None = None
    truncate_prompt_tokens: Annotated[Integer, Field(ge=-1, le=1 << 31)] | None = None
    truncation_side: Literal["left", "right"] = "left"
    response_format: dict[str, Any] | None = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    stream: bool = False

    @model_validator(mode="after")
    def _coherent(self) -> GenerateParameters:
        forms = [name for name in STRUCTURED_OUTPUTS if getattr(self, name) is not None]
        if len(forms) > 1:
            raise ValueError(f"an answer has one form; {' and '.join(forms)} are given")
        if self.max_new_tokens == 0 and self.prompt_logprobs is None:
            raise ValueError("max_new_tokens is 0, and nothing is asked about the prompt; set prompt_logprobs, or echo")
        if self.min_tokens > self.max_new_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}, more than max_new_tokens, {self.max_new_tokens}")
        for name in ("choice", "allowed_token_ids"):
            if getattr(self, name) == []:
                raise ValueError(f"{name} is empty, which leaves nothing to write; leave it out")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens is 0, which leaves no prompt; give how many tokens are kept")
        return self

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token."""
        return {int(token): value for token, value in self.logit_bias.items()}

    @property
    def compiles(self) -> bool:
        """Whether they need a grammar, or a mask of the vocabulary."""
        structured = any(getattr(self, name) is not None for name in STRUCTURED_OUTPUTS)
        return structured or bool(self.bad_words) or self.allowed_token_ids is not None

    @property
    def sequences(self) -> int:
        """One for each completion of a prompt."""
        return self.n

    def seed_of(self, index: int) -> int | None:
        """The seed of one of a prompt's completions, 0 to 2^64 - 1; None for a random one, which -1 means too."""
        return None if self.seed in (None, -1) else (self.seed + index) % (1 << 64)


class Generate(Kind[GenerateParameters]):
    """Generated text, by the backbone's language-model head."""

    name = "generate"
    lm_head = True
    generates = True
    fields = (("text", "text"), ("finish_reason", "text"), ("tokens", "json"))
    parameters = GenerateParameters
    libraries = LibraryNames(
        peft="CAUSAL_LM",
        model_classes=("LMHeadModel", "ForCausalLM"),
        auto_class="AutoModelForCausalLM",
        pipeline="text-generation",
    )

    def possible_on(self, backbone: Backbone) -> bool:
        """On backbones with a causal language-model head."""
        return backbone.has_language_model

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises AdapterMismatch where the backbone has no language-model head."""
        if not backbone.has_language_model:
            raise AdapterMismatch(
                f"the adapter is for generating text, but the backbone {backbone.name} has no language-model head",
                param="kind",
            )

    def merge_parameters(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Null means not given; the request's structured output replaces the task's."""
        given = {name: value for name, value in given.items() if value is not None}
        dropped = STRUCTURED_OUTPUTS if any(name in given for name in STRUCTURED_OUTPUTS) else ()
        defaults = {name: value for name, value in defaults.items() if value is not None and name not in dropped}
        return super().merge_parameters(defaults, given)

    def render(self, output: Output, parameters: GenerateParameters, rendered: Rendered) -> Answer:
        """Never called: one pass does not answer a task that generates (see `generates`)."""
        raise TypeError("tokens are answered by serving.generation")


_UNLIMITED = 1 << 30  # tokens


_EXACT = Metric("exact match", "exact_match", proportion=True, more_is_better=True)


class AnswerRow(TextRow):
    """A prompt's text with its answer."""

    target: NonEmptyText

    def example(self) -> Example:
        return Example(self.text, self.pair, (), self.target)


class GenerateTraining(KindTraining):
    """A text as the answer to a prompt: cross entropy of the answer's tokens, each given all before it."""

    name = "generate"
    served_as = Generate()
    row = AnswerRow
    metric = Metric("loss per token of the answer", "loss")
    takes_template = True
    causal = True
    serves_max_tokens = False  # the limit is for prompt and answer together
    evaluated_at_once = 16  # the logits of all answers over the whole vocabulary would not fit
    unit = "tokens"
    asked: ClassVar[Mapping[str, Any]] = {"truncate": True, "temperature": 0.0, "n": 1, "max_new_tokens": 128}

    def check_backbone(self, backbone: Backbone) -> None:
        if not backbone.has_language_model:
            raise InvalidRequest(f"the backbone {backbone.name} cannot generate text", param="kind")

    def encode(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        backbone: Backbone,
        max_tokens: int,
        template: str | None = None,
    ) -> list[EncodedExample]:
        """Prompt, answer and, where the backbone has one, the token that ends a text."""
        texts = [Text((template or "{text}").replace("{text}", e.text), e.pair) for e in examples]
        end = sorted(backbone.eos_token_ids)[:1]
        made = []
        for prompt, example in zip(backbone.tokenizer.encode(texts, _UNLIMITED), examples, strict=True):
            answer = [*backbone.tokenizer.encode_bare(str(example.target), _UNLIMITED).ids, *end]
            ids = [*prompt.ids, *answer]
            kept = ids[:max_tokens]
            if len(kept) <= len(prompt.ids):
                raise InvalidRequest(
                    f"the prompt '{example.text[:60]}' has {len(prompt.ids)} tokens; max-tokens is {max_tokens}, which "
                    "leaves no room for its answer",
                    param="max_tokens",
                )
            positions = tuple(range(len(prompt.ids) - 1, len(kept) - 1))
            target = kept[len(prompt.ids) :]
            made.append(EncodedExample(kept, [0] * len(kept), target, len(ids) > len(kept), positions))
        return made

    @property
    def answer_metric(self) -> Metric:
        return _EXACT

    def judged(self, answers: Sequence[Answer], examples: Sequence[Example]) -> Score:
        """The share of the likeliest texts that are the answer, but for space around it."""
        pairs = zip(answers, examples, strict=True)
        return share(_EXACT, [a["text"].strip() == str(e.target).strip() for a, e in pairs])

    def target_count(self, batch: Sequence[EncodedExample]) -> int:
        return sum(len(example.label_positions) for example in batch)

    def loss(
        self,
        outputs: Sequence[Tensor],
        batch: Sequence[EncodedExample],
        weights: Tensor | None = None,
        scale: TargetScale | None = None,
    ) -> Tensor:
        targets = torch.tensor([t for example in batch for t in example.target], device=outputs[0].device)  # type: ignore[union-attr]
        return F.cross_entropy(torch.cat(list(outputs)).float(), targets)

    def score(self, outputs: Sequence[Tensor], examples: Sequence[EncodedExample]) -> Score:
        sums = [
            float(F.cross_entropy(o.float(), torch.tensor(e.target, device=o.device), reduction="sum"))
            for o, e in zip(outputs, examples, strict=True)
        ]
        counts = [len(example.label_positions) for example in examples]
        return ratio(self.metric, list(zip(sums, counts, strict=True)), sum(counts))
