"""From a request and its adapter to the engine's request: template, prompt, tokens, and parameters."""

from __future__ import annotations

from manyhats.backbone import Backbone, Text, Tokenizer
from manyhats.core.kinds.base import Preparing
from manyhats.core.kinds.generate import GenerateParameters
from manyhats.core.sequence import Request, Sequence
from manyhats.serving.chat import chat_prompt
from manyhats.serving.generation import Generation, GenerationContext
from manyhats.serving.inference import RequestState
from manyhats.serving.inputs import Prepared, PromptTruncation, prepare, prepare_prompt, prepare_tokens


class Preparation:
    """Fills in `prepared` and `engine_request` of requests. May be used from any thread.

    `generation`: for backbones with a causal language-model head.
    """

    def __init__(self, backbone: Backbone, generation: Generation | None) -> None:
        self.backbone = backbone
        self.generation = generation

    def prepare(self, state: RequestState) -> None:
        """Raises InvalidRequest or InputTooLong for what the task or the backbone does not support."""
        positions = self.backbone.max_tokens - state.adapter.position_offset
        if (parameters := state.generate_parameters) is not None:
            self._prepare_generation(state, parameters, positions)
        else:
            self._prepare_pass(state, min(state.settings.max_tokens or positions, positions))

    def _prepare_pass(self, state: RequestState, max_tokens: int) -> None:
        """The tokens of each text for one pass, and its pooling parameters."""
        kind, texts, parameters = state.task_kind, state.request.texts, state.parameters
        preparing = Preparing(state.settings, state.adapter, self.backbone, max_tokens)
        kind.check_texts(texts, parameters, preparing)
        if state.request.prompts is not None:
            state.prepared = prepare_tokens(
                state.request.prompts,
                vocabulary=int(self.backbone.config.vocab_size),
                max_tokens=max_tokens,
                truncate=state.truncates,
            )
        else:
            state.prepared = prepare(
                self.backbone.tokenizer,
                texts,
                template=state.settings.template,
                max_tokens=max_tokens,
                truncate=state.truncates,
                transform=kind.text_transform(parameters, preparing),
            )
        encoded = state.prepared.encoded
        params = kind.pooling_params(encoded, parameters, preparing)
        state.engine_request = Request(
            state.version.task,
            [
                Sequence(state.adapter, one.ids, own, one.type_ids, index)
                for index, (one, own) in enumerate(zip(encoded, params, strict=True))
            ],
            digest=(state.effective_version or state.version).sha256,
            priority=state.settings.priority,
        )

    def _prepare_generation(self, state: RequestState, parameters: GenerateParameters, positions: int) -> None:
        """The prompts and the sequences to generate. `positions`: the maximum tokens of a sequence."""
        assert self.generation is not None, "a task that generates on a backbone that cannot"
        new_tokens = min(parameters.max_new_tokens, 1)  # at least one, where any are requested
        max_tokens = min(state.settings.max_tokens or positions, positions - new_tokens)
        vocabulary = self.generation.vocabulary
        state.prepared = _prompts(state, parameters, self.backbone.tokenizer, vocabulary, max_tokens)
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


def _prompts(
    state: RequestState, parameters: GenerateParameters, tokenizer: Tokenizer, vocabulary: int, max_tokens: int
) -> Prepared:
    """The tokens of the prompts of a task that generates. Raises InputTooLong or InvalidRequest."""
    request, settings, truncate = state.request, state.settings, state.truncates
    truncation = _prompt_truncation(parameters, max_tokens)
    if request.chat is not None:
        prompt = chat_prompt(
            tokenizer,
            request.chat,
            template=settings.chat_template,
            system_prompt=settings.system_prompt,
            options=request.chat_options,
        )
        if not request.chat_options.add_special_tokens:
            return prepare_prompt(tokenizer, prompt, max_tokens=max_tokens, truncate=truncate, truncation=truncation)
        texts, template = [Text(prompt)], None
    elif request.prompts is not None:
        return prepare_tokens(
            request.prompts, vocabulary=vocabulary, max_tokens=max_tokens, truncate=truncate, truncation=truncation
        )
    else:
        texts, template = list(request.texts), settings.template
    return prepare(tokenizer, texts, template=template, max_tokens=max_tokens, truncate=truncate, truncation=truncation)


def _prompt_truncation(parameters: GenerateParameters, max_tokens: int) -> PromptTruncation | None:
    """How prompts are truncated; -1 keeps as many tokens as fit with the new ones.

    `max_tokens`: of a prompt, with one new token.
    """
    kept = parameters.truncate_prompt_tokens
    if kept is None:
        return None
    if kept < 0:
        fits = max_tokens + min(parameters.max_new_tokens, 1) - parameters.max_new_tokens
        kept = fits if fits > 0 else max_tokens
    return PromptTruncation(kept, parameters.truncation_side)
