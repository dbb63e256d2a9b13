"""From a request and its adapter to what the engine runs: template, prompt, tokens, and their parameters."""

from __future__ import annotations

from manyhats.backbone import Backbone
from manyhats.core.sequence import PoolingParams, Request, Sequence
from manyhats.errors import InvalidRequest
from manyhats.serving.embedding import prepare_embeddings
from manyhats.serving.fills import mask_places
from manyhats.serving.generation import Generation, GenerationContext
from manyhats.serving.inference import RequestState, prompts_of
from manyhats.serving.inputs import Prepared, prepare
from manyhats.serving.parameters import EmbedParameters, GenerateParameters


class Preparation:
    """Fills in `prepared` and `engine_request` of requests. May be used from any thread.

    `generation`: for backbones that continue texts.
    """

    def __init__(self, backbone: Backbone, generation: Generation | None) -> None:
        self.backbone = backbone
        self.generation = generation

    def prepare(self, state: RequestState) -> None:
        """Raises InvalidRequest or InputTooLong for what the task or the backbone does not take."""
        longest = self.backbone.max_tokens - state.adapter.position_offset
        if state.kind == "span" and any(text.pair is None for text in state.request.texts):
            raise InvalidRequest(
                "a task of kind 'span' needs the question in 'text' and the context in 'text_pair'", param="inputs"
            )
        if isinstance(state.parameters, GenerateParameters):
            self._prepare_generation(state, state.parameters, longest)
            return
        state.prepared, params = self._tokens(state, min(state.settings.max_tokens or longest, longest))
        state.engine_request = Request(
            state.version.task,
            [
                Sequence(state.adapter, encoded.ids, own, encoded.type_ids, index)
                for index, (encoded, own) in enumerate(zip(state.prepared.encoded, params, strict=True))
            ],
            digest=(state.effective_version or state.version).sha256,
            priority=state.settings.priority,
        )

    def _tokens(self, state: RequestState, longest: int) -> tuple[Prepared, list[PoolingParams]]:
        """The tokens of each text, and what is made of them in one pass."""
        if isinstance(state.parameters, EmbedParameters):
            prepared, pooling = prepare_embeddings(
                state.request.texts,
                state.parameters,
                state.settings,
                state.adapter,
                self.backbone,
                max_tokens=longest,
                truncate=state.truncates,
            )
            return prepared, [pooling] * len(prepared.encoded)
        prepared = prepare(
            self.backbone.tokenizer,
            state.request.texts,
            template=state.settings.template,
            max_tokens=longest,
            truncate=state.truncates,
        )
        if state.kind == "fill":
            places = [mask_places(self.backbone.tokenizer, e, i) for i, e in enumerate(prepared.encoded)]
            return prepared, [PoolingParams(mask_positions=masks) for masks in places]
        return prepared, [PoolingParams()] * len(prepared.encoded)

    def _prepare_generation(self, state: RequestState, parameters: GenerateParameters, positions: int) -> None:
        """Prompts and the sequences that are to follow them. `positions`: the most tokens of a sequence."""
        assert self.generation is not None, "a task that generates on a backbone that cannot"
        added = min(parameters.max_new_tokens, 1)  # at least one token, where any are asked
        longest = min(state.settings.max_tokens or positions, positions - added)
        state.prepared = prompts_of(state, self.backbone.tokenizer, self.generation.vocabulary, longest)
        context = GenerationContext(
            state.version.task,
            (state.effective_version or state.version).sha256,
            state.adapter,
            state.settings.priority,
            state.request.listener,
            frozenset(state.settings.stop_token_ids or ()),
        )
        given = state.request.prompts is not None
        texts = [None if given else text.text for text in state.prepared.texts]
        prompts = list(zip(texts, state.prepared.encoded, strict=True))
        state.engine_request, warnings = self.generation.request(context, prompts, parameters, positions)
        state.prepared.warnings.extend(warnings)
